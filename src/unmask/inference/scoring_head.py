"""The scoring head: aggregation and calibration, from a video's face logits to its probability.

Each model has one, fitted on videos that no model was trained on. Evaluation and the Kaggle bundle
apply the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from unmask.config import EvaluationConfig
from unmask.inference.aggregate import AGGREGATIONS, FaceLogits
from unmask.inference.calibrate import (
    Calibration,
    balanced_weights,
    clip_log_odds,
    fit_calibration,
    fit_clip,
    log_losses,
)

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_CROSS_FIT_PARTS = 5
# With fewer groups, standard errors are too small to choose by.
_FEWEST_GROUPS_TO_CHOOSE = 30
_DEFAULT_AGGREGATION = "mean_logit"


@dataclass(frozen=True)
class ScoringHead:
    """Aggregation and calibration of one model; a value of `calibration.json`."""

    aggregate: str  # one of `AGGREGATIONS`
    calibration: Calibration  # of the aggregated logits; its prior is that of the face logits

    def logits(self, faces: FaceLogits) -> Floats:
        """Return the logit of each video at even odds, float64 (videos,), before calibration."""
        return aggregate_logits(faces, self.aggregate, self.calibration.prior)


def aggregate_logits(faces: FaceLogits, aggregate: str, assumed_prior: float) -> Floats:
    """Return the logit of each video at even odds, which the published thresholds assume.

    Args:
        faces: their logits assume `assumed_prior`.
        aggregate: one of `AGGREGATIONS`.
        assumed_prior: share of FAKE, neither 0 nor 1.
    """
    even = FaceLogits(faces.logits - logit(assumed_prior), faces.video, faces.track)
    return AGGREGATIONS[aggregate](even)


def candidate_aggregations(config: EvaluationConfig) -> list[str]:
    """Return the aggregations to choose from, the default first."""
    if config.aggregate != "auto":
        return [config.aggregate]
    return [_DEFAULT_AGGREGATION, *(name for name in AGGREGATIONS if name != _DEFAULT_AGGREGATION)]


def fit_scoring_head(
    logits: Mapping[str, Floats],
    labels: Floats,
    groups: NDArray[np.object_],
    sources: NDArray[np.object_],
    config: EvaluationConfig,
) -> tuple[ScoringHead, Floats]:
    """Choose and fit a scoring head on held-out predictions, of one model or of several.

    An aggregation with a lower cross-fitted log loss replaces the first one if it is better by more
    than two standard errors, and if there are at least 30 groups: of many candidates on few videos,
    one always looks better. The clip is fitted to the cross-fitted predictions. Videos of a single
    label choose nothing.

    Args:
        logits: aggregation to float64 (n,), the logits of videos at even odds, the default first.
        labels: float64 (n,), 1 for FAKE.
        groups: (n,), the group of each video; no group is on both sides of the cross-fit.
        sources: (n,), the source of each video.
        config: what to fit.

    Returns:
        The head, with one half as its prior, and float64 (n,), the log-odds of each video at even
        odds by a calibration that was fitted without the video's group, clipped.
    """
    if len(np.unique(labels)) < 2:
        aggregate, predicted = next(iter(logits.items()))
        return ScoringHead(aggregate, Calibration(1.0, 0.0, prior=0.5)), predicted
    weights, parts = balanced_weights(labels, groups, sources), cross_fit_parts(groups)
    held_out = {
        name: cross_fit(config.calibrate, of_videos, labels, weights, parts)
        for name, of_videos in logits.items()
    }
    aggregate = _best(held_out, labels, weights, np.unique(groups, return_inverse=True)[1])
    calibration = fit_calibration(config.calibrate, logits[aggregate], labels, weights)
    clip = config.clip
    if clip == "auto":
        clip = fit_clip(calibration.log_odds(logits[aggregate]), labels, weights)
    head = ScoringHead(aggregate, replace(calibration, clip=clip))
    return head, clip_log_odds(held_out[aggregate], clip)


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
    how: str, logits: Floats, labels: Floats, weights: Floats, parts: list[tuple[Rows, Rows]]
) -> Floats:
    """Return the log-odds of each video by a calibration fitted on the other parts."""
    predicted = np.empty(len(logits))
    for fitted, held_out in parts:
        calibration = fit_calibration(how, logits[fitted], labels[fitted], weights[fitted])
        predicted[held_out] = calibration.log_odds(logits[held_out])
    return predicted


def _best(held_out: Mapping[str, Floats], labels: Floats, weights: Floats, group: Rows) -> str:
    """Return the first candidate, or one that is better by more than two standard errors."""
    losses = {name: log_losses(labels, predicted) for name, predicted in held_out.items()}
    default = next(iter(losses))
    if group.max() + 1 < _FEWEST_GROUPS_TO_CHOOSE:
        return default
    best = min(losses, key=lambda name: weights @ losses[name])
    gain = losses[default] - losses[best]
    mean = weights @ gain / weights.sum()
    error = np.sqrt((np.bincount(group, weights * (gain - mean)) ** 2).sum()) / weights.sum()
    return best if mean > 2 * error else default
