"""The DeepFake Detection Challenge and its preview (Dolhansky et al., 2019 and 2020).

    dfdc_train_part_0/metadata.json    {"a.mp4": {"label": "FAKE", "original": "b.mp4", …}}
    test/labels.csv, test/a.mp4        (filename, label: 1 is FAKE)
    dataset.json                       {"method_A/…/a.mp4": {"label": "fake", "set": "train", …}}

The training set needs no import: `data_root` reads its parts as they are, also packed. This layout
is for the test set, for names with folders in them, and for the preview, whose `dataset.json` knows
the filmed person (`target_id`) and the official split.

Sources: the competition's data page, the preview's README and github.com/SCLBD/DeepfakeBench
(preprocessing/rearrange.py).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError
from unmask.videos.listing import ListedVideo, Unplaced, find_videos, label_of, split_of
from unmask.vocabulary import Label

SIGNS = "dataset.json, or folders with metadata.json or labels.csv"

_TABLES = ("metadata.json", "dataset.json", "labels.csv")


def is_layout(root: Path) -> bool:
    """Return whether a folder, or one of its folders, has a table of labels."""
    folders = [root, *(one for one in root.glob("*") if one.is_dir())]
    return any((folder / name).is_file() for folder in folders for name in _TABLES)


def read(root: Path) -> Iterator[ListedVideo | Unplaced]:
    """Yield the videos that tables name; a part is a table, or a folder of the preview."""
    listed = set()
    for name in _TABLES:
        for table in sorted(path for path in root.rglob(name) if path.is_file()):
            for key, entry in _entries(table).items():
                video = table.parent / key
                listed.add(video)
                yield _describe(video, entry, table, root)
    for video in find_videos(root):
        if video not in listed:
            yield Unplaced(video, "no metadata.json, dataset.json or labels.csv names it")


def _describe(
    video: Path, entry: Mapping[str, Any], table: Path, root: Path
) -> ListedVideo | Unplaced:
    label = label_of(entry.get("label", entry.get("is_fake")))
    if label is None:
        return Unplaced(video, f"its label in {table.name} is neither REAL nor FAKE")
    if not video.exists():
        return Unplaced(video, f"{table.name} names it, but there is no such file")
    is_preview = table.name == "dataset.json"
    folder = video.relative_to(table.parent).parts[0]
    place = "_".join(table.parent.relative_to(root).parts) or root.name
    split = "test" if table.name == "labels.csv" else split_of(entry.get("set") or "")
    original = entry.get("original") if label == Label.FAKE else None
    person = entry.get("target_id")
    return ListedVideo(
        video,
        label,
        f"dfdc_preview_{folder}" if is_preview else place,
        entry.get("source") or ("DFDC preview" if is_preview else "DFDC"),
        table.parent / original if isinstance(original, str) and original else None,
        folder if is_preview and label == Label.FAKE else entry.get("method"),
        f"person{person}" if person else entry.get("group"),
        split,
    )


def _entries(table: Path) -> dict[str, Mapping[str, Any]]:
    """Return the entries of a table by the paths of their videos."""
    try:
        text = table.read_text("utf-8-sig")
        if table.suffix == ".csv":
            rows = csv.DictReader(text.splitlines())
            return {row["filename"]: {"label": row["label"]} for row in rows}
        content = json.loads(text)
        return {key: entry for key, entry in content.items() if isinstance(entry, Mapping)}
    except (ValueError, KeyError, AttributeError) as error:
        raise UnmaskError(
            f"{table}: is no table of labels of DFDC ({type(error).__name__}: {error})"
        ) from None
