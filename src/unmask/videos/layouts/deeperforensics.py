"""DeeperForensics-1.0 (Jiang et al., CVPR 2020), as its authors' script unpacks it.

    manipulated_videos/end_to_end/000_M101.mp4     (sequence 000 of FaceForensics++, actor M101)
    source_videos/M101/…                           (the actors, filmed to make the fakes)
    lists/splits/train.txt, val.txt, test.txt      (names of fakes)

Its REAL videos are the originals of FaceForensics++ at c23, which it does not contain: import both
into one folder. The authors ask not to take the videos of the actors as REAL.

Source: github.com/EndlessSora/DeeperForensics-1.0 (dataset/README.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from unmask.videos.listing import ListedVideo, Unplaced, find_videos
from unmask.vocabulary import Label

SIGNS = "manipulated_videos/end_to_end…"

_FAKE = re.compile(r"(\d{3})_[MW]\d{3}")


def is_layout(root: Path) -> bool:
    """Return whether a folder has manipulated_videos with variants of DeeperForensics."""
    return any((root / "manipulated_videos").glob("end_to_end*")) or any(
        (root / "manipulated_videos").glob("reenact_postprocess*")
    )


def read(root: Path) -> Iterator[ListedVideo | Unplaced]:
    """Yield the fakes; a part is one of the 11 variants."""
    split_of: dict[str, str] = {}
    for split in ("train", "val", "test"):
        path = root / "lists/splits" / f"{split}.txt"
        lines = path.read_text("utf-8").split() if path.is_file() else []
        split_of |= {Path(line).stem: split for line in lines}
    for video in find_videos(root):
        folder, *variant = video.relative_to(root).parts[:-1]
        name = _FAKE.fullmatch(video.stem)
        if folder == "source_videos":
            yield Unplaced(video, "films an actor; the REAL videos are those of FaceForensics++")
        elif folder != "manipulated_videos" or not variant or name is None:
            yield Unplaced(video, "no video of DeeperForensics by its folder and name")
        else:
            yield ListedVideo(
                video,
                Label.FAKE,
                f"DeeperForensics_{variant[0]}",
                "DeeperForensics",
                root / f"{name[1]}{video.suffix}",
                variant[0],
                split=split_of.get(video.stem),
            )
