"""Label noise: FAKE faces that do not differ from their original's, so their label is wrong.

In a FAKE with two people, often only one face is swapped. In some videos, only the sound is fake.
A fake shows the footage of its original, so crops of both at equal times are compared pixel by
pixel, like the difference masks of DFDC's winner (selimsef, `generate_diffs.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from unmask.faces.boxes import in_crops, iou, squares
from unmask.faces.shards import ShardReader
from unmask.progress import track
from unmask.tables import FACES, NOISE, VIDEOS, read_rows, read_tables, write_rows
from unmask.videos.ledger import WITHOUT_FILE
from unmask.vocabulary import Label, Verdict

logger = logging.getLogger(__name__)

Row = dict[Any, Any]

# The constants were measured on 46 truly altered FAKE tracks of FaceForensics++ (5 manipulation
# methods), and on their 12 originals re-encoded with x264 at CRF 23, 32 and 40.
#
# At 64 pixels a face loses what compression removes first and keeps what a swap changes. At 256
# pixels no threshold separated a subtle fake from CRF 40.
_SIZE = 64
# A pixel is changed if its dissimilarity 1 - SSIM exceeds this, and twice the 90 % quantile around
# the face: compression affects the whole crop, a manipulation only the face.
_CHANGED = 0.15
_NOISE_QUANTILE = 0.9
_NOISE_FACTOR = 2.0
# Upper limit of the threshold. Compression reaches 0.4 around a face; pictures with a larger
# dissimilarity differ as a whole, as with a generated head, and this is an alteration too.
_MAX_CHANGED = 0.5
# Mean share of changed face pixels over a track. Altered tracks: at least 0.053, median 0.33.
# Re-encoded tracks: at most 0.0001 at CRF 23 and 32, at most 0.027 at CRF 40.
MIN_CHANGED_SHARE = 0.04
# One changed frame proves an alteration. Its absence takes this many frames.
_MIN_FRAMES = 4
# At most so many frames of a track are compared. The mean hardly changes with more.
_MAX_FRAMES = 16
# Tracks belong to one person if the squares of their crops overlap this much on average.
_SAME_PERSON_IOU = 0.3
# Times are equal if they differ by less than this share of a frame.
_SAME_FRAME = 0.4

_SQUARE = ("crop_x0", "crop_y0", "crop_side")  # what a crop shows, in pixels of the frame
_FACE_COLUMNS = (
    *("part", "video", "track", "frame", "time", "shard", "key", "offset", "size"),
    *("x0", "y0", "x1", "y1", *_SQUARE),
)


def audit_shard(
    ledger: Path, index: Path, indices: Sequence[Path], shards: Path, output: Path
) -> None:
    """Compare each FAKE track of a shard with its original's, which may be in another shard.

    Args:
        ledger: `results/videos.parquet`, for labels, families and frame rates.
        index: the shard's face index.
        indices: face indices of all shards.
        shards: folder of face shards.
        output: one row per FAKE track, see `unmask.tables.NOISE`.
    """
    cv2.setNumThreads(1)
    videos = {(row["part"], row["video"]): row for row in read_rows(ledger, VIDEOS)}
    original_of = {
        row["family"]: row
        for row in videos.values()
        if row["label"] == Label.REAL and row["status"] not in WITHOUT_FILE
    }
    fakes = _tracks_of([index], [one for one, row in videos.items() if row["label"] == Label.FAKE])
    compared_with = {name: original_of.get(videos[name]["family"]) for name in fakes}
    names = {(row["part"], row["video"]) for row in compared_with.values() if row}
    originals = _tracks_of(indices, names)
    reader = ShardReader(shards)
    rows: list[Row] = []
    for name, tracks in track(fakes.items(), "fakes", len(fakes)):
        fake, original = videos[name], compared_with[name]
        about = {"part": name[0], "video": name[1], "original": fake["original"]}
        theirs: dict[int, list[Row]] = {}
        if original is not None:
            about["original_part"] = original["part"]
            if _same_size(fake, original):
                theirs = originals.get((original["part"], original["video"]), {})
        fps = original["video_fps"] if original else None
        compared = [
            about | {"track": number} | _compare_track(faces, theirs, fps, reader)
            for number, faces in tracks.items()
        ]
        rows += with_verdicts(compared)
    write_rows(rows, NOISE, output)
    counts = {str(one): sum(row["verdict"] == one for row in rows) for one in Verdict}
    logger.info("%d tracks of %d FAKE videos: %s", len(rows), len(fakes), counts)


def _tracks_of(
    indices: Sequence[Path], videos: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], dict[int, list[Row]]]:
    """Return the rows of the face index of some videos, by part and video, and by track."""
    names = pd.DataFrame(sorted(videos), columns=["part", "video"])
    faces = read_tables(indices, FACES, _FACE_COLUMNS, matching=names)
    tracks: dict[tuple[str, str], dict[int, list[Row]]] = {}
    for face in faces.to_dict("records"):
        of_video = tracks.setdefault((face["part"], face["video"]), {})
        of_video.setdefault(face["track"], []).append(face)
    return tracks


def _same_size(a: Row, b: Row) -> bool:
    """Return whether pixels of two videos correspond; those of a cropped video do not."""
    keys = ("video_width", "video_height", "video_display_matrix")
    square = (None, "1:1")
    one, other = a["video_sample_aspect_ratio"], b["video_sample_aspect_ratio"]
    same_pixels = one == other or (one in square and other in square)
    return same_pixels and all(a[key] == b[key] for key in keys)


def _compare_track(
    faces: list[Row], originals: dict[int, list[Row]], fps: float | None, reader: ShardReader
) -> Row:
    matched = match_original(faces, originals, fps)
    if not matched:
        return {"frames": 0}
    chosen = np.unique(np.linspace(0, len(matched) - 1, _MAX_FRAMES).astype(int))
    pairs = [matched[position] for position in chosen]
    changed = [compare_crops(fake, original, reader)[0] for fake, original in pairs]
    return {
        "original_track": matched[0][1]["track"],
        "frames": len(changed),
        "changed": float(np.mean(changed)),
    }


def match_original(
    faces: list[Row], originals: dict[int, list[Row]], fps: float | None
) -> list[tuple[Row, Row]]:
    """Pair the crops of a fake's track with its original's of the same person and time.

    Args:
        faces: rows of the face index of the fake's track.
        originals: rows of the original, by track; the one that overlaps most is taken, or none.
        fps: frames per second of the original; None if unknown.
    """
    tolerance = _SAME_FRAME / (fps or 30.0)
    best: list[tuple[Row, Row]] = []
    best_overlap = _SAME_PERSON_IOU
    for others in originals.values():
        times = np.array([other["time"] for other in others])
        nearest = [int(np.abs(times - face["time"]).argmin()) for face in faces]
        pairs = [
            (face, others[position])
            for face, position in zip(faces, nearest, strict=True)
            if abs(times[position] - face["time"]) <= tolerance
        ]
        if pairs:
            ours, theirs = (
                squares(*zip(*[[face[key] for key in _SQUARE] for face in side], strict=True))
                for side in zip(*pairs, strict=True)
            )
            overlap = float(iou(ours, theirs).mean())
            if overlap >= best_overlap:
                best, best_overlap = pairs, overlap
    return best


def compare_crops(
    fake: Row, original: Row, reader: ShardReader
) -> tuple[float, NDArray[np.float32]]:
    """Compare two crops that show a face at the same time, maybe in other squares of the frame.

    Returns:
        The share of changed pixels in the face's box, and the dissimilarity 1 - SSIM of each pixel
        of the crop, (64, 64).
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
    return float((mask[face] > threshold).mean()), mask


