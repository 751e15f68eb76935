"""Fitting: how each model's logits are read is chosen and fitted on its select role alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from unmask.config import EvaluationConfig
from unmask.inference.aggregate import AGGREGATIONS, FaceLogits
from unmask.inference.calibrate import CALIBRATIONS, best_clip, log_odds
from unmask.inference.scoring_head import Readout, aggregate_logits

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

# Parts in which the select role is cross-fitted.
_PARTS = 5
# Fewer videos than this are no ground for a function of any shape.
_ISOTONIC_VIDEOS = 200
# With fewer groups standard errors are too small to choose by.
_GROUPS_TO_CHOOSE = 30
# What is taken unless another is better by more than chance.
_DEFAULT = ("mean_logit", "platt")


@dataclass(frozen=True)
class Selected:
    """A readout and what it answers to the videos it was fitted on, without having seen them.

    Attributes:
        readout: fitted on all of them.
        held_out: float64 (n,), the cross-fitted log-odds of each, clipped.
    """

    readout: Readout
    held_out: Floats


def fit_readout(
    faces: FaceLogits,
    labels: Floats,
    groups: NDArray[np.object_],
    assumed_prior: float,
    config: EvaluationConfig,
) -> Selected:
    """Choose and fit the readout of one model on the videos of its select role.

    Aggregation and calibration are those with the lowest log loss on videos that the calibration
    was not fitted on, if the default's is higher by more than two standard errors and there are 30
    groups to tell; of many candidates on few videos one always looks better. The clip is fitted to
    the same answers.

    Args:
        faces: of the select role, whose logits assume `assumed_prior`.
        labels: float64 (videos,), 1 for FAKE.
        groups: (videos,), what is never on both sides of the cross-fit.
        assumed_prior: share of FAKE.
        config: the candidates.
    """
    aggregates = list(AGGREGATIONS) if config.aggregate == "auto" else [config.aggregate]
    calibrates = list(CALIBRATIONS) if config.calibrate == "auto" else [config.calibrate]
    if config.calibrate == "auto" and len(labels) < _ISOTONIC_VIDEOS:
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
    answers = held_out[aggregate, calibrate]
    clip = best_clip(answers, labels) if config.clip == "auto" else config.clip
    if clip:
        answers = np.clip(answers, log_odds(clip), log_odds(1 - clip))
    readout = Readout(aggregate, calibrate, assumed_prior, replace(calibration, clip=clip))
    return Selected(readout, answers)


def cross_fit_parts(groups: NDArray[np.object_]) -> list[tuple[Rows, Rows]]:
    """Return rows to fit on and rows held out, in up to five parts; no group is in two.

    A single group is fitted on and held out at once: there is nothing else to ask.
    """
    count = min(_PARTS, len(np.unique(groups)))
    if count < 2:
        everything = np.arange(len(groups))
        return [(everything, everything)]
    return list(GroupKFold(count).split(groups, groups=groups))


def cross_fit(
    logits: Floats, labels: Floats, parts: list[tuple[Rows, Rows]], calibrate: str
) -> Floats:
    """Return the log-odds of each video by a calibration fitted on the videos of other parts."""
    answers = np.empty(len(logits))
    for fitted, held_out in parts:
        calibration = CALIBRATIONS[calibrate](logits[fitted], labels[fitted])
        answers[held_out] = calibration.log_odds(logits[held_out])
    return answers


def _best(
    held_out: Mapping[tuple[str, str], Floats], labels: Floats, group: Rows
) -> tuple[str, str]:
    signs = np.where(labels == 1, 1.0, -1.0)
    losses = {name: np.logaddexp(0, -signs * answers) for name, answers in held_out.items()}
    default = _DEFAULT if _DEFAULT in losses else next(iter(losses))
    if group.max() + 1 < _GROUPS_TO_CHOOSE:
        return default
    best = min(losses, key=lambda name: losses[name].mean())
    gain = losses[default] - losses[best]
    error = np.sqrt((np.bincount(group, gain - gain.mean()) ** 2).sum()) / len(gain)
    return best if gain.mean() > 2 * error else default
