"""Which videos count as changed: by size and time, and by content where only times differ."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from unmask.videos.inventory import (
    check_inventory,
    note_inventory,
    take_inventory,
    token_of_test_set,
)
from unmask.videos.source import VideoFile

METADATA = {
    "a.mp4": {"label": "REAL"},
    "b.mp4": {"label": "FAKE", "original": "a.mp4"},
    "absent.mp4": {"label": "REAL"},
    "frames": {"label": "REAL"},
}


@pytest.fixture
def part(tmp_path: Path) -> Path:
    part = tmp_path / "part"
    (part / "frames").mkdir(parents=True)
    for name in ("a.mp4", "b.mp4", "frames/0.png", "frames/1.png"):
        (part / name).write_bytes(name.encode() * 100_000)
    (part / "metadata.json").write_text(json.dumps(METADATA))
    return part


@pytest.fixture
def noted(part: Path, tmp_path: Path) -> Path:
    """The inventory that a probe has noted."""
    path = tmp_path / "noted.json"
    held = take_inventory([part], 0, 1)
    present = [name for name, video in held["part"].videos.items() if video.state]
    digests = {("part", name): VideoFile(part, name).fingerprint() for name in present}
    note_inventory("the token", held, digests, path)
    return path


def token(noted: Path, part: Path) -> str:
    return check_inventory(noted, [part], 0, 1).token


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def invert(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    touch(path)


def edit(part: Path, **entries: object) -> None:
    (part / "metadata.json").write_text(json.dumps({**METADATA, **entries}))


SAME: list[Callable[[Path], object]] = [
    lambda part: None,
    lambda part: touch(part / "a.mp4"),
    lambda part: touch(part / "frames/1.png"),
    lambda part: touch(part),
    lambda part: (part / ".DS_Store").write_text("stray"),
    lambda part: (part / "frames/Thumbs.db").write_text("stray"),
    lambda part: (part / "unlisted.mp4").write_text("stray"),
    lambda part: edit(part, **{"a.mp4": {"label": "FAKE", "group": "x"}}),
    lambda part: edit(part, **{"b.mp4": {"label": "REAL", "original": "a.mp4"}}),
]
CHANGED: list[Callable[[Path], object]] = [
    lambda part: (part / "a.mp4").write_bytes(b"shorter"),
    lambda part: invert(part / "a.mp4"),
    lambda part: (part / "frames/1.png").write_bytes(b"replaced"),
    lambda part: (part / "frames/2.png").write_bytes(b"added"),
    lambda part: (part / "a.mp4").unlink(),
    lambda part: (part / "absent.mp4").write_bytes(b"here now"),
    lambda part: edit(part, **{"c.mp4": {"label": "REAL"}}),
    lambda part: edit(part, **{"b.mp4": {"label": "FAKE", "original": "absent.mp4"}}),
    lambda part: edit(part, **{"a.mp4": {"label": "unknown"}}),
]


@pytest.mark.parametrize("change", SAME)
def test_videos_are_the_same_wherever_and_whenever(
    change: Callable[[Path], object], part: Path, noted: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "part"
    shutil.copytree(part, moved)
    change(moved)
    assert token(noted, moved) == token(noted, moved) == "the token"


@pytest.mark.parametrize("change", CHANGED)
def test_videos_that_have_changed_have_another_token(
    change: Callable[[Path], object], part: Path, noted: Path
) -> None:
    change(part)
    first = token(noted, part)
    assert first == token(noted, part) != "the token"
    noted.unlink()
    assert token(noted, part) == first  # as the job is recorded that has not noted it yet


def test_digests_of_a_copy_are_taken_once(
    part: Path, noted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(part / "a.mp4")
    assert token(noted, part) == "the token"
    monkeypatch.setattr(VideoFile, "fingerprint", None)
    assert token(noted, part) == "the token"


def test_members_of_a_zip_are_known_by_their_content(part: Path, tmp_path: Path) -> None:
    def packed(folder: str) -> Path:
        path = tmp_path / folder / "packed.zip"
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w") as file:
            for member in part.glob("*.*"):
                file.write(member, f"part/{member.name}")
        return path

    noted = tmp_path / "none.json"
    first = token(noted, packed("first"))
    touch(part / "a.mp4")
    assert token(noted, packed("same videos")) == first
    invert(part / "b.mp4")
    assert token(noted, packed("another video")) != first


def test_all_that_metadata_says_is_in_the_labels_and_its_format_is_not(
    part: Path, noted: Path
) -> None:
    def labels() -> str:
        return check_inventory(noted, [part], 0, 1).labels

    before = labels()
    (part / "metadata.json").write_text(json.dumps(METADATA, indent=4))
    assert labels() == before
    edit(part, **{"a.mp4": {"label": "REAL", "group": "x"}})
    assert labels() != before


def test_stray_files_do_not_change_a_test_set(tmp_path: Path) -> None:
    sample = tmp_path / "sample_submission.csv"
    sample.write_text("filename,label\na.mp4,0.5\n")
    (tmp_path / "a.mp4").write_bytes(b"video")
    before = token_of_test_set(sample, tmp_path)
    (tmp_path / ".DS_Store").touch()
    assert token_of_test_set(sample, tmp_path) == before
    (tmp_path / "a.mp4").write_bytes(b"another")
    assert token_of_test_set(sample, tmp_path) != before
