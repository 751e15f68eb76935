"""What runs again after a change: each row of docs/reruns.md, as a dry run on the finished demo."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from unmask.tables import CROPPED, PROBE, read_table, write_table

from running import ROOT, Finished, jobs_of

pytestmark = pytest.mark.workflow

SHARDS = 5000
COLUMNS = ("probe", "crop_faces", "ledger", "train", "predict")


def documented() -> dict[str, list[str]]:
    """Return the table of the page: what runs again, by what has changed."""
    text = (ROOT / "docs/reruns.md").read_text()
    rows = re.findall(r"^\| (\S[^|]+?) \|" + r" ([^|]+?) \|" * len(COLUMNS) + "$", text, re.M)
    return {change: cells for change, *cells in rows[1:]}


class Data:
    """A copy of the challenge, with the times of its files."""

    def __init__(self, root: Path, target: Path) -> None:
        self.root = Path(shutil.copytree(root, target))
        self.part = self.root / "train/dfdc_train_part_0"
        self.metadata: dict[str, dict[str, str | None]] = json.loads(
            (self.part / "metadata.json").read_text()
        )
        sound = [name for name in sorted(self.metadata) if self.size(name) > 10_000]
        self.real, self.fake = (
            next(name for name in sound if self.metadata[name]["label"] == label)
            for label in ("REAL", "FAKE")
        )

    def size(self, name: str) -> int:
        path = self.part / name
        return path.stat().st_size if path.exists() else 0

    def edit(self, name: str, **values: str | None) -> None:
        self.metadata.setdefault(name, {"split": "train", "original": None}).update(values)
        (self.part / "metadata.json").write_text(json.dumps(self.metadata))


def replaced(data: Data) -> None:
    """In place, by a file of the same size: only its content tells."""
    content = bytearray((data.part / data.fake).read_bytes())
    content[len(content) // 2] ^= 255
    (data.part / data.fake).write_bytes(content)


def fetched_again(data: Data) -> None:
    truncated = min(filter(data.size, data.metadata), key=data.size)
    shutil.copyfile(data.part / data.real, data.part / truncated)


def stray(data: Data) -> None:
    for folder in (data.part, data.root / "test/test_videos"):
        for name in (".DS_Store", ".nfs01", "Thumbs.db", "notes.txt", "unlisted.mp4"):
            (folder / name).write_text("stray")


def copied(data: Data) -> None:
    """Without times; those of the test videos have no digest to fall back on."""
    for path in (data.root / "train").rglob("*"):
        os.utime(path)


def added(data: Data) -> None:
    shutil.copyfile(data.part / data.real, data.part / "added.mp4")
    data.edit("added.mp4", label="REAL")


def removed(data: Data) -> None:
    del data.metadata[data.fake]
    data.edit(data.real)


def replaced_test_video(data: Data) -> None:
    videos = sorted((data.root / "test/test_videos").iterdir())
    shutil.copyfile(videos[0], videos[1])


CHANGES: dict[str, Callable[[Data], object]] = {
    "the data are somewhere else, or behind a link": lambda data: None,
    "the data are copied without their times": copied,
    "a stray file is among the videos; a folder is touched": stray,
    "`metadata.json` is formatted in another way": lambda data: data.edit(data.real),
    "a label, `method`, `source`, `group` or `split` is corrected": lambda data: data.edit(
        data.real, label="FAKE", method="corrected"
    ),
    "a label is corrected whose `original` stays": lambda data: data.edit(data.fake, label="REAL"),
    "an `original` is corrected": lambda data: data.edit(data.fake, original=None),
    "a video is replaced": replaced,
    "a truncated download is fetched again": fetched_again,
    "a video is added": added,
    "a video is removed from `metadata.json`": removed,
    "a test video is replaced": replaced_test_video,
}


def test_the_page_has_every_change() -> None:
    assert documented().keys() == CHANGES.keys()


@pytest.mark.parametrize("change", CHANGES)
def test_what_runs_again_is_what_the_page_says(
    change: str, finished: Finished, tmp_path: Path
) -> None:
    data = Data(finished.challenge.root, tmp_path / "elsewhere {}")
    link = tmp_path / "link"
    link.symlink_to(data.root)
    CHANGES[change](data)
    places = [f"data_root={link / 'train'}", f"test_root={link / 'test'}"]
    jobs = jobs_of(finished.workflow.finish("-n", directory=finished.output, config=places))
    counts = {"–": 0, "its shard": 1, "yes": 1}
    expected = [counts[one] for one in documented()[change]]
    assert [jobs.get(rule, 0) for rule in COLUMNS] == expected


def test_a_deleted_result_is_made_again_and_a_deleted_shard_on_demand(
    finished: Finished, tmp_path: Path
) -> None:
    options = {"directory": finished.output, "config": finished.config}
    shard = "faces/dfdc_train_part_0-00.tar"
    for name, target, rules in (
        ("evaluation/baseline/metrics.json", (), {"evaluate", "compare"}),
        (shard, (), set()),
        (shard, (f"results/{shard}",), {"extract_frames", "crop_faces"}),
    ):
        path = finished.results / name
        path.rename(tmp_path / "kept")
        try:
            printed = finished.workflow.finish("-n", *target, **options)
        finally:
            (tmp_path / "kept").rename(path)
        assert rules <= jobs_of(printed).keys()
        assert "train" not in jobs_of(printed)


def test_braces_in_the_name_of_a_part_are_refused_in_one_line(
    finished: Finished, tmp_path: Path
) -> None:
    part = shutil.copytree(finished.challenge.root / "train/dfdc_train_part_0", tmp_path / "a{b}")
    line = finished.workflow.refuse("-n", directory=tmp_path, config=[f"data_root={part}"])
    assert line.startswith("unmask: data_root: ")
    assert str(part) in line


def shard_of(source: Path, target: Path, part: str, number: int) -> None:
    """Copy the tables of a shard under the name of another part, with other names of videos."""
    for folder, name, table in (("probe", "", PROBE), ("faces", ".videos", CROPPED)):
        frame: pd.DataFrame = read_table(
            source / folder / f"dfdc_train_part_0-00{name}.parquet", table
        )
        for column in {"video", "original", "family"} & set(frame):
            frame[column] = f"{number}-" + frame[column]
        (target / folder).mkdir(parents=True, exist_ok=True)
        path = target / folder / f"{part}-00{name}.parquet"
        write_table(frame.assign(part=part), table, path)


@pytest.mark.slow
def test_five_thousand_shards_are_joined_by_the_real_commands(
    finished: Finished, tmp_path: Path
) -> None:
    """Their paths are more than a command can have."""
    source = finished.challenge.root / "train/dfdc_train_part_0/metadata.json"
    entries = json.loads(source.read_text())
    for number in range(SHARDS):
        part = f"a_part_with_a_longer_name_{number:04d}"
        (tmp_path / "data" / part).mkdir(parents=True)
        own = {
            f"{number}-{name}": entry
            | ({"original": f"{number}-{entry['original']}"} if entry.get("original") else {})
            for name, entry in entries.items()
        }
        (tmp_path / "data" / part / "metadata.json").write_text(json.dumps(own))
        shard_of(finished.results, tmp_path / "results", part, number)
    finished.workflow.finish(
        *("results/splits.parquet", "--quiet"),
        directory=tmp_path,
        config=[f"data_root={tmp_path / 'data'}"],
    )
    summary = json.loads((tmp_path / "results/ledger.json").read_text())
    assert summary["videos"] == SHARDS * len(entries)
