"""Search: which frames a detector looks at, so that a video costs as few detections as it needs.

A face moves little in a third of a second, and a fake shows its original's take. So a video is
looked at in every fourth frame, and between two looks that disagree in all; a fake is looked at in
four frames, to make sure that its original's tracks fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask.config import FacesConfig
from unmask.faces.boxes import iou
from unmask.faces.detectors import Detections, Detector
from unmask.faces.tracks import (
    MAX_GAP,
    Track,
    keep_people,
    link_faces,
    match_boxes,
    prominent_faces,
    retime_track,
    smooth_track,
)
from unmask.videos.color import picture_bgr
from unmask.videos.frames import Frame

# Two looks agree, and the frames between them are interpolated, when their faces overlap so much.
# Crops of interpolated and of detected boxes then overlap by 0.96 on average on real clips.
_AGREE_IOU = 0.6
# Frames of a fake in which its original's boxes are checked, and what is found there: on average,
# an offset of 5 % of the face or a scale of 8 % is a shift, not a detector's jitter.
_CHECKS = 4
_CHECK_MIN_IOU = 0.5
_CHECK_MEAN_IOU = 0.75
_MAX_OFFSET = 0.05
_MAX_SCALE = 0.08
# A print is as still as the noise (in grey levels of 32 x 32 pixels) next to a living face.
_STILL = 2.0
_STILL_SHARE = 0.25
_STILL_SIZE = 32
# A face below another, within its shoulders, and this small beside it is printed on a shirt: people
# in front are larger, people behind are higher, and a child's face has 3/4 of its parent's width.
_PRINT_SHARE = 0.6
_CHEST = (0.9, 3.0)  # from face centre to face centre, in heights of the wearer's face
_SHOULDERS = 1.0  # to either side, in widths of the wearer's face
_AROUND = 4


@dataclass(frozen=True)
class Search:
    """What was found in a video.

    Attributes:
        tracks: the people, the most certain first.
        times: of the sampled frames in seconds, float64 (n,).
        size: width and height of the frames in pixels.
        detections: frames that the detector looked at.
        reused: whether the tracks are another video's.
    """

    tracks: list[Track]
    times: NDArray[np.float64]
    size: tuple[int, int]
    detections: int
    reused: bool = False


class _Looks:
    """Detections by frame, each made once."""

    def __init__(self, frames: Sequence[Frame], detector: Detector, config: FacesConfig) -> None:
        self._frames = frames
        self._detector = detector
        self._config = config
        self.found: dict[int, Detections] = {}

    def at(self, index: int) -> Detections:
        if index not in self.found:
            detections = detect_faces(self._frames[index], self._detector, self._config)
            self.found[index] = prominent_faces(detections)
        return self.found[index]


def detect_faces(frame: Frame, detector: Detector, config: FacesConfig) -> Detections:
    """Find the faces of one frame, in its pixels: in a small picture, else in a larger one."""
    found = _detect_at(frame, detector, config, config.detect_size)
    if not len(found) and config.fallback_size > config.detect_size:
        found = _detect_at(frame, detector, config, config.fallback_size)
    return found


def _detect_at(frame: Frame, detector: Detector, config: FacesConfig, size: int) -> Detections:
    scale = min(1.0, size / max(frame.width, frame.height))
    width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    found = detector(picture_bgr(frame, width, height)).scaled(1 / scale)
    return found.where(found.boxes[:, 2] - found.boxes[:, 0] >= config.min_size)


def find_faces(
    frames: Sequence[Frame],
    detector: Detector,
    config: FacesConfig,
    reference: Search | None = None,
) -> Search:
    """Find the people of one video.

    Args:
        frames: the sampled frames in order.
        detector: from `create_detector`.
        config: sizes and limits.
        reference: what was found in a video of the same take, to be used where it fits.
    """
    looks = _Looks(frames, detector, config)
    times = np.array([frame.time for frame in frames])
    size = (frames[0].width, frames[0].height) if frames else (0, 0)
    if reference is not None and size == reference.size:
        reused = _fit_reference(reference, times, looks.at)
        if reused is not None:
            return Search(reused, times, size, len(looks.found), reused=True)
    _look_around(len(frames), looks.at)
    tracks = _without_prints(link_faces(looks.found), frames)
    people = keep_people(tracks, len(frames), config.max_per_frame)
    return Search([smooth_track(track, times) for track in people], times, size, len(looks.found))


def _look_around(frames: int, look: Callable[[int], Detections]) -> None:
    """Look at every fourth frame, halve where two looks disagree, at all where no face is seen."""
    start = sorted({*range(0, frames, MAX_GAP), frames - 1} - {-1})
    found = [look(index) for index in start]
    pairs = list(pairwise(start))
    while pairs:
        first, last = pairs.pop()
        if last - first > 1 and not _agree(look(first), look(last)):
            middle = (first + last) // 2
            look(middle)
            pairs += [(first, middle), (middle, last)]
    if not any(map(len, found)):
        for index in range(frames):
            look(index)


def _agree(a: Detections, b: Detections) -> bool:
    return len(a) == len(b) == len(match_boxes(a.boxes, b.boxes, _AGREE_IOU))


def _fit_reference(
    reference: Search, times: NDArray[np.float64], look: Callable[[int], Detections]
) -> list[Track] | None:
    """Return a reference's tracks at a video's times; None where they do not fit it.

    A look at a few frames must find every person of the reference, in the same place and size: a
    shifted, scaled or otherwise cut video is found out by the mean offset and scale of its faces.
    """
    if not reference.tracks or not len(times):
        return None
    step = float(np.median(np.diff(reference.times))) if len(reference.times) > 1 else 0.0
    if times[0] < reference.times[0] - step or times[-1] > reference.times[-1] + step:
        return None
    tracks = [retime_track(track, reference.times, times) for track in reference.tracks]
    tracks = [track for track in tracks if len(track.frames)]
    pairs = []
    for index in _check_positions(len(times)):
        expected = [track.boxes[track.frames == index] for track in tracks]
        boxes = np.concatenate(expected)
        found = look(index).boxes
        matched = match_boxes(boxes, found, _CHECK_MIN_IOU)
        if len(matched) < len(boxes):
            return None
        pairs += [(boxes[row], found[column]) for row, column in matched]
    return tracks if pairs and _same_place(*map(np.stack, zip(*pairs, strict=True))) else None


def _check_positions(frames: int) -> list[int]:
    return sorted({int((check + 0.5) * frames / _CHECKS) for check in range(_CHECKS)})


def _same_place(expected: NDArray[np.float32], found: NDArray[np.float32]) -> bool:
    sides = expected[:, 2:] - expected[:, :2]
    scale = np.log((found[:, 2:] - found[:, :2]) / sides)
    offset = ((found[:, :2] + found[:, 2:]) - (expected[:, :2] + expected[:, 2:])) / 2 / sides
    return bool(
        iou(expected, found).mean() >= _CHECK_MEAN_IOU
        and np.abs(np.median(offset, axis=0)).max() <= _MAX_OFFSET
        and abs(np.median(scale)) <= _MAX_SCALE
    )


def _without_prints(tracks: list[Track], frames: Sequence[Frame]) -> list[Track]:
    """Drop faces that keep as still as a picture while another one lives.

    A picture on a wall keeps its place, a print on a shirt its looks; the smaller of both changes
    is what counts, so that neither a moving camera nor a moving wearer gives them life.
    """
    tracks = [track for track in tracks if not any(_on_chest(track, one) for one in tracks)]
    if len(tracks) < 2:
        return tracks
    motion = [_motion(track, frames) for track in tracks]
    limit = min(_STILL, _STILL_SHARE * max(filter(np.isfinite, motion), default=0.0))
    return [track for track, moves in zip(tracks, motion, strict=True) if moves >= limit]


def _on_chest(track: Track, wearer: Track) -> bool:
    common, rows, wearer_rows = np.intersect1d(
        track.frames, wearer.frames, assume_unique=True, return_indices=True
    )
    if track is wearer or len(common) < len(track.frames) / 2:
        return False
    face, other = np.median(track.boxes[rows], axis=0), np.median(wearer.boxes[wearer_rows], axis=0)
    size = other[2:] - other[:2]
    aside, below = ((face[:2] + face[2:]) - (other[:2] + other[2:])) / 2 / size
    is_small = face[2] - face[0] <= _PRINT_SHARE * size[0]
    return bool(is_small and abs(aside) <= _SHOULDERS and _CHEST[0] <= below <= _CHEST[1])


def _motion(track: Track, frames: Sequence[Frame]) -> float:
    """Return how much luma changes between a track's looks, in its place or following it."""
    seen = np.flatnonzero(track.detected)
    if len(seen) < 2:
        return float("inf")
    # One size: a box changes its own by more than a mouth moves, and its place, so the patch is
    # looked for around it.
    centres = (track.boxes[seen, :2] + track.boxes[seen, 2:]) / 2
    reach = np.median(track.boxes[seen, 2:] - track.boxes[seen, :2], axis=0) / 2
    boxes = np.concatenate([centres - reach, centres + reach], axis=1)
    pictures = [frames[track.frames[row]] for row in seen]
    place = np.median(boxes, axis=0)
    standing = [
        _change(_patch(one, place), _patch(other, place)) for one, other in pairwise(pictures)
    ]
    following = [
        _change(_patch(one, box), _patch(other, next_box, _AROUND))
        for (one, other), (box, next_box) in zip(pairwise(pictures), pairwise(boxes), strict=True)
    ]
    return min(float(np.mean(standing)), float(np.mean(following)))


def _change(patch: NDArray[np.float32], around: NDArray[np.float32]) -> float:
    """Return the root mean square difference of a patch to the nearest place around it."""
    squares = cv2.matchTemplate(around, patch, cv2.TM_SQDIFF)
    return float(np.sqrt(max(squares.min(), 0) / patch.size))


def _patch(frame: Frame, box: NDArray[np.float32], around: int = 0) -> NDArray[np.float32]:
    """Return the luma of a box and of `around` pixels more on each side, its side 32 pixels."""
    more = (box[2:] - box[:2]) * around / _STILL_SIZE
    low = np.clip(np.round(box[:2] - more), 0, (frame.width - 1, frame.height - 1)).astype(int)
    high = np.maximum(np.round(box[2:] + more).astype(int), low + 1)
    patch = frame.planes[0][low[1] : high[1], low[0] : high[0]]
    size = _STILL_SIZE + 2 * around
    return np.asarray(cv2.resize(patch, (size, size), interpolation=cv2.INTER_AREA), np.float32)