def aligned_pair(
    fake: Row, original: Row, reader: ShardReader
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return both crops as RGB uint8 (size, size, 3), the original's moved to the fake's square."""
    ours, theirs = reader.read_crop(fake), reader.read_crop(original)
    if all(fake[key] == original[key] for key in _SQUARE):
        return ours, theirs
    scale = fake["crop_side"] / original["crop_side"]
    per_pixel = len(theirs) / original["crop_side"]
    # Pixel centres are half a pixel from the edges.
    shifts = [
        (fake[key] - original[key]) * per_pixel + (scale - 1) / 2 for key in ("crop_x0", "crop_y0")
    ]
    matrix = np.array([[scale, 0, shifts[0]], [0, scale, shifts[1]]])
    moved = cv2.warpAffine(
        theirs,
        matrix,
        ours.shape[1::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return ours, np.asarray(moved, np.uint8)


def face_box(face: Row) -> NDArray[np.float32]:
    """Return the face's box in units of the side of its crop: x0, y0, x1, y1."""
    box, square = ([face[key] for key in keys] for keys in (("x0", "y0", "x1", "y1"), _SQUARE))
    (inside,) = in_crops([box], [square])
    return np.asarray(inside, np.float32)


def _face_pixels(face: Row) -> NDArray[np.bool_]:
    """Return which pixels of the small crop are in the face's box: bool (64, 64)."""
    x0, y0, x1, y1 = np.rint(face_box(face) * _SIZE).astype(int)
    inside = np.zeros((_SIZE, _SIZE), np.bool_)
    inside[max(0, y0) : max(y1, 1), max(0, x0) : max(x1, 1)] = True
    return inside if inside.any() else ~inside


def with_verdicts(tracks: list[Row]) -> list[Row]:
    """Return the tracks of one FAKE video, with `frames` and `changed`, each with its `verdict`."""
    altered = [bool(row["frames"]) and row["changed"] >= MIN_CHANGED_SHARE for row in tracks]
    unaltered = Verdict.UNSWAPPED if any(altered) else Verdict.UNCERTAIN
    rows = []
    for row, is_altered in zip(tracks, altered, strict=True):
        known = unaltered if row["frames"] >= _MIN_FRAMES else Verdict.UNKNOWN
        rows.append(row | {"verdict": str(Verdict.ALTERED if is_altered else known)})
    return rows
