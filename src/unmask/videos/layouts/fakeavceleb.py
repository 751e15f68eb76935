"""FakeAVCeleb 1.2 (Khalid et al., NeurIPS Datasets and Benchmarks 2021), as it is unpacked.

    RealVideo-RealAudio/African/men/id00076/00109.mp4
    FakeVideo-FakeAudio/African/men/id00076/00109_10_id00476_wavtolip.mp4
    meta_data.csv        (source, target1, target2, method, category, type, race, gender, path, …)

A fake is in the folder of the person who was filmed, and its name begins with that of the original.
RealVideo-FakeAudio is left out: its pictures are those of the originals, and a detector of pictures
has nothing to see in them.

Sources: github.com/DASH-Lab/FakeAVCeleb and the documentation of the data set.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from unmask.videos.listing import ListedVideo, Unplaced, find_videos
from unmask.vocabulary import Label

SIGNS = "RealVideo-RealAudio and FakeVideo-…Audio"

_LABELS = {
    "RealVideo-RealAudio": Label.REAL,
    "FakeVideo-RealAudio": Label.FAKE,
    "FakeVideo-FakeAudio": Label.FAKE,
}


def is_layout(root: Path) -> bool:
    """Return whether a folder has one of the categories of videos."""
    return any((root / category).is_dir() for category in _LABELS)


def read(root: Path) -> Iterator[ListedVideo | Unplaced]:
    """Yield the videos; a part is one of the categories."""
    videos = [(video, video.relative_to(root).parts) for video in find_videos(root)]
    original_of = {
        (parts[1:-1], video.stem): video
        for video, parts in videos
        if parts[0] == "RealVideo-RealAudio"
    }
    methods = _read_methods(root / "meta_data.csv")
    for video, parts in videos:
        category, *_, person, name = parts if len(parts) > 2 else (*parts, "", "")
        label = _LABELS.get(category)
        if category == "RealVideo-FakeAudio":
            yield Unplaced(video, "its pictures are REAL, only its sound is fake")
        elif label is None or not person.startswith("id"):
            yield Unplaced(video, "no video of FakeAVCeleb by its folder")
        elif label == Label.REAL:
            yield ListedVideo(video, label, category, "FakeAVCeleb", group=person)
        else:
            filmed = video.stem.partition("_")[0]
            yield ListedVideo(
                video,
                label,
                category,
                "FakeAVCeleb",
                original_of.get((parts[1:-1], filmed), video.with_stem(filmed)),
                methods.get((person, name), category),
                person,
            )


def _read_methods(path: Path) -> dict[tuple[str, str], str]:
    """Return the methods that meta_data.csv gives, by person and file name."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {
            (row.get("source") or "", row.get("path") or ""): row.get("method") or ""
            for row in csv.DictReader(file)
        }
