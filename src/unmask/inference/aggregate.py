"""Aggregation: from the logits of a video's faces to one logit for the video.

All functions take the faces of many videos at once, so that millions of them are a matter of
seconds, and expect logits that assume as many FAKE as REAL videos: the published rules below have
thresholds that mean something only then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, logit

Floats = NDArray[np.float64]

# Probabilities are kept this far from 0 and 1 before they become logits again.
_EPSILON = 1e-6
_TRIMMED = 0.1


@dataclass(frozen=True)
class FaceLogits:
    """The faces of some videos, those of a video and of a person in it side by side.

    Attributes:
        logits: float64 (n,).
        video: int64 (n,), number of each face's video: ascending from 0, none left out.
        track: int64 (n,), number of each face's person, ascending from 0 over all videos, none left
            out.
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
        """Return int64 (tracks,), the video of each person."""
        first = np.flatnonzero(np.diff(self.track, prepend=-1))
        return self.video[first]


def mean_logit(faces: FaceLogits) -> Floats:
    """Return the mean logit of each video: the geometric mean of the odds."""
    return _mean(faces.logits, faces.video, faces.videos)


def mean_probability(faces: FaceLogits) -> Floats:
    """Return the logit of each video's mean probability."""
    return _logit(_mean(expit(faces.logits), faces.video, faces.videos))


def trimmed_mean(faces: FaceLogits) -> Floats:
    """Return the mean logit of each video without its lowest and its highest tenth.

    As many as `scipy.stats.trim_mean(logits, 0.1)` leaves out, rounded down.
    """
    order = np.lexsort((faces.logits, faces.video))
    count = np.bincount(faces.video, minlength=faces.videos)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    cut = (_TRIMMED * count).astype(np.int64)[faces.video]
    kept = (rank >= cut) & (rank < count[faces.video] - cut)
    return _mean(faces.logits[order][kept], faces.video[kept], faces.videos)


def confident(faces: FaceLogits) -> Floats:
    """Return the logit of what DFDC's winner (Selim Seferbekov) answered.

    Of n faces: where more than n // 2.5 and more than 11 have p > 0.8, the mean of those; else
    where more than 0.9 n have p < 0.2, the mean of those; else the mean of all.
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
    """Return the logit of what DFDC's third (NTech-Lab) answered.

    With d = p - 0.5 each face answers q = clip(0.5 + sign(d) |d|^0.65, 0.01, 0.99) with the weight
    |d| + 1e-4; the video answers the weighted mean.
    """
    d = expit(faces.logits) - 0.5
    q = np.clip(0.5 + np.sign(d) * np.abs(d) ** 0.65, 0.01, 0.99)
    weight = np.abs(d) + 1e-4
    return _logit(
        np.bincount(faces.video, weight * q, faces.videos)
        / np.bincount(faces.video, weight, faces.videos)
    )


def face_rules(faces: FaceLogits) -> Floats:
    """Return the logit of what DFDC's fourth (RobustForensics) answered.

    A person answers the mean of the faces with p > 0.85 where they are more than 70 %; else that of
    those with p < 0.15 where they are; else the mean of all. Of the persons of a video the maximum
    counts where it is above 0.9 or all are above 0.6, the minimum where all are below 0.4, else
    the mean.
    """
    p, track, tracks = expit(faces.logits), faces.track, int(faces.track[-1]) + 1
    count = np.bincount(track, minlength=tracks)
    high, low = p > 0.85, p < 0.15
    fake = np.bincount(track, high, tracks) > 0.7 * count
    real = ~fake & (np.bincount(track, low, tracks) > 0.7 * count)
    kept = np.where(fake[track], high, np.where(real[track], low, True))
    person = _mean(p[kept], track[kept], tracks)

    video = faces.video_of_track
    first = np.flatnonzero(np.diff(video, prepend=-1))
    largest, smallest = np.maximum.reduceat(person, first), np.minimum.reduceat(person, first)
    answer = np.where(
        (largest > 0.9) | (smallest > 0.6),
        largest,
        np.where(largest < 0.4, smallest, _mean(person, video, faces.videos)),
    )
    return _logit(answer)


def noisy_or(faces: FaceLogits) -> Floats:
    """Return the log-odds that at least one person of each video is FAKE, if they were independent.

    1 - prod(1 - p) over the persons, each with the probability of its mean logit.
    """
    person = _mean(faces.logits, faces.track, int(faces.track[-1]) + 1)
    all_real = np.bincount(faces.video_of_track, log_expit(-person), faces.videos)
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
