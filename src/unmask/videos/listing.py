"""Listings: what a collection contains, as a layout of `unmask.videos.layouts` reads it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unmask.videos.images import IMAGE_SUFFIXES
from unmask.vocabulary import Label

VIDEO_SUFFIXES = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"}
# Words by which people and collections call the two labels.
_WORDS = {
    Label.REAL: "real reals original originals genuine authentic pristine bonafide 0",
    Label.FAKE: "fake fakes deepfake deepfakes manipulated forged synthetic synthesis swapped "
    "generated tampered 1",
}
_SPLITS = {"train": "train training", "val": "val valid validation dev", "test": "test testing"}
# Folders of collections that hold no videos of people.
_OTHER_FOLDERS = {"masks", "landmarks", "models", "__macosx"}


@dataclass(frozen=True)
class ListedVideo:
    """A video of a collection, and what is known of it."""

    path: Path  # a video file, or a folder of images
    label: Label
    part: str  # the part that it goes into
    source: str  # the collection
    # Where the REAL video is, or would be, that a FAKE was made from.
    original: Path | None = None
    method: str | None = None  # how a FAKE was made
    group: str | None = None  # who or what it shows, where the collection knows
    split: str | None = None  # train, val or test, where its authors divide the collection


@dataclass(frozen=True)
class Unplaced:
    """A file of a collection that becomes no video, and why."""

    path: Path
    reason: str


def find_videos(root: Path) -> Iterator[Path]:
    """Yield the videos below a folder in the order of their names: files, and folders of images.

    Links are followed. Hidden folders and folders of masks, landmarks and models are left out.
    """
    yield from _find(root, {os.path.realpath(root)})


def _find(folder: Path, above: set[str]) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    suffixes = {Path(entry.name).suffix.lower() for entry in listed}
    if suffixes & IMAGE_SUFFIXES and not suffixes & VIDEO_SUFFIXES:
        yield folder
    for entry in listed:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if entry.is_dir():
            real = os.path.realpath(path)
            if entry.name.lower() not in _OTHER_FOLDERS and real not in above:
                yield from _find(path, above | {real})
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            yield path


def words_of(name: str) -> list[str]:
    """Return the words of a name in lower case: `real` and `train` for `Real_train2`."""
    return re.findall(r"[a-z]+", name.lower())


def label_of(value: object) -> Label | None:
    """Return the label that a word means; None for another word."""
    word = str(value).strip().lower()
    return next((label for label, words in _WORDS.items() if word in words.split()), None)


def split_of(value: str) -> str | None:
    """Return train, val or test, whichever a word means; None for another word."""
    word = value.strip().lower()
    return next((split for split, words in _SPLITS.items() if word in words.split()), None)
