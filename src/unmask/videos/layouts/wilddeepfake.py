"""WildDeepfake (Zi et al., ACM Multimedia 2020): face sequences from the internet, as images.

    real_train/0/real/0/12.png      (video, sequence, number of the frame in the video)
    fake_train/…, real_test/…, fake_test/…

It is downloaded as a .tar.gz a video (real_train/0.tar.gz), to be unpacked where it is. The images
are crops of faces: set `faces.detector: none`.

Source: github.com/OpenTAI/wild-deepfake (README.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from unmask.videos.listing import ListedVideo, Unplaced, find_videos
from unmask.vocabulary import Label

SIGNS = "real_train, fake_train, real_test or fake_test with folders of images"

_SET = re.compile(r"(real|fake)[ _](train|test)")


def is_layout(root: Path) -> bool:
    """Return whether a folder has two of the four sets."""
    if not root.is_dir():
        return False
    sets = [one for one in root.iterdir() if one.is_dir() and _SET.fullmatch(one.name)]
    return len(sets) > 1


def read(root: Path) -> Iterator[ListedVideo | Unplaced]:
    """Yield the sequences; a part is one of the four sets, a group the sequences of a video."""
    for folder in sorted(root.iterdir()):
        named = _SET.fullmatch(folder.name)
        if named is None or not folder.is_dir():
            continue
        for archive in sorted(folder.glob("*.tar.gz")):
            if not (folder / archive.name.removesuffix(".tar.gz")).is_dir():
                yield Unplaced(archive, "is packed: unpack it where it is")
        for video in find_videos(folder):
            inside = [one for one in video.relative_to(folder).parts if one != "extracted"]
            yield ListedVideo(
                video,
                Label(named[1].upper()),
                folder.name.replace(" ", "_"),
                "WildDeepfake",
                method="web" if named[1] == "fake" else None,
                group=f"{named[1]}_{named[2]}_{inside[0]}" if inside else None,
                split=named[2],
            )
