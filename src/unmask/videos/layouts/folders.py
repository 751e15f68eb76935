"""Folders whose names say what is in them, at any depth.

    real/a.mp4                      train/fake/deepfakes/a.mp4         fake/a/0001.png

The folder nearest to a video that says REAL or FAKE counts; the words are those of
`unmask.videos.listing`. A folder between it and the video is the method of a fake, and a folder
called train, val or test the split. The original of a fake is the REAL video of its name, or of its
name up to an underscore: `a.mp4` for `a.mp4` and `a_deepfake.mp4`, if only one has that name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unmask.videos.listing import ListedVideo, Unplaced, find_videos, label_of, split_of, words_of
from unmask.vocabulary import Label

SIGNS = "folders with names such as real and fake, or original and manipulated"


def is_layout(root: Path) -> bool:
    """Return whether a video is in a folder that says REAL or FAKE."""
    return root.is_dir() and any(_label(video, root)[0] for video in find_videos(root))


def read(root: Path) -> Iterator[ListedVideo | Unplaced]:
    """Yield the videos; a part is a label, or a method."""
    videos = [(video, *_label(video, root)) for video in find_videos(root)]
    real: dict[str, list[Path]] = {}
    for video, label, _ in videos:
        if label == Label.REAL:
            real.setdefault(video.stem, []).append(video)
    for video, label, inside in videos:
        folders = video.relative_to(root).parts[:-1]
        splits = [split_of(word) for folder in folders for word in words_of(folder)]
        if label is None:
            yield Unplaced(video, "none of its folders says REAL or FAKE")
        elif video.is_dir() and (not inside or split_of(video.name)):
            yield Unplaced(video, "images without a folder for each video")
        else:
            methods = [one for one in inside[:-1] if not any(map(split_of, words_of(one)))]
            method = methods[0] if methods and label == Label.FAKE else None
            yield ListedVideo(
                video,
                label,
                f"{root.name}_{method or label.lower()}",
                root.name,
                _original(video.stem, real) if label == Label.FAKE else None,
                method,
                split=next(filter(None, reversed(splits)), None),
            )


def _label(video: Path, root: Path) -> tuple[Label | None, tuple[str, ...]]:
    """Return the label of a video, and its path below the outermost folder that says it."""
    parts = video.relative_to(root).parts
    label, inside = None, parts
    for index in reversed(range(len(parts) if video.is_dir() else len(parts) - 1)):
        said = {one for word in words_of(parts[index]) if (one := label_of(word))}
        if len(said) == 1 and label in (None, *said):
            label, inside = said.pop(), parts[index + 1 :]
        elif said:
            break
    return label, inside


def _original(name: str, real: dict[str, list[Path]]) -> Path | None:
    """Return the only REAL video with the name of a fake, or its longest beginning."""
    while name:
        if len(found := real.get(name, [])) == 1:
            return found[0]
        name = name.rpartition("_")[0]
    return None
