"""Folders of images: videos without a clock.

A folder of images in a part is a video, whatever made them: all frames, every tenth, or crops of
faces. Where names end in numbers, such as `0042.png`, these are the numbers of frames, so that the
images of a fake and of its original correspond. Otherwise images are counted.
"""

from __future__ import annotations

import re
from pathlib import Path

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
# As FFmpeg assumes for raw streams, which have no clock either.
_PER_SECOND = 25


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder in the order of the numbers in their names."""
    images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    return sorted((path for path in images if path.is_file()), key=_natural)


def image_times(files: list[Path]) -> list[float]:
    """Return a time in seconds for each image, ascending, at 25 frames per second."""
    ends = [re.search(r"\d+$", path.stem) for path in files]
    numbers = [int(end[0]) for end in ends if end is not None]
    if len(numbers) < len(files) or sorted(set(numbers)) != numbers:
        numbers = list(range(len(files)))
    return [number / _PER_SECOND for number in numbers]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a sort key by which 2.png comes before 10.png."""
    pieces = re.findall(r"\d+|\D+", path.stem)
    return [(int(one), "") if one.isdecimal() else (-1, one) for one in pieces]
