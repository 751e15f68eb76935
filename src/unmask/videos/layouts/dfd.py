"""Google's DeepFakeDetection (2019), as the script of FaceForensics++ and Kaggle lay it out.

    original_sequences/actors/c23/videos/01__talking_against_wall.mp4
    manipulated_sequences/DeepFakeDetection/c23/videos/01_02__talking_against_wall__YVGY8LOK.mp4

The first number is the actor who was filmed, the second the one whose face was put in. Kaggle's
copy has `DFD_original sequences` and `DFD_manipulated_sequences`. There is no official split: it is
a test set, of 363 REAL and 3068 FAKE videos of 28 actors.

Sources: github.com/ondyari/FaceForensics (dataset/DeepFakeDetection) and
github.com/SCLBD/DeepfakeBench (preprocessing/rearrange.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from unmask.videos.listing import ListedVideo, Unplaced, find_videos
from unmask.vocabulary import Label

SIGNS = "original_sequences/actors, manipulated_sequences/DeepFakeDetection or DFD_…_sequences"

_REAL = re.compile(r"(\d+)__(\w+?)")
_FAKE = re.compile(r"(\d+)_(\d+)__(\w+?)__[A-Z0-9]+")
_COMPRESSIONS = ("raw", "c0", "c23", "c40")


def is_layout(root: Path) -> bool:
    """Return whether a folder has folders of DeepFakeDetection, and none of FaceForensics++."""
    tree = (root / "original_sequences", root / "manipulated_sequences")
    inside = {one.name for folder in tree if folder.is_dir() for one in folder.iterdir()}
    inside |= {one.name[:4] for one in root.iterdir()} & {"DFD_"} if root.is_dir() else set()
    return bool(inside) and inside <= {"actors", "DeepFakeDetection", "DFD_"}


def read(root: Path) -> Iterator[ListedVideo | Unplaced]:
    """Yield the videos; a part is the originals, or the fakes, at one compression."""
    videos = list(find_videos(root))
    originals = {(compression_of(video, root), video.stem): video for video in videos}
    for video in videos:
        described = describe(video, compression_of(video, root), originals)
        yield described or Unplaced(video, "no video of DeepFakeDetection by its name")


def describe(
    video: Path, compression: str | None, videos: Mapping[tuple[str | None, str], Path]
) -> ListedVideo | None:
    """Return what the name of a video says; None if it is no name of DeepFakeDetection.

    Args:
        video: the video.
        compression: its compression.
        videos: all videos by compression and name, among which its original may be.
    """
    if real := _REAL.fullmatch(video.stem):
        part = "_".join(filter(None, ["actors", compression]))
        return ListedVideo(video, Label.REAL, part, "DeepFakeDetection", group=f"actor{real[1]}")
    fake = _FAKE.fullmatch(video.stem)
    if fake is None:
        return None
    name = f"{fake[1]}__{fake[3]}"
    return ListedVideo(
        video,
        Label.FAKE,
        "_".join(filter(None, ["DeepFakeDetection", compression])),
        "DeepFakeDetection",
        videos.get((compression, name), video.with_stem(name)),
        "DeepFakeDetection",
        f"actor{fake[1]}",
    )


def compression_of(video: Path, root: Path) -> str | None:
    """Return raw, c0, c23 or c40, as a folder or the name of the collection says."""
    for folder in reversed(video.relative_to(root).parts[:-1]):
        if folder in _COMPRESSIONS:
            return folder
    at_end = re.search(r"_(c\d+|raw)$", root.name.lower())
    return at_end[1] if at_end else None
