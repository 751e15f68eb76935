"""Every entry of a metadata.json is kept, with a status that says what is wrong with it."""

import json
import logging
import zipfile
from collections.abc import Callable
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.errors import UnmaskError
from unmask.videos.source import chunk_of, find_parts, read_metadata, shard_entries, shards_of
from unmask.vocabulary import Label, Status

MakePart = Callable[..., Path]


def test_a_real_and_its_fake_are_one_family(make_part: MakePart, tmp_path: Path) -> None:
    part = make_part(tmp_path / "part", {"fake.mp4": "real.mp4", "real.mp4": "REAL"})
    fake, real = read_metadata(part)
    assert (fake.name, fake.label, fake.original) == ("fake.mp4", Label.FAKE, "real.mp4")
    assert (real.name, real.label, real.original) == ("real.mp4", Label.REAL, None)
    assert fake.family == real.family == "real.mp4"
    assert fake.status == real.status == Status.OK


def test_a_fake_that_names_no_original_is_a_family_of_its_own(
    make_part: MakePart, tmp_path: Path
) -> None:
    (entry,) = read_metadata(make_part(tmp_path / "part", {"fake.mp4": "FAKE"}))
    assert (entry.label, entry.original, entry.family) == (Label.FAKE, None, "fake.mp4")


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ({"label": "maybe", "original": None}, "label is 'maybe'"),
        ({"label": None}, "label is None"),
        ({"label": ["FAKE"]}, "label is ['FAKE']"),
        ({"original": "real.mp4"}, "label is None"),
        ({"label": "FAKE", "original": 7}, "original is 7, not a file name"),
        (["FAKE"], "not a JSON object"),
        (1, "not a JSON object"),
        (None, "not a JSON object"),
    ],
)
def test_an_invalid_entry_is_kept_with_the_reason(
    value: Any, detail: str, make_part: MakePart, tmp_path: Path
) -> None:
    entries = read_metadata(make_part(tmp_path / "part", {"a.mp4": value, "b.mp4": "REAL"}))
    assert [entry.status for entry in entries] == [Status.BAD_METADATA, Status.OK]
    assert detail in entries[0].detail


@pytest.mark.parametrize("label", ["FAKE", "fake", "FAKE ", "Deepfake", 1, "1", True])
@pytest.mark.parametrize("original", [None, "", " ", "NaN", float("nan"), "r.mp4", "r", " r.mp4 "])
def test_entries_are_read_as_people_write_them(
    label: Any, original: Any, make_part: MakePart, tmp_path: Path
) -> None:
    entries = {"f.mp4": {"label": label, "original": original, "method": float("nan")}}
    entries["r.mp4"] = {"label": "real" if isinstance(label, str) else 0}
    fake, real = read_metadata(make_part(tmp_path / "part", entries))
    assert (fake.status, fake.label, fake.method) == (Status.OK, Label.FAKE, None)
    assert fake.original == ("r.mp4" if "r" in str(original) else None)
    assert fake.family == fake.original or fake.name
    assert (real.status, real.label, real.original) == (Status.OK, Label.REAL, None)


def test_an_original_that_may_be_two_videos_keeps_its_name(
    make_part: MakePart, tmp_path: Path
) -> None:
    entries = {"f.mp4": "r", "r.avi": "REAL", "r.mp4": "REAL"}
    assert read_metadata(make_part(tmp_path / "part", entries))[0].original == "r"


@pytest.mark.parametrize(
    "name",
    [
        *("../x.mp4", "a/b.mp4", "/etc/passwd", "", ".", "..", "a\\b.mp4", "a\0.mp4", "a.mp4/"),
        *("z" * 300, "\ud800.mp4"),
    ],
)
def test_a_name_that_is_no_file_of_the_part_is_never_opened(
    name: str, make_part: MakePart, tmp_path: Path
) -> None:
    (entry,) = read_metadata(make_part(tmp_path / "part", {name: "REAL"}))
    assert entry.status == Status.UNSAFE_NAME


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "JSON list"),
        (b"7", "JSON int"),
        (b"", "as JSON .*line 1"),
        (b'{\n "a.mp4": {"label": "REAL"},\n "b.mp4": {"lab', r"metadata\.json: .* line 3 column"),
        (b'{"\xff": 1}', "as JSON .*utf-8"),
        (b'{"a.mp4": ' + b"[" * 100_000, r"metadata\.json: cannot be read"),
        (b'{"a.mp4": [' + b"[], " * 400_000 + b"0]}", r"metadata\.json: .* objects"),
        (None, r"cannot be read as JSON \(No such file"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "metadata.json").write_bytes(content)
    with pytest.raises(UnmaskError, match=message):
        read_metadata(tmp_path)


