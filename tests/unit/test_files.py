"""A file is written completely or not at all, and a record is read as it was written."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from unmask.errors import UnmaskError
from unmask.files import atomic_path, read_json, write_json


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")

    def fail_halfway() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the ne")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_write_replaces_the_old_file_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "new/result.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of descriptors are Linux's")
def test_content_reaches_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")
    synced = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        fsync(descriptor)
        opened = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((opened.is_dir() or opened.read_text(), path.read_text()))

    monkeypatch.setattr(os, "fsync", record)
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert synced == [("new", "old"), (True, "new")]


@dataclass(frozen=True)
class Record:
    name: str
    interval: tuple[float | None, float | None]


def test_records_are_read_back_and_an_incomplete_one_names_the_key(tmp_path: Path) -> None:
    path, records = tmp_path / "records.json", {"a": [Record("x", (0.1, None))]}
    write_json(records, path)
    assert read_json(path, dict[str, list[Record]]) == records
    write_json({"a": [{"name": "x"}]}, path)
    with pytest.raises(UnmaskError, match=r"records\.json: .*a\.0\.interval"):
        read_json(path, dict[str, list[Record]])
    with pytest.raises(UnmaskError, match=r"absent\.json"):
        read_json(tmp_path / "absent.json", Record)
