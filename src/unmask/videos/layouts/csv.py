"""A table of videos: a CSV file with a header and a row per video.

    path,label,original,method,group,split
    clips/a.mp4,REAL,,,anna,train
    clips/b.mp4,FAKE,clips/a.mp4,faceswap,anna,train

Only the first two columns are required. Paths are relative to the table. Columns may have the other
names below; labels are those of `unmask.videos.listing`, 1 is FAKE.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from unmask.errors import UnmaskError
from unmask.videos.listing import ListedVideo, Unplaced, label_of, split_of
from unmask.vocabulary import Label

SIGNS = "a .csv file with the columns path and label"

_COLUMNS = {
    "path": ("path", "file", "filename", "video", "name"),
    "label": ("label", "class", "target", "is_fake", "fake"),
    "original": ("original", "source_video", "real"),
    "method": ("method", "type", "manipulation"),
    "group": ("group", "person", "identity", "subject"),
    "split": ("split", "set", "fold"),
    "source": ("source", "collection", "dataset"),
}
_ANSWERS = {"true": Label.FAKE, "yes": Label.FAKE, "false": Label.REAL, "no": Label.REAL}


def is_layout(root: Path) -> bool:
    """Return whether this is a file of comma-separated values."""
    return root.is_file() and root.suffix.lower() == ".csv"


def read(root: Path) -> Iterator[ListedVideo | Unplaced]:
    """Yield the videos of the rows; a part is a label, or a method.

    Raises:
        UnmaskError: the table cannot be read, or lacks a column that is required.
    """
    try:
        with root.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, skipinitialspace=True)
            header = [name.strip().lower() for name in table.fieldnames or ()]
            rows = [dict(zip(header, row.values(), strict=False)) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnmaskError(f"{root}: cannot be read as CSV ({error})") from None
    column = {
        key: next((name for name in names if name in header), "") for key, names in _COLUMNS.items()
    }
    for key in ("path", "label"):
        if not column[key]:
            raise UnmaskError(
                f"{root}: has no column {key} ({', '.join(_COLUMNS[key])}); "
                f"its columns are {', '.join(header) or 'none'}"
            )
    for row in rows:
        cell = {key: (row.get(name) or "").strip() for key, name in column.items()}
        video, label = _place(cell["path"], root.parent), label_of(cell["label"])
        if column["label"] in _COLUMNS["label"][-2:]:
            label = label or _ANSWERS.get(cell["label"].lower())
        if label is None:
            yield Unplaced(video, "its label is neither REAL nor FAKE")
        elif not cell["path"] or not video.exists():
            yield Unplaced(video, "there is no such file")
        else:
            yield ListedVideo(
                video,
                label,
                f"{root.stem}_{cell['method'] or label.lower()}",
                cell["source"] or root.stem,
                _original(cell["original"], video, root.parent),
                cell["method"] or None,
                cell["group"] or None,
                split_of(cell["split"]),
            )


def _place(path: str, folder: Path) -> Path:
    return Path(os.path.normpath(folder / path))


def _original(path: str, fake: Path, folder: Path) -> Path | None:
    """Return the path of an original that is given from the table's folder, or from the fake's."""
    places = [_place(path, folder), _place(path, fake.parent)] if path else [None]
    return next((place for place in places if place and place.exists()), places[0])
