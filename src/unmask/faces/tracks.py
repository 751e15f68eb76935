"""Tracks: the faces of one person linked over the sampled frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from unmask.faces.detectors import Detections

# At 32 frames in 10 s neighbours are 0.3 s apart, in which a head moves by up to half its width.
_MIN_IOU = 0.2
# Frames a person may be unseen (a hand, a turned head) before the track ends.
_MAX_GAP = 4
# A track this much shorter than the longest is a false face or a passer-by.
_MIN_SHARE_OF_LONGEST = 0.25
# A box with this much of its area inside a larger face is a face inside a face.
_MAX_CONTAINED = 0.7


@dataclass(frozen=True)
class Track:
    """One person's faces.

    Attributes:
        frames: int64 (n,), frame indices, ascending, without gaps between first and last.
        boxes: float32 (n, 4), x0 y0 x1 y1 in pixels; interpolated where not detected.
        scores: float32 (n,), the detector's; 0 where interpolated.
        landmarks: float32 (n, 5, 2), see `Detections`.
        detected: bool (n,), whether the detector found the face in this frame.
    """

    frames: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    detected: NDArray[np.bool_]

    @property
    def weight(self) -> float:
        """How much the track speaks for a person: the sum of its scores."""
        return float(self.scores.sum())


@dataclass
class _OpenTrack:
    frames: list[int] = field(default_factory=list)
    faces: list[tuple[Detections, int]] = field(default_factory=list)

    def add(self, frame: int, detections: Detections, position: int) -> None:
        self.frames.append(frame)
        self.faces.append((detections, position))

    @property
    def last_box(self) -> NDArray[np.float32]:
        detections, position = self.faces[-1]
        box: NDArray[np.float32] = detections.boxes[position]
        return box


def link_faces(detections: Sequence[Detections], max_per_frame: int) -> list[Track]:
    """Link the faces of consecutive frames into tracks and drop what is no person.

    Neighbouring frames are matched by the assignment of the largest total IoU. Faces inside a
    larger face, and tracks much shorter than the longest, are dropped; of more than
    `max_per_frame` people in one frame, those with the largest sum of scores are kept.

    Args:
        detections: one per sampled frame, in order.
        max_per_frame: people kept in any one frame at most.

    Returns:
        The tracks, heaviest first.
    """
    done: list[_OpenTrack] = []
    alive: list[_OpenTrack] = []
    for frame, found in enumerate(map(_without_contained, detections)):
        done += [one for one in alive if frame - one.frames[-1] > _MAX_GAP]
        alive = [one for one in alive if frame - one.frames[-1] <= _MAX_GAP]
        taken = set()
        if alive and len(found):
            overlaps = iou(np.stack([one.last_box for one in alive]), found.boxes)
            for row, column in zip(*linear_sum_assignment(-overlaps), strict=True):
                if overlaps[row, column] >= _MIN_IOU:
                    alive[row].add(frame, found, column)
                    taken.add(column)
        for position in range(len(found)):
            if position not in taken:
                fresh = _OpenTrack()
                fresh.add(frame, found, position)
                alive.append(fresh)
    tracks = [_close(one) for one in done + alive]
    tracks.sort(key=lambda track: (-track.weight, int(track.frames[0]), float(track.boxes[0, 0])))
    return _people(tracks, len(detections), max_per_frame)


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the intersection over union of boxes a (n, 4) and b (m, 4) as float32 (n, m)."""
    shared = _intersection(a, b)
    return shared / (_area(a)[:, None] + _area(b)[None] - shared)


def _intersection(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides: NDArray[np.float32] = np.clip(high - low, 0, None)
    return sides[..., 0] * sides[..., 1]


def _area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _without_contained(found: Detections) -> Detections:
    if len(found) < 2:
        return found
    area = _area(found.boxes)
    inside = _intersection(found.boxes, found.boxes) / area[:, None] > _MAX_CONTAINED
    larger = area[None] > area[:, None]
    return found.where(~np.any(inside & larger, axis=1, keepdims=False).astype(np.bool_))


def _close(one: _OpenTrack) -> Track:
    """Fill the frames in which the person was not seen by linear interpolation."""
    seen = np.array(one.frames)
    boxes = np.stack([found.boxes[position] for found, position in one.faces])
    landmarks = np.stack([found.landmarks[position] for found, position in one.faces])
    frames = np.arange(seen[0], seen[-1] + 1)
    detected = np.isin(frames, seen)
    scores = np.zeros(len(frames), np.float32)
    scores[detected] = [found.scores[position] for found, position in one.faces]
    values = np.concatenate([boxes, landmarks.reshape(len(seen), 10)], axis=1)
    filled = np.stack([np.interp(frames, seen, column) for column in values.T], axis=1)
    filled = filled.astype(np.float32)
    return Track(frames, filled[:, :4], scores, filled[:, 4:].reshape(-1, 5, 2), detected)


def _people(tracks: list[Track], frames: int, max_per_frame: int) -> list[Track]:
    if not tracks:
        return []
    longest = max(int(track.detected.sum()) for track in tracks)
    people_in_frame = np.zeros(frames, np.int64)
    kept = []
    for track in tracks:
        long_enough = track.detected.sum() >= _MIN_SHARE_OF_LONGEST * longest
        if long_enough and (people_in_frame[track.frames] < max_per_frame).all():
            people_in_frame[track.frames] += 1
            kept.append(track)
    return kept
