"""FaceForensics++ (Rössler et al., ICCV 2019), as its download script and Kaggle lay it out.

    original_sequences/youtube/c23/videos/000.mp4
    manipulated_sequences/Deepfakes/c23/videos/000_003.mp4      (target_source: 000 with 003's face)
    train.json, val.json, test.json                             (pairs of names)

Originals are numbered 000 to 999. Each lends its face to the other of its pair, and a pair is in
one of the sets of 720, 140 and 140. Kaggle's copy (xdxd003/ff-c23) has the folders `original`,
`Deepfakes` and so on without the levels between. DeepfakeBench's frames are in `frames` instead of
`videos`. DeepFakeDetection, which the script downloads as well, is described in `dfd`.

Sources: github.com/ondyari/FaceForensics (dataset/README.md, dataset/splits) and
github.com/SCLBD/DeepfakeBench (preprocessing/rearrange.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from unmask.errors import UnmaskError
from unmask.videos.layouts import dfd
from unmask.videos.listing import ListedVideo, Unplaced, find_videos
from unmask.vocabulary import Label

SIGNS = "original_sequences/youtube, manipulated_sequences/Deepfakes or original/ and Deepfakes/"

_METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
_REAL, _FAKE = re.compile(r"(\d{3})"), re.compile(r"(\d{3})_(\d{3})")
_PLACES_OF_SPLITS = (".", "splits", "dataset/splits")


def is_layout(root: Path) -> bool:
    """Return whether a folder has the script's folders, or Kaggle's."""
    fakes = root / "manipulated_sequences"
    tree = [root / "original_sequences/youtube", *(fakes / method for method in _METHODS)]
    flat = (root / "original").is_dir() and any((root / method).is_dir() for method in _METHODS)
    return flat or any(path.is_dir() for path in tree)


def read(root: Path) -> Iterator[ListedVideo | Unplaced]:
    """Yield the videos; a part is the originals, or the fakes of a method, at one compression."""
    videos = list(find_videos(root))
    split_of, pair_of = _read_splits(root)
    originals = {}
    for video in videos:
        originals[dfd.compression_of(video, root), video.stem] = video
        if pair := _FAKE.fullmatch(video.stem):
            pair_of |= dict.fromkeys(pair.groups(), "_".join(sorted(pair.groups())))
    for video in videos:
        folders = video.relative_to(root).parts[:-1]
        compression = dfd.compression_of(video, root)
        method = next((one for one in folders if one in _METHODS), None)
        name = (_FAKE if method else _REAL).fullmatch(video.stem)
        if described := dfd.describe(video, compression, originals):
            yield described
        elif name is None:
            yield Unplaced(video, "neither a sequence nor a fake of FaceForensics++ by its name")
        else:
            target = name[1]
            yield ListedVideo(
                video,
                Label.FAKE if method else Label.REAL,
                "_".join(filter(None, [method or "original", compression])),
                "FaceForensics++",
                originals.get((compression, target), video.with_stem(target)) if method else None,
                method,
                pair_of.get(target),
                split_of.get(target),
            )


def _read_splits(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the set and the pair of each original that train.json, val.json and test.json name."""
    split_of: dict[str, str] = {}
    pair_of: dict[str, str] = {}
    for split in ("train", "val", "test"):
        files = [root / place / f"{split}.json" for place in _PLACES_OF_SPLITS]
        path = next(filter(Path.is_file, files), None)
        if path is None:
            continue
        try:
            pairs = [(str(one), str(other)) for one, other in json.loads(path.read_text("utf-8"))]
        except (ValueError, TypeError):
            raise UnmaskError(
                f"{path}: is no list of pairs; take the file of dataset/splits in "
                "github.com/ondyari/FaceForensics"
            ) from None
        for pair in pairs:
            split_of |= dict.fromkeys(pair, split)
            pair_of |= dict.fromkeys(pair, "_".join(sorted(pair)))
    return split_of, pair_of
