"""Tracks: the faces of one person, linked over the sampled frames of a video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmask.faces.boxes import area, intersection, iou
from unmask.faces.detectors import Detections

# With 32 frames in 10 s, neighbours are 0.3 s apart. Heads then move by half a width at most.
_MIN_IOU = 0.2
# Frames in which a person may be undetected (a hand, a turned head) before the track ends.
MAX_GAP = 4
# A track with a smaller share of the longest track's length is a false detection or a passer-by.
_MIN_SHARE_OF_LONGEST = 0.25
# A face whose share of the largest face's width is smaller is in the background, or on a poster.
_MIN_SHARE_OF_LARGEST = 0.4
# A box with a larger share of its area inside a larger face is a part of that face.
_MAX_CONTAINED = 0.7
# Detected boxes shake faster than heads. At 3 frames per second, smoothing hardly changes them.
_SMOOTHING_S = 0.1


@dataclass(frozen=True)
class Track:
    """One person's faces, in n frames without a gap between the first and the last."""

    frames: NDArray[np.int64]  # (n,), indices, ascending
    boxes: NDArray[np.float32]  # (n, 4), x0 y0 x1 y1 in pixels; interpolated where not detected
    scores: NDArray[np.float32]  # (n,), the detector's; 0 where interpolated
    landmarks: NDArray[np.float32]  # (n, 5, 2), see `Detections`
    detected: NDArray[np.bool_]  # (n,), whether the detector found the face in this frame

    @property
    def weight(self) -> float:
        """Confidence that the track is a person: the sum of its scores."""
        return float(self.scores.sum())

    @property
    def width(self) -> float:
        """Median width of the face in pixels."""
        return float(np.median(self.boxes[:, 2] - self.boxes[:, 0]))


class _Face(NamedTuple):
    frame: int
    box: NDArray[np.float32]
    score: np.float32
    landmarks: NDArray[np.float32]


def link_faces(detections: Mapping[int, Detections]) -> list[Track]:
    """Link the faces of a video's frames into tracks, in decreasing order of weight.

    From frame to frame, pairs of a track and a face are linked in decreasing order of their IoU
    (Bochinski et al., 2017). Faces whose size or place is not a person's are dropped.

    Args:
        detections: by index of the frame. Frames without are interpolated, if there are fewer than
            `MAX_GAP` of them in a row.
    """
    ended: list[list[_Face]] = []
    growing: list[list[_Face]] = []
    for frame in sorted(detections):
        found = prominent_faces(detections[frame])
        ended += [one for one in growing if frame - one[-1].frame > MAX_GAP]
        growing = [one for one in growing if frame - one[-1].frame <= MAX_GAP]
        last_boxes = np.reshape([one[-1].box for one in growing], (-1, 4))
        pairs = match_boxes(last_boxes, found.boxes, _MIN_IOU)
        values = zip(found.boxes, found.scores, found.landmarks, strict=True)
        faces = [_Face(frame, *face) for face in values]
        for row, column in pairs:
            growing[row].append(faces[column])
        linked = {column for _, column in pairs}
        growing += [[face] for column, face in enumerate(faces) if column not in linked]
    tracks = [_fill_gaps(one) for one in ended + growing]
    return sorted(
        tracks, key=lambda track: (-track.weight, int(track.frames[0]), float(track.boxes[0, 0]))
    )


def match_boxes(
    a: NDArray[np.float32], b: NDArray[np.float32], min_iou: float
) -> list[tuple[int, int]]:
    """Return pairs of rows of boxes a (n, 4) and b (m, 4), by decreasing IoU, each used once."""
    if not len(a) or not len(b):
        return []
    overlaps = iou(a[:, None], b)
    pairs = []
    while overlaps.max() >= min_iou:
        row, column = (int(i) for i in np.unravel_index(overlaps.argmax(), overlaps.shape))
        pairs.append((row, column))
        overlaps[row], overlaps[:, column] = -1, -1
    return pairs


def smooth_track(track: Track, times: NDArray[np.float64]) -> Track:
    """Return a track with boxes and landmarks smoothed over time by a Gaussian of 0.1 s.

    `times` are those of the video's frames in seconds, float64 (n,).
    """
    own = times[track.frames]
    weights = np.exp(-0.5 * ((own[:, None] - own[None]) / _SMOOTHING_S) ** 2)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    landmarks = np.einsum("ij,jkl->ikl", weights, track.landmarks)
    return replace(track, boxes=weights @ track.boxes, landmarks=landmarks)


