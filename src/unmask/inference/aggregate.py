"""Aggregation: from the logits of a video's faces to one logit for the video.

Each function takes the faces of many videos at once, so that millions of faces take seconds. All
logits assume even odds of FAKE and REAL, because the thresholds of the published rules do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, logit

Floats = NDArray[np.float64]

# Probabilities are clipped to [_EPSILON, 1 - _EPSILON] before they become logits again.
_EPSILON = 1e-6
_TRIMMED = 0.1


@dataclass(frozen=True)
class FaceLogits:
    """The faces of some videos, sorted by video and by track.

    Attributes:
        logits: float64 (n,), at even odds of FAKE and REAL.
        video: int64 (n,), the number of each face's video; ascending from 0 without gaps.
        track: int64 (n,), the number of each face's track, one person in one video; ascending from
            0 over all videos without gaps.
    """

    logits: Floats
    video: NDArray[np.int64]
    track: NDArray[np.int64]

    @property
    def videos(self) -> int:
        """Return the number of videos."""
        return int(self.video[-1]) + 1 if len(self.video) else 0

    @property
    def video_of_track(self) -> NDArray[np.int64]:
        """Return the video of each track, int64 (tracks,)."""
        return self.video[np.flatnonzero(np.diff(self.track, prepend=-1))]


def mean_logit(faces: FaceLogits) -> Floats:
    """Return the mean logit of each video: the geometric mean of the odds."""
    return _mean(faces.logits, faces.video, faces.videos)


def mean_probability(faces: FaceLogits) -> Floats:
    """Return the logit of each video's mean probability."""
    return _logit(_mean(expit(faces.logits), faces.video, faces.videos))


def trimmed_mean(faces: FaceLogits) -> Floats:
    """Return the mean logit of each video without its lowest and its highest tenth.

    Equal to `scipy.stats.trim_mean(logits, 0.1)`, which rounds the number of trimmed faces down.
    """
    order = np.lexsort((faces.logits, faces.video))
    count = np.bincount(faces.video, minlength=faces.videos)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    cut = (_TRIMMED * count).astype(np.int64)[faces.video]
    kept = (rank >= cut) & (rank < count[faces.video] - cut)
    return _mean(faces.logits[order][kept], faces.video[kept], faces.videos)


def confident(faces: FaceLogits) -> Floats:
    """Return the logit by the rule of DFDC's winner (Selim Seferbekov).

    If more than n // 2.5 and more than 11 of the n faces have p > 0.8: the mean of those. Else, if
    more than 0.9 n have p < 0.2: the mean of those. Else the mean of all.
    """
    p, video, videos = expit(faces.logits), faces.video, faces.videos
    count = np.bincount(video, minlength=videos)
    high, low = p > 0.8, p < 0.2
    highs = np.bincount(video, high, videos)
    lows = np.bincount(video, low, videos)
    fake = (highs > count // 2.5) & (highs > 11)
    real = ~fake & (lows > 0.9 * count)
    kept = np.where(fake[video], high, np.where(real[video], low, True))
    return _logit(_mean(p[kept], video[kept], videos))


def power_weighted(faces: FaceLogits) -> Floats:
    """Return the logit by the rule of DFDC's third place (NTech-Lab).

    With d = p - 0.5, the mean of q = clip(0.5 + sign(d) |d|^0.65, 0.01, 0.99), weighted by
    |d| + 1e-4.
    """
    d = expit(faces.logits) - 0.5
    q = np.clip(0.5 + np.sign(d) * np.abs(d) ** 0.65, 0.01, 0.99)
    weight = np.abs(d) + 1e-4
    return _logit(
        np.bincount(faces.video, weight * q, faces.videos)
        / np.bincount(faces.video, weight, faces.videos)
    )


def face_rules(faces: FaceLogits) -> Floats:
    """Return the logit by the rule of DFDC's fourth place (RobustForensics).

    A track has the mean of its faces with p > 0.85 if they are more than 70 %; else the mean of its
    faces with p < 0.15 if they are more than 70 %; else the mean of all. A video has the maximum of
    its tracks if that is above 0.9 or all are above 0.6; the minimum if all are below 0.4; else the
    mean.
    """
    p, track, video = expit(faces.logits), faces.track, faces.video_of_track
    tracks = len(video)
    count = np.bincount(track, minlength=tracks)
    high, low = p > 0.85, p < 0.15
    fake = np.bincount(track, high, tracks) > 0.7 * count
    real = ~fake & (np.bincount(track, low, tracks) > 0.7 * count)
    kept = np.where(fake[track], high, np.where(real[track], low, True))
    of_track = _mean(p[kept], track[kept], tracks)

    first = np.flatnonzero(np.diff(video, prepend=-1))
    largest, smallest = np.maximum.reduceat(of_track, first), np.minimum.reduceat(of_track, first)
    of_video = np.where(
        (largest > 0.9) | (smallest > 0.6),
        largest,
        np.where(largest < 0.4, smallest, _mean(of_track, video, faces.videos)),
    )
    return _logit(of_video)


def noisy_or(faces: FaceLogits) -> Floats:
    """Return the log-odds that at least one track is FAKE, as if tracks were independent.

    1 - prod(1 - p) over the tracks of a video, where p belongs to the mean logit of a track.
    """
    video = faces.video_of_track
    of_track = _mean(faces.logits, faces.track, len(video))
    all_real = np.bincount(video, log_expit(-of_track), faces.videos)
    # log(1 - exp(x)) - x, without overflow.
    x = np.minimum(all_real, -_EPSILON)
    return np.asarray(np.log(-np.expm1(x)) - x, np.float64)


AGGREGATIONS: dict[str, Callable[[FaceLogits], Floats]] = {
    "mean_logit": mean_logit,
    "mean_probability": mean_probability,
    "trimmed_mean": trimmed_mean,
    "confident": confident,
    "power_weighted": power_weighted,
    "face_rules": face_rules,
    "noisy_or": noisy_or,
}


def _mean(values: Floats, group: NDArray[np.int64], groups: int) -> Floats:
    """Return the mean of each group; every group must have a value."""
    return np.asarray(np.bincount(group, values, groups) / np.bincount(group, minlength=groups))


def _logit(probability: Floats) -> Floats:
    return np.asarray(logit(np.clip(probability, _EPSILON, 1 - _EPSILON)), np.float64)
