"""The scoring head: aggregation and calibration, from a video's face logits to its probability.

Each model has one, chosen and fitted on its validation videos. Evaluation and the Kaggle bundle
apply the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unmask.config import EvaluationConfig
from unmask.inference.aggregate import AGGREGATIONS, FaceLogits
from unmask.inference.calibrate import CALIBRATIONS, Calibration, best_clip, log_odds

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_CROSS_FIT_PARTS = 5
_FEWEST_VIDEOS_FOR_ISOTONIC = 200
# With fewer groups, standard errors are too small to choose by.
_FEWEST_GROUPS_TO_CHOOSE = 30
# Taken unless another candidate is significantly better.
_DEFAULT = ("mean_logit", "platt")


@dataclass(frozen=True)
class ScoringHead:
    """Aggregation and calibration of one model; a value of `calibration.json`."""

    aggregate: str  # one of `AGGREGATIONS`
    calibrate: str  # one of `CALIBRATIONS`
    assumed_prior: float  # share of FAKE that the face logits assume
    calibration: Calibration  # of the aggregated logits

    def logits(self, faces: FaceLogits) -> Floats:
        """Return the logit of each video, float64 (videos,), before calibration."""
        return aggregate_logits(faces, self.aggregate, self.assumed_prior)


def aggregate_logits(faces: FaceLogits, aggregate: str, assumed_prior: float) -> Floats:
    """Aggregate logits of any assumed prior: at even odds, and moved back to the prior.

    Args:
        faces: their logits assume `assumed_prior`.
        aggregate: one of `AGGREGATIONS`, whose thresholds are meant for even odds.
        assumed_prior: share of FAKE, neither 0 nor 1.
    """
    shift = log_odds(assumed_prior)
    even = FaceLogits(faces.logits - shift, faces.video, faces.track)
    return AGGREGATIONS[aggregate](even) + shift


@dataclass(frozen=True)
class FittedHead:
    """A scoring head and its cross-fitted predictions for the videos it was fitted on.

    Attributes:
        head: fitted on all of them.
        held_out: float64 (n,), log-odds of each video by a calibration that was fitted without the
            video's group, clipped.
    """

    head: ScoringHead
    held_out: Floats


def fit_scoring_head(
    faces: FaceLogits,
    labels: Floats,
    groups: NDArray[np.object_],
    assumed_prior: float,
    config: EvaluationConfig,
) -> FittedHead:
    """Choose and fit the scoring head of one model on its validation videos.

    The candidate with the lowest cross-fitted log loss is taken if it beats the default by more
    than two standard errors, and if there are at least 30 groups: of many candidates on few videos,
    one always looks better. The clip is fitted to the same held-out predictions.

    Args:
        faces: of the validation videos; their logits assume `assumed_prior`.
        labels: float64 (videos,), 1 for FAKE.
        groups: (videos,), the group of each video; no group is on both sides of the cross-fit.
        assumed_prior: share of FAKE.
        config: the candidates.
    """
    aggregates = list(AGGREGATIONS) if config.aggregate == "auto" else [config.aggregate]
    calibrates = list(CALIBRATIONS) if config.calibrate == "auto" else [config.calibrate]
    if config.calibrate == "auto" and len(labels) < _FEWEST_VIDEOS_FOR_ISOTONIC:
        calibrates.remove("isotonic")
    logits = {name: aggregate_logits(faces, name, assumed_prior) for name in aggregates}
    parts = cross_fit_parts(groups)
    held_out = {
        (aggregate, calibrate): cross_fit(logits[aggregate], labels, parts, calibrate)
        for aggregate in aggregates
        for calibrate in calibrates
    }
    aggregate, calibrate = _best(held_out, labels, np.unique(groups, return_inverse=True)[1])
    calibration = CALIBRATIONS[calibrate](logits[aggregate], labels)
    predicted = held_out[aggregate, calibrate]
    clip = best_clip(predicted, labels) if config.clip == "auto" else config.clip
    if clip:
        predicted = np.clip(predicted, log_odds(clip), log_odds(1 - clip))
    head = ScoringHead(aggregate, calibrate, assumed_prior, replace(calibration, clip=clip))
    return FittedHead(head, predicted)


def cross_fit_parts(groups: NDArray[np.object_]) -> list[tuple[Rows, Rows]]:
    """Return pairs of rows to fit on and rows held out, up to five; a group is in one part only.

    A single group is fitted on and held out at once.
    """
    from sklearn.model_selection import GroupKFold  # a Kaggle image may lack it

    count = min(_CROSS_FIT_PARTS, len(np.unique(groups)))
    if count < 2:
        everything = np.arange(len(groups))
        return [(everything, everything)]
    return list(GroupKFold(count).split(groups, groups=groups))


def cross_fit(
    logits: Floats, labels: Floats, parts: list[tuple[Rows, Rows]], calibrate: str
) -> Floats:
    """Return the log-odds of each video by a calibration fitted on the other parts."""
    predicted = np.empty(len(logits))
    for fitted, held_out in parts:
        calibration = CALIBRATIONS[calibrate](logits[fitted], labels[fitted])
        predicted[held_out] = calibration.log_odds(logits[held_out])
    return predicted


def _best(
    held_out: Mapping[tuple[str, str], Floats], labels: Floats, group: Rows
) -> tuple[str, str]:
    """Return the default, or the candidate that is better by more than two standard errors."""
    signs = np.where(labels == 1, 1.0, -1.0)
    losses = {name: np.logaddexp(0, -signs * predicted) for name, predicted in held_out.items()}
    default = _DEFAULT if _DEFAULT in losses else next(iter(losses))
    if group.max() + 1 < _FEWEST_GROUPS_TO_CHOOSE:
        return default
    best = min(losses, key=lambda name: losses[name].mean())
    gain = losses[default] - losses[best]
    error = np.sqrt((np.bincount(group, gain - gain.mean()) ** 2).sum()) / len(gain)
    return best if gain.mean() > 2 * error else default
