"""Label noise: FAKE faces that look like their original's, and so have a wrong label.

In a FAKE with two people often one of them is untouched, and in some videos only the sound is fake.
A fake shows its original's take, so the crops of both at equal times are compared pixel by pixel,
as the difference masks of DFDC's winner (selimsef, `generate_diffs.py`) do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from unmask.faces.images import decode_jpeg
from unmask.faces.shards import ShardReader
from unmask.progress import track
from unmask.tables import FACES, NOISE, PROBE, read_rows, write_rows
from unmask.vocabulary import Label, Verdict

logger = logging.getLogger(__name__)

Row = dict[str, Any]

# The constants are from 46 FAKE tracks of FaceForensics++ (5 ways to manipulate, all of them truly
# altered) and from their 12 originals, encoded again with x264 at CRF 23, 32 and 40.
#
# At 64 pixels a face loses what a codec takes away first and keeps what a swap changes. At 256
# pixels no threshold told a subtle fake from CRF 40.
_SIZE = 64
# A pixel is changed when its dissimilarity 1 - SSIM exceeds this, and twice what 90 % of the pixels
# around the face stay below: a codec harms the whole crop, a manipulation the face.
_CHANGED = 0.15
_NOISE_QUANTILE = 0.9
_NOISE_FACTOR = 2.0
# But no more than this: recompression reaches 0.4 around a face. Beyond it the pictures differ as a
# whole, as those of a generated head do, and that is an alteration too.
_MAX_CHANGED = 0.5
# Share of changed pixels in the face, mean of a track. Altered: 0.053 at least, 0.33 in the middle.
# Encoded again: at CRF 23 and 32 at most 0.0001, at CRF 40 at most 0.027.
MIN_CHANGED_SHARE = 0.04
# One frame with a change shows an alteration, but to say that there is none takes some.
_MIN_FRAMES = 4
# Compared per track at most, evenly spread: figures of a track hardly change with more.
_MAX_FRAMES = 16
# Crops show one person when their squares overlap so much, on average over a track.
_SAME_PERSON_IOU = 0.3
# Times are equal when they differ by less than this share of a frame.
_SAME_FRAME = 0.4


@dataclass(frozen=True)
class Difference:
    """How a face differs from its original's in one frame.

    Attributes:
        changed: share of the face's pixels that are changed.
        dissimilarity: mean 1 - SSIM in the face's box.
        outside: the same in the crop around it; NaN where the crop has nothing around the box.
        mask: float32 (64, 64), 1 - SSIM of each pixel of the crop.
        threshold: the 1 - SSIM from which a pixel is changed.
    """

    changed: float
    dissimilarity: float
    outside: float
    mask: NDArray[np.float32]
    threshold: float


def audit_shard(probe: Path, index: Path, shards: Path, output: Path) -> None:
    """Compare each FAKE track of a shard with its original's.

    Args:
        probe: the shard's probe table, for labels, originals and frame rates.
        index: the shard's face index.
        shards: folder of face shards.
        output: one row per FAKE track, see `unmask.tables.NOISE`.
    """
    cv2.setNumThreads(1)
    videos = {_name_of(row): row for row in read_rows(probe, PROBE)}
    faces = _tracks_by_video(read_rows(index, FACES))
    reader = ShardReader(shards)
    rows: list[Row] = []
    fakes = [name for name in faces if videos[name]["label"] == Label.FAKE]
    for name in track(fakes, "fakes", len(fakes)):
        part, _ = name
        # Of the same part, whichever others the shard has.
        original_name = part, videos[name]["original"]
        original, of_original = videos.get(original_name), faces.get(original_name, {})
        compared = [
            _compare_track(videos[name], of_person, original, of_original, reader)
            for of_person in faces[name].values()
        ]
        rows += with_verdicts(compared)
    write_rows(rows, NOISE, output)
    counts = {str(one): sum(row["verdict"] == one for row in rows) for one in Verdict}
    logger.info("%d tracks of %d FAKE videos: %s", len(rows), len(fakes), counts)


def _name_of(row: Row) -> tuple[str, str]:
    return row["part"], row["video"]


def _tracks_by_video(faces: Sequence[Row]) -> dict[tuple[str, str], dict[int, list[Row]]]:
    tracks: dict[tuple[str, str], dict[int, list[Row]]] = {}
    for face in faces:
        tracks.setdefault(_name_of(face), {}).setdefault(face["track"], []).append(face)
    return tracks


def _compare_track(
    video: Row,
    faces: list[Row],
    original: Row | None,
    tracks: dict[int, list[Row]],
    reader: ShardReader,
) -> Row:
    names = {key: faces[0][key] for key in ("part", "video", "track")}
    row: Row = {**names, "original": video["original"], "frames": 0}
    if original is None or not _same_size(video, original):
        return row
    matched = match_original(faces, tracks, original["video_fps"])
    if not matched:
        return row
    chosen = np.unique(np.linspace(0, len(matched) - 1, _MAX_FRAMES).astype(int))
    pairs = [matched[position] for position in chosen]
    found = [compare_crops(fake, real, reader) for fake, real in pairs]
    outside = [one.outside for one in found if not np.isnan(one.outside)]
    return row | {
        "original_track": matched[0][1]["track"],
        "frames": len(found),
        "changed": float(np.mean([one.changed for one in found])),
        "dissimilarity": float(np.mean([one.dissimilarity for one in found])),
        "outside": float(np.mean(outside)) if outside else None,
    }


def _same_size(a: Row, b: Row) -> bool:
    """Tell whether pixels of two videos show the same place: a crop of a take is not comparable."""
    return bool(
        a["video_width"] == b["video_width"]
        and a["video_height"] == b["video_height"]
        and a["video_rotation"] == b["video_rotation"]
    )


def match_original(
    faces: list[Row], tracks: dict[int, list[Row]], fps: float | None
) -> list[tuple[Row, Row]]:
    """Return pairs of a fake's crop and its original's of the same person at the same time.

    Args:
        faces: rows of the face index of one track of the fake.
        tracks: those of the original, by track.
        fps: frames per second of the original; None where it is not known.

    Returns:
        The pairs with the one track of the original that overlaps best; none where none does.
    """
    slack = _SAME_FRAME / (fps or 30.0)
    best: list[tuple[Row, Row]] = []
    most = _SAME_PERSON_IOU
    for of_person in tracks.values():
        pairs = list(_at_equal_times(faces, of_person, slack))
        overlap = np.mean([_overlap(*pair) for pair in pairs]) if pairs else 0.0
        if overlap >= most:
            best, most = pairs, float(overlap)
    return best


def _at_equal_times(faces: list[Row], others: list[Row], slack: float) -> Iterator[tuple[Row, Row]]:
    times = np.array([other["time"] for other in others])
    for face in faces:
        nearest = int(np.abs(times - face["time"]).argmin())
        if abs(times[nearest] - face["time"]) <= slack:
            yield face, others[nearest]


def _overlap(a: Row, b: Row) -> float:
    """Return the IoU of the squares that two crops show."""
    shared = 1.0
    area = float(a["crop_side"] ** 2 + b["crop_side"] ** 2)
    for start in ("crop_x0", "crop_y0"):
        low = max(a[start], b[start])
        high = min(a[start] + a["crop_side"], b[start] + b["crop_side"])
        shared *= max(0.0, float(high - low))
    return shared / (area - shared)


def compare_crops(fake: Row, original: Row, reader: ShardReader) -> Difference:
    """Compare two crops that show a face at the same time.

    Args:
        fake: row of the face index.
        original: row of its original; its crop may show another square of the frame.
        reader: of the shards.
    """
    pictures = aligned_pair(fake, original, reader)
    luma = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    small = [cv2.resize(one, (_SIZE, _SIZE), interpolation=cv2.INTER_AREA) for one in luma]
    # Wang et al., 2004, with the Gaussian window and the parameters of the paper.
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        *small,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    mask = np.asarray(1 - similarity, np.float32)
    face = _face_pixels(fake)
    around = mask[~face]
    noise = float(np.quantile(around, _NOISE_QUANTILE)) if len(around) else 0.0
    threshold = min(max(_CHANGED, _NOISE_FACTOR * noise), _MAX_CHANGED)
    return Difference(
        changed=float((mask[face] > threshold).mean()),
        dissimilarity=float(mask[face].mean()),
        outside=float(around.mean()) if len(around) else float("nan"),
        mask=mask,
        threshold=threshold,
    )


def aligned_pair(
    fake: Row, original: Row, reader: ShardReader
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return both crops as RGB uint8 (size, size, 3), the original's moved to the fake's square."""
    ours, theirs = (
        decode_jpeg(reader.read(one["shard"], one["offset"], one["size"]), one["key"])
        for one in (fake, original)
    )
    if all(fake[key] == original[key] for key in ("crop_x0", "crop_y0", "crop_side")):
        return ours, theirs
    scale = fake["crop_side"] / original["crop_side"]
    per_pixel = len(theirs) / original["crop_side"]
    shift = [(fake[key] - original[key]) * per_pixel for key in ("crop_x0", "crop_y0")]
    # Pixel centres lie half a pixel inside.
    half = (scale - 1) / 2
    matrix = np.array([[scale, 0, shift[0] + half], [0, scale, shift[1] + half]])
    moved = cv2.warpAffine(
        theirs,
        matrix,
        ours.shape[1::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return ours, np.asarray(moved, np.uint8)


def _face_pixels(face: Row) -> NDArray[np.bool_]:
    """Return which pixels of the small crop lie in the face's box."""
    scale = _SIZE / face["crop_side"]
    x0, x1 = (round((face[key] - face["crop_x0"]) * scale) for key in ("x0", "x1"))
    y0, y1 = (round((face[key] - face["crop_y0"]) * scale) for key in ("y0", "y1"))
    inside = np.zeros((_SIZE, _SIZE), np.bool_)
    inside[max(0, y0) : max(y1, 1), max(0, x0) : max(x1, 1)] = True
    return inside if inside.any() else ~inside


def with_verdicts(tracks: list[Row]) -> list[Row]:
    """Return the tracks of one FAKE video, each with the verdict of its figures.

    Args:
        tracks: rows with `frames` compared and the share of `changed` pixels.
    """
    altered = [bool(row["frames"]) and row["changed"] >= MIN_CHANGED_SHARE for row in tracks]
    rows = []
    for row, is_altered in zip(tracks, altered, strict=True):
        if is_altered:
            verdict = Verdict.ALTERED
        elif row["frames"] < _MIN_FRAMES:
            verdict = Verdict.UNKNOWN
        else:
            verdict = Verdict.UNSWAPPED if any(altered) else Verdict.UNCERTAIN
        rows.append(row | {"verdict": str(verdict)})
    return rows
