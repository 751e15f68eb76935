"""Search: finds the people of a video with as few detections as possible.

A face moves little in a third of a second. So the detector runs on every fourth frame, and on more
frames between two detections that disagree. A fake shows the same take as its original, so only
four of its frames are checked against the original's tracks.
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

# Detections of two frames agree from this IoU on, and boxes between them are interpolated. On real
# clips, crops of interpolated and of detected boxes then have a mean IoU of 0.96.
_AGREE_IOU = 0.6
# Frames of a fake in which the boxes of its original are checked, and how well they must fit. A
# median offset of 5 % of the face or a scale of 8 % is a shift, not the detector's jitter.
_CHECKS = 4
_CHECK_MIN_IOU = 0.5
_CHECK_MEAN_IOU = 0.75
_MAX_OFFSET = 0.05
_MAX_SCALE = 0.08
# A printed face changes as little as noise does (in grey levels of 32 x 32 pixels).
_STILL = 2.0
_STILL_SHARE = 0.25
_STILL_SIZE = 32
# A face below another one, between the shoulders, is printed on a shirt if its share of the other's
# width is at most this. People in front are larger, people behind are higher in the picture, and
# children's faces have 3/4 of the width.
_PRINT_SHARE = 0.6
_CHEST = (0.9, 3.0)  # from face centre to face centre, in heights of the wearer's face
_SHOULDERS = 1.0  # to either side, in widths of the wearer's face
_AROUND = 4


@dataclass(frozen=True)
class Search:
    """The people found in a video.

    Attributes:
        tracks: one per person, in decreasing order of confidence.
        times: of the sampled frames in seconds, float64 (n,).
        size: width and height of the frames in pixels.
        detections: number of frames that the detector ran on.
        reused: whether the tracks are those of another video.
    """

    tracks: list[Track]
    times: NDArray[np.float64]
    size: tuple[int, int]
    detections: int
    reused: bool = False


def detect_faces(frame: Frame, detector: Detector, config: FacesConfig) -> Detections:
    """Find the faces of one frame, in a small picture or, without success, in a larger one.

    Boxes are in pixels of the frame.
    """
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
    """Find the people of one video in its sampled frames.

    The search in a video of the same take, the reference, is reused where it fits.
    """
    found: dict[int, Detections] = {}

    def detect(index: int) -> Detections:
        if index not in found:
            found[index] = prominent_faces(detect_faces(frames[index], detector, config))
        return found[index]

    times = np.array([frame.time for frame in frames])
    size = (frames[0].width, frames[0].height) if frames else (0, 0)
    if config.detector == "none":
        return Search(_whole_pictures(frames, config), times, size, len(frames))
    if reference is not None and size == reference.size:
        reused = _fit_reference(reference, times, detect)
        if reused is not None:
            return Search(reused, times, size, len(found), reused=True)
    _detect_adaptively(len(frames), detect)
    tracks = _without_prints(link_faces(found), frames)
    people = keep_people(tracks, len(frames), config.max_per_frame)
    smoothed = [smooth_track(track, times) for track in people]
    return Search(smoothed, times, size, len(found))


def _whole_pictures(frames: Sequence[Frame], config: FacesConfig) -> list[Track]:
    """Return one track of faces in the middle of pictures, whose crops are the whole pictures."""
    if not frames:
        return []
    sizes = np.array([(frame.width, frame.height) for frame in frames], np.float32)
    reach = sizes.max(axis=1, keepdims=True) / (2 * (1 + 2 * config.margin))
    return [
        Track(
            frames=np.arange(len(frames)),
            boxes=np.concatenate([sizes / 2 - reach, sizes / 2 + reach], axis=1),
            scores=np.ones(len(frames), np.float32),
            landmarks=np.full((len(frames), 5, 2), np.nan, np.float32),
            detected=np.ones(len(frames), np.bool_),
        )
    ]


def _detect_adaptively(frames: int, detect: Callable[[int], Detections]) -> None:
    """Detect faces in every fourth frame and between results that disagree; if none, in all."""
    start = sorted({*range(0, frames, MAX_GAP), frames - 1} - {-1})
    found = [detect(index) for index in start]
    pairs = list(pairwise(start))
    while pairs:
        first, last = pairs.pop()
        if last - first > 1 and not _agree(detect(first), detect(last)):
            middle = (first + last) // 2
            detect(middle)
            pairs += [(first, middle), (middle, last)]
    if not any(map(len, found)):
        for index in range(frames):
            detect(index)


def _agree(a: Detections, b: Detections) -> bool:
    return len(a) == len(b) == len(match_boxes(a.boxes, b.boxes, _AGREE_IOU))


def _fit_reference(
    reference: Search, times: NDArray[np.float64], detect: Callable[[int], Detections]
) -> list[Track] | None:
    """Return the tracks of a reference at the times of a video; None where they do not fit it.

    In a few frames, every person of the reference must be detected at the same place and size. The
    mean offset and scale of the faces show whether the video was shifted, scaled or cut.
    """
    if not reference.tracks or not len(times):
        return None
    step = float(np.median(np.diff(reference.times))) if len(reference.times) > 1 else 0.0
    if times[0] < reference.times[0] - step or times[-1] > reference.times[-1] + step:
        return None
    tracks = [retime_track(track, reference.times, times) for track in reference.tracks]
    tracks = [track for track in tracks if len(track.frames)]
    pairs = []
    for index in sorted({int((check + 0.5) * len(times) / _CHECKS) for check in range(_CHECKS)}):
        expected = [track.boxes[track.frames == index] for track in tracks]
        boxes = np.concatenate(expected)
        found = detect(index).boxes
        matched = match_boxes(boxes, found, _CHECK_MIN_IOU)
        if len(matched) < len(boxes):
            return None
        pairs += [(boxes[row], found[column]) for row, column in matched]
    return tracks if pairs and _agree_in_place(*map(np.stack, zip(*pairs, strict=True))) else None


def _agree_in_place(expected: NDArray[np.float32], found: NDArray[np.float32]) -> bool:
    sides = expected[:, 2:] - expected[:, :2]
    scale = np.log((found[:, 2:] - found[:, :2]) / sides)
    offset = ((found[:, :2] + found[:, 2:]) - (expected[:, :2] + expected[:, 2:])) / 2 / sides
    return bool(
        iou(expected, found).mean() >= _CHECK_MEAN_IOU
        and np.abs(np.median(offset, axis=0)).max() <= _MAX_OFFSET
        and abs(np.median(scale)) <= _MAX_SCALE
    )


def _without_prints(tracks: list[Track], frames: Sequence[Frame]) -> list[Track]:
    """Drop printed faces: those that hardly change while another one does.

    A picture on a wall stays in its place, and a print on a shirt moves with the shirt. The change
    is measured both in place and along the track, and the smaller one counts, so that a moving
    camera or wearer does not make a print look alive.
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
    """Return how much luma changes between detections of a track, in place or along the track."""
    seen = np.flatnonzero(track.detected)
    if len(seen) < 2:
        return float("inf")
    # Boxes jitter by more than a mouth moves. So all boxes get one size, and the patch of one frame
    # is searched for around the box of the next frame.
    centres = (track.boxes[seen, :2] + track.boxes[seen, 2:]) / 2
    reach = np.median(track.boxes[seen, 2:] - track.boxes[seen, :2], axis=0) / 2
    boxes = np.concatenate([centres - reach, centres + reach], axis=1)
    place = np.median(boxes, axis=0)
    pictures = [frames[track.frames[row]] for row in seen]
    in_place, along = [], []
    for (one, box), (other, next_box) in pairwise(zip(pictures, boxes, strict=True)):
        in_place.append(_change(_patch(one, place), _patch(other, place)))
        along.append(_change(_patch(one, box), _patch(other, next_box, _AROUND)))
    return min(float(np.mean(in_place)), float(np.mean(along)))


def _change(patch: NDArray[np.float32], around: NDArray[np.float32]) -> float:
    """Return the root mean square difference of a patch to the place that is most similar to it."""
    squares = cv2.matchTemplate(around, patch, cv2.TM_SQDIFF)
    return float(np.sqrt(max(squares.min(), 0) / patch.size))


def _patch(frame: Frame, box: NDArray[np.float32], around: int = 0) -> NDArray[np.float32]:
    """Return the luma of a box at 32 x 32 pixels, with `around` more pixels on each side."""
    more = (box[2:] - box[:2]) * around / _STILL_SIZE
    low = np.clip(np.round(box[:2] - more), 0, (frame.width - 1, frame.height - 1)).astype(int)
    high = np.maximum(np.round(box[2:] + more).astype(int), low + 1)
    patch = frame.planes[0][low[1] : high[1], low[0] : high[0]]
    size = _STILL_SIZE + 2 * around
    return np.asarray(cv2.resize(patch, (size, size), interpolation=cv2.INTER_AREA), np.float32)