def retime_track(track: Track, times: NDArray[np.float64], wanted: NDArray[np.float64]) -> Track:
    """Return a track at the frames of another video of the same take, interpolated.

    `times` are those of its own video's frames in seconds, float64 (n,), and `wanted` those of the
    other video's, float64 (m,).
    """
    own = times[track.frames]
    slack = float(np.median(np.diff(times))) / 2 if len(times) > 1 else 0.0
    frames = np.flatnonzero((wanted >= own[0] - slack) & (wanted <= own[-1] + slack))
    nearest = np.abs(own[None] - wanted[frames][:, None]).argmin(axis=1)
    boxes, landmarks = _interpolate(wanted[frames], own, track.boxes, track.landmarks)
    undetected = np.zeros(len(frames), np.bool_)
    return Track(frames, boxes, track.scores[nearest], landmarks, undetected)


def prominent_faces(found: Detections) -> Detections:
    """Drop faces that are mostly inside a larger one, and those much smaller than the largest.

    The former are parts of a face or prints on it, the latter people in the background.
    """
    if len(found) < 2:
        return found
    areas = area(found.boxes)
    inside = intersection(found.boxes[:, None], found.boxes) / areas[:, None] > _MAX_CONTAINED
    contained = np.any(inside & (areas[None] > areas[:, None]), axis=1)
    width = found.boxes[:, 2] - found.boxes[:, 0]
    return found.where(~contained & (width >= _MIN_SHARE_OF_LARGEST * width.max()))


def _fill_gaps(faces: Sequence[_Face]) -> Track:
    """Interpolate the faces of a person in the frames in which none was detected."""
    seen, boxes, found_scores, landmarks = map(np.array, zip(*faces, strict=True))
    frames = np.arange(seen[0], seen[-1] + 1)
    detected = np.isin(frames, seen)
    scores = np.zeros(len(frames), np.float32)
    scores[detected] = found_scores
    boxes, landmarks = _interpolate(frames, seen, boxes, landmarks)
    return Track(frames, boxes, scores, landmarks, detected)


def _interpolate(
    at: NDArray[Any],
    known: NDArray[Any],
    boxes: NDArray[np.float32],
    landmarks: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return boxes (m, 4) and landmarks (m, 5, 2) at m positions, linearly from n known ones."""
    values = np.concatenate([boxes, landmarks.reshape(len(boxes), 10)], axis=1)
    columns = [np.interp(at, known, column) for column in values.T]
    moved = np.stack(columns, axis=1).astype(np.float32)
    return moved[:, :4], moved[:, 4:].reshape(-1, 5, 2)


def keep_people(tracks: list[Track], frames: int, max_per_frame: int) -> list[Track]:
    """Drop tracks that are too short or too small relative to others, or too many in a frame.

    A short track is kept if it continues one that was interrupted, for example by a cut: if it is
    as large, next to the other's start or end, and alone in its frames.

    Args:
        tracks: in decreasing order of weight, which decides who is kept.
        frames: number of frames of the video.
        max_per_frame: people in a frame at most.
    """
    longest = max((len(track.frames) for track in tracks), default=0)
    is_long = [len(track.frames) >= _MIN_SHARE_OF_LONGEST * longest for track in tracks]
    long = [track for track, keep in zip(tracks, is_long, strict=True) if keep]
    largest = max((track.width for track in long), default=0)
    people_in_frame = np.zeros(frames, np.int64)
    kept: list[Track] = []
    for track in long:
        large_enough = track.width >= _MIN_SHARE_OF_LARGEST * largest
        if large_enough and (people_in_frame[track.frames] < max_per_frame).all():
            people_in_frame[track.frames] += 1
            kept.append(track)
    for track, keep in zip(tracks, is_long, strict=True):
        alone = not keep and (people_in_frame[track.frames] == 0).all()
        if alone and any(_continues(track, other) for other in kept):
            people_in_frame[track.frames] += 1
            kept.append(track)
    return kept


def _continues(track: Track, other: Track) -> bool:
    after = track.frames[0] - other.frames[-1]
    before = other.frames[0] - track.frames[-1]
    as_large = _MIN_SHARE_OF_LARGEST <= track.width / other.width <= 1 / _MIN_SHARE_OF_LARGEST
    return bool(as_large and (0 < after <= MAX_GAP or 0 < before <= MAX_GAP))