def test_a_part_without_entries_is_empty_and_logged(
    make_part: MakePart, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_metadata(make_part(tmp_path / "part", {})) == []
    assert "has no video" in caplog.text


def test_of_two_entries_of_a_name_the_last_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = '{"a.mp4": {"label": "REAL"}, "a.mp4": {"label": "FAKE", "original": "b.mp4"}}'
    (tmp_path / "metadata.json").write_text(text)
    (entry,) = read_metadata(tmp_path)
    assert entry.label == Label.FAKE
    assert "a.mp4: several entries" in caplog.text


def test_parts_are_the_folders_with_metadata(
    make_part: MakePart, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_part(tmp_path / "part_1", {})
    make_part(tmp_path / "part_0", {})
    (tmp_path / "notes").mkdir()
    (tmp_path / "labels.csv").touch()
    with caplog.at_level(logging.WARNING):
        parts = find_parts(tmp_path)
    assert parts == {"part_0": tmp_path / "part_0", "part_1": tmp_path / "part_1"}
    assert "notes: no metadata.json" in caplog.text
    assert "labels.csv" not in caplog.text


def test_the_data_root_may_be_a_part(
    make_part: MakePart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = make_part(tmp_path / "part_0", {})
    assert find_parts(part) == {"part_0": part}
    monkeypatch.chdir(part)
    assert find_parts(Path()) == {"part_0": Path()}


def test_metadata_above_the_parts_is_named(make_part: MakePart, tmp_path: Path) -> None:
    make_part(tmp_path, {"a.mp4": "REAL"})
    assert find_parts(tmp_path)  # its video is absent
    (tmp_path / "part_0").mkdir()
    (tmp_path / "part_0" / "a.mp4").touch()
    with pytest.raises(UnmaskError, match=rf"data_root: {tmp_path}/metadata\.json.*part_0"):
        find_parts(tmp_path)
    (tmp_path / "a.mp4").touch()
    assert list(find_parts(tmp_path).values()) == [tmp_path]


def test_an_absent_folder_or_one_without_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnmaskError, match=r"data_root: no folder .*nowhere; set it to"):
        find_parts(tmp_path / "nowhere")
    with pytest.raises(UnmaskError, match=r"data_root: no part in .*a part is a folder with a"):
        find_parts(tmp_path)


def test_a_family_is_in_the_same_chunk_on_every_machine() -> None:
    assert [chunk_of(name, 10) for name in ("aaa.mp4", "bbb.mp4", "ccc.mp4")] == [0, 6, 0]


@given(
    names=st.lists(st.text("abcü é.", min_size=1, max_size=8), unique=True, max_size=12),
    chunks=st.integers(1, 7),
    choices=st.randoms(use_true_random=False),
)
def test_every_entry_is_in_exactly_one_shard(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], chunks: int, choices: Any
) -> None:
    part = tmp_path_factory.mktemp("part")
    values = [choices.choice(["REAL", "FAKE", "other", None]) for _ in names]
    content = {name: {"label": label} for name, label in zip(names, values, strict=True)}
    (part / "metadata.json").write_text(json.dumps(content))
    shards = [shard_entries(part, chunk, chunks) for chunk in range(chunks)]
    assert sorted(entry.name for shard in shards for entry in shard) == sorted(names)


def test_metadata_of_other_tools_is_understood(tmp_path: Path) -> None:
    text = (
        '{"a.mp4": {"label": "REAL", "original": NaN}, "b.mp4": {"label": "FAKE", "original": ""}}'
    )
    (tmp_path / "metadata.json").write_text(text, encoding="utf-8-sig")
    real, fake = read_metadata(tmp_path)
    assert (real.status, real.original, real.family) == (Status.OK, None, "a.mp4")
    assert (fake.status, fake.original, fake.family) == (Status.OK, None, "b.mp4")


def test_a_part_is_one_shard_or_divided_into_chunks() -> None:
    parts = {"b": 2, "a": 1}
    assert shards_of(parts, 1, 1) == {"a-00": [1], "b-00": [2]}
    divided = {"a-00": [1], "a-01": [1], "b-00": [2], "b-01": [2]}
    assert shards_of(parts, 1, 2) == shards_of(parts, "auto", 2) == divided


def test_shards_of_different_parts_have_different_names() -> None:
    names = ["a", "a!", "a+1", "b", "c"]
    seen: dict[str, tuple[str, ...]] = {}
    for count in range(1, len(names) + 1):
        for kept in combinations(names, count):
            shards = shards_of({name: name for name in kept}, 2, 1)
            assert sorted(chain(*shards.values())) == sorted(kept)
            for shard, parts in shards.items():
                assert seen.setdefault(shard, tuple(parts)) == tuple(parts)
    assert {shard.partition("-")[0] for shard in seen} > {"a", "a+1", "a+1+1"}


def part_of(root: Path, name: str, videos: int) -> Path:
    names = [f"{index:010d}.mp4" for index in range(videos)]
    entry = {"label": "REAL", "split": "train", "original": None}
    (root / name).mkdir(parents=True)
    (root / name / "metadata.json").write_text(json.dumps(dict.fromkeys(names, entry)))
    return root / name


def test_small_parts_share_a_shard_and_large_ones_have_their_own(tmp_path: Path) -> None:
    sizes = {"a": 30, "b": 30, "c": 2400, "d": 1, "e": 60, "f": 60, "g": 101}
    parts = {name: part_of(tmp_path, name, videos) for name, videos in sizes.items()}
    groups = [[part.name for part in shard] for shard in shards_of(parts, "auto", 1).values()]
    assert groups == [["a", "b"], ["c"], ["d", "e"], ["f"], ["g"]]
    names = list(shards_of(parts, "auto", 1))
    assert (names[1], names[3], names[4]) == ("c-00", "f-00", "g-00")


def test_a_part_with_empty_metadata_shares_no_shard(tmp_path: Path) -> None:
    parts = {name: part_of(tmp_path, name, 2) for name in "abcde"}
    for name in "ad":
        (parts[name] / "metadata.json").write_text("")
    groups = [[part.name for part in shard] for shard in shards_of(parts, "auto", 1).values()]
    assert groups == [["a"], ["b", "c"], ["d"], ["e"]]


def test_a_part_has_the_same_shard_packed_and_unpacked(tmp_path: Path) -> None:
    folders = {name: part_of(tmp_path, name, 60) for name in "abc"}
    packed = {}
    for name, folder in folders.items():
        packed[name] = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(packed[name], "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(folder / "metadata.json", f"{name}/metadata.json")
    assert list(shards_of(folders, "auto", 1)) == ["a-00", "b-00", "c-00"]
    assert list(shards_of(packed, "auto", 1)) == ["a-00", "b-00", "c-00"]
