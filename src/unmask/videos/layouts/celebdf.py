"""Celeb-DF, version 1 or 2 (Li et al., CVPR 2020), as it is downloaded.

    Celeb-real/id0_0000.mp4              (person, clip)
    Celeb-synthesis/id0_id1_0000.mp4     (id0_0000 with the face of id1)
    YouTube-real/00000.mp4
    List_of_testing_videos.txt           (1 Celeb-real/id0_0001.mp4: 1 is REAL, 0 is FAKE)

The list has the test set, 518 videos in version 2; the others are for training. Copies with a
folder `videos` or `frames` below each of these are read as well.

Source: github.com/yuezunli/celeb-deepfakeforensics.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from unmask.videos.listing import ListedVideo, Unplaced, find_videos
from unmask.vocabulary import Label

SIGNS = "Celeb-real and Celeb-synthesis"

_LIST = "List_of_testing_videos.txt"
_FOLDERS = {
    "celeb-real": (re.compile(r"(id\d+)_(\d+)"), Label.REAL),
    "celeb-synthesis": (re.compile(r"(id\d+)_id\d+_(\d+)"), Label.FAKE),
    "youtube-real": (re.compile(r"\d+"), Label.REAL),
}


def is_layout(root: Path) -> bool:
    """Return whether a folder has Celeb-real or Celeb-synthesis."""
    return any((root / name).is_dir() for name in ("Celeb-real", "Celeb-synthesis"))


def read(root: Path) -> Iterator[ListedVideo | Unplaced]:
    """Yield the videos; a part is one of the three folders."""
    videos = list(find_videos(root))
    originals = {video.stem: video for video in videos}
    tested = _read_list(root / _LIST)
    for video in videos:
        folder = video.relative_to(root).parts[0]
        pattern, label = _FOLDERS.get(folder.lower(), (re.compile("$^"), Label.REAL))
        name = pattern.fullmatch(video.stem)
        if name is None:
            yield Unplaced(video, "no video of Celeb-DF by its folder and name")
            continue
        is_tested = tested.pop((folder.lower(), video.stem), None) is not None
        target = "_".join(name.groups())
        is_fake = label == Label.FAKE
        yield ListedVideo(
            video,
            label,
            folder,
            "Celeb-DF",
            originals.get(target, video.with_stem(target)) if is_fake else None,
            "Celeb-synthesis" if is_fake else None,
            name[1] if name.groups() else None,
            ("test" if is_tested else "train") if (root / _LIST).is_file() else None,
        )
    for listed in tested.values():
        yield Unplaced(root / listed, f"in {_LIST}, but there is no such file")


def _read_list(path: Path) -> dict[tuple[str, str], str]:
    """Return the paths of the list, by folder and name without suffix."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    paths = [line.split(maxsplit=1)[1].strip() for line in lines if " " in line.strip()]
    return {(Path(one).parts[0].lower(), Path(one).stem): one for one in paths}
