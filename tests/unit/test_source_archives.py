"""A zip archive is a part like a folder, and damage costs only the videos that it affects."""

import logging
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stages import crop_parts
from unmask.config import Config, FacesConfig, FramesConfig, LimitsConfig
from unmask.errors import UnmaskError
from unmask.tables import PROBE, read_rows
from unmask.videos.probe import probe_shard
from unmask.videos.source import find_parts, part_name, read_metadata, video_names
from unmask.vocabulary import Status

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]

CONFIG = Config(frames=FramesConfig(per_video=3), faces=FacesConfig(size=64))


@pytest.fixture(scope="module")
def folder(
    make_video: MakeVideo, make_part: MakePart, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A part with a family, a lying clip with sound, an unreadable and an absent one."""
    part = tmp_path_factory.mktemp("data") / "part_0"
    entries = {"a.mp4": "REAL", "b.mp4": "a.mp4", "c.mov": "REAL", "no.mp4": "REAL"}
    make_part(part, entries | {"absent.mp4": "REAL"})
    make_video(part / "a.mp4", frames=12)
    make_video(part / "b.mp4", frames=12, options={"movflags": "+faststart"})
    make_video(part / "c.mov", frames=12, rotation=90, sound=True)
    (part / "no.mp4").write_bytes(b"not a video")
    return part


def archive(folder: Path, root: Path, inside: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Zip a part under its own name into another root."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"{folder.name}.zip"
    with zipfile.ZipFile(path, "w", method) as packed:
        if inside:
            packed.mkdir(inside)
        for file in sorted(folder.iterdir()):
            packed.write(file, Path(inside) / file.name)
    return path


def preprocess(part: Path, root: Path, workers: int = 1) -> dict[str, bytes]:
    """Take a part through the first three stages; return every file they write."""
    crop_parts([part], root, CONFIG, workers)
    return {path.name: path.read_bytes() for path in root.iterdir()}


@pytest.fixture(scope="module")
def of_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return preprocess(folder, tmp_path_factory.mktemp("of_folder") / "out")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("inside", ["", "dfdc_train_part_0"])
def test_an_archive_gives_the_same_bytes_as_its_folder(
    inside: str, method: int, folder: Path, of_folder: dict[str, bytes], tmp_path: Path
) -> None:
    packed = archive(folder, tmp_path / "data", inside, method)
    assert find_parts(tmp_path / "data") == {folder.name: packed}
    assert read_metadata(packed) == read_metadata(folder)
    of_archive = preprocess(packed, tmp_path / "out", workers=2)
    assert of_archive.keys() == of_folder.keys()
    for name in of_folder:
        assert of_archive[name] == of_folder[name], name
    assert len(of_folder["faces.tar"]) > 30_000  # there is something to compare
    rows = read_rows(tmp_path / "out/probe.parquet", PROBE)
    assert {row["video"]: row["status"] for row in rows} == {
        **dict.fromkeys(("a.mp4", "b.mp4", "c.mov"), Status.OK),
        "no.mp4": Status.UNREADABLE,
        "absent.mp4": Status.MISSING,
    }


def statuses(part: Path, limits: LimitsConfig | None = None) -> dict[str, tuple[str, str]]:
    table = part.parent / "probe.parquet"
    probe_shard([part], 0, 1, limits or CONFIG.limits, table)
    return {row["video"]: (row["status"], row["detail"]) for row in read_rows(table, PROBE)}


def member_start(path: Path, name: str) -> int:
    with zipfile.ZipFile(path) as packed:
        offset = packed.getinfo(name).header_offset
    lengths = struct.unpack("<HH", path.read_bytes()[offset + 26 : offset + 30])
    return offset + 30 + sum(lengths)


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_damaged_member_costs_one_video(method: int, folder: Path, tmp_path: Path) -> None:
    packed = archive(folder, tmp_path, method=method)
    start = member_start(packed, "a.mp4")
    with packed.open("r+b") as file:
        file.seek(start + 100)
        file.write(bytes(range(200)))
    found = statuses(packed)
    status, detail = found.pop("a.mp4")
    assert status == Status.UNREADABLE
    assert "a.mp4 is damaged in the archive" in detail
    assert [found[name][0] for name in ("b.mp4", "c.mov")] == [Status.OK, Status.OK]


def flag_member(path: Path, name: str, at: tuple[int, int], value: int) -> None:
    """Set two bytes in the local and in the central header of a member."""
    data = bytearray(path.read_bytes())
    local = member_start(path, name) - 30 - len(name)
    central = data.index(name.encode(), data.index(b"PK\x01\x02")) - 46
    for offset in (local + at[0], central + at[1]):
        data[offset : offset + 2] = struct.pack("<H", value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [((6, 8), 1, "encrypted"), ((8, 10), 97, "compression")],
    ids=["encrypted", "packed in an unknown way"],
)
def test_a_member_that_cannot_be_unpacked_costs_one_video(
    at: tuple[int, int], value: int, reason: str, folder: Path, tmp_path: Path
) -> None:
    packed = archive(folder, tmp_path)
    flag_member(packed, "a.mp4", at, value)
    found = statuses(packed)
    assert found["a.mp4"][0] == Status.UNREADABLE
    assert reason in found["a.mp4"][1]
    assert found["b.mp4"][0] == Status.OK


def test_a_member_beyond_the_memory_limit_costs_one_video(folder: Path, tmp_path: Path) -> None:
    packed = archive(folder, tmp_path)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("absent.mp4", bytes(200_000_000))
    found = statuses(packed, LimitsConfig(memory_mb=100, retries=0))
    assert found["absent.mp4"] == (Status.TOO_LARGE, "needs more than 100 MB (limits.memory_mb)")
    assert found["a.mp4"][0] == Status.OK


def test_a_member_of_another_folder_is_not_in_the_part(folder: Path, tmp_path: Path) -> None:
    packed = archive(folder, tmp_path, "part")
    with zipfile.ZipFile(packed, "a") as file:
        file.writestr("absent.mp4", b"beside the part")
        file.writestr("part/deeper/absent.mp4", b"below it")
        file.writestr("part/notes/", b"")
    assert statuses(packed)["absent.mp4"][0] == Status.MISSING
    assert "notes" not in video_names(packed)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UnmaskError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_file_that_is_no_archive_is_refused(folder: Path, tmp_path: Path) -> None:
    packed = archive(folder, tmp_path)
    packed.write_bytes(packed.read_bytes()[:-100])
    for call in (lambda: find_parts(tmp_path), lambda: read_metadata(packed)):
        assert f"{packed}: no readable zip archive" in refusal(call)


def test_an_archive_of_two_parts_is_refused(folder: Path, tmp_path: Path) -> None:
    packed = archive(folder, tmp_path, "part")
    with zipfile.ZipFile(packed, "a") as file:
        file.writestr("other/metadata.json", "{}")
    assert "has 2 metadata.json" in refusal(lambda: find_parts(tmp_path))


def test_damaged_metadata_of_an_archive_is_refused(folder: Path, tmp_path: Path) -> None:
    packed = archive(folder, tmp_path)
    flag_member(packed, "metadata.json", (6, 8), 1)
    assert "metadata.json is damaged in the archive" in refusal(lambda: read_metadata(packed))
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as file:
        file.writestr("metadata.json", "{")
    assert "as JSON" in refusal(lambda: read_metadata(tmp_path / "text.zip"))


def test_metadata_that_unpacks_to_hundreds_of_megabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "part.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("metadata.json", '{"a.mp4": "' + "x" * 200_000_000 + '"}')
    assert path.stat().st_size < 300_000
    tracemalloc.start()
    try:
        assert "metadata.json: has 200 MB" in refusal(lambda: read_metadata(path))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_folder_is_used_instead_of_the_archive_of_its_name(
    folder: Path, make_part: MakePart, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive(folder, tmp_path)
    unpacked = make_part(tmp_path / folder.name, {})
    with caplog.at_level(logging.WARNING):
        assert find_parts(tmp_path) == {folder.name: unpacked}
    assert f"{folder.name}.zip: the folder" in caplog.text


def test_an_archive_without_metadata_is_not_used(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packed = archive(folder, tmp_path)
    with zipfile.ZipFile(tmp_path / "wheels.zip", "w") as file:
        file.writestr("a.txt", "")
    with caplog.at_level(logging.WARNING):
        assert find_parts(tmp_path) == {folder.name: packed}
    assert "wheels.zip: no metadata.json, so it is not used" in caplog.text
    packed.unlink()
    assert "data_root: no part in" in refusal(lambda: find_parts(tmp_path))


def test_the_data_root_may_be_an_archive(folder: Path, tmp_path: Path) -> None:
    packed = archive(folder, tmp_path)
    assert find_parts(packed) == {folder.name: packed}
    assert part_name(packed) == folder.name
    with zipfile.ZipFile(tmp_path / "wheels.zip", "w") as file:
        file.writestr("a.txt", "")
    assert "metadata.json" in refusal(lambda: read_metadata(tmp_path / "wheels.zip"))


def test_a_folder_named_like_an_archive_is_one_part(make_part: MakePart, tmp_path: Path) -> None:
    part = make_part(tmp_path / "part_0.zip", {"a.mp4": "REAL"})
    ((name, path),) = find_parts(tmp_path).items()
    assert path == part
    assert name == part_name(part)
