"""Metrics of predicted probabilities, for one set of weights or for many bootstrap resamples.

Metrics are computed from the numbers of FAKE and REAL videos at each predicted probability.
Weighted counts give the metrics of a resample, so a metric and its interval share their code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr
from sklearn.isotonic import IsotonicRegression

Floats = NDArray[np.float64]
Interval = tuple[float | None, float | None]

# The challenge's log loss clips here (scikit-learn clips at the float's epsilon).
CLIP = 1e-15
_FALSE_POSITIVE_RATES = {"0_1": 0.001, "1": 0.01, "5": 0.05}
_RECALLS = {"10": 0.1, "50": 0.5, "90": 0.9}
# Dolhansky et al., "The Deepfake Detection Challenge (DFDC) Preview Dataset", 2019: one false
# positive weighs as much as a hundred true positives, since nearly all videos are REAL.
_FALSE_POSITIVE_WEIGHT = 100.0
_BINS = 15


@dataclass(frozen=True)
class Metrics:
    """Metrics of one set of predictions; None where they need a label that does not occur."""

    log_loss: float  # the challenge's, -mean(y log p + (1 - y) log(1 - p))
    constant_log_loss: float  # of the constant baseline, see `constant_log_loss`
    calibration_error: float  # part of the log loss, see `decompose_log_loss`
    resolution: float  # part of the log loss, see `decompose_log_loss`
    brier: float  # mean squared error
    ece: float  # expected calibration error, 15 bins of equal width
    accuracy: float  # at the threshold 0.5
    roc_auc: float | None  # area under the ROC curve
    average_precision: float | None  # of FAKE
    eer: float | None  # equal error rate: FPR = 1 - TPR, interpolated linearly
    tpr_at_fpr_0_1: float | None  # the highest TPR with an FPR of at most 0.1 %
    tpr_at_fpr_1: float | None  # the same at 1 %
    tpr_at_fpr_5: float | None  # the same at 5 %
    log_weighted_precision_10: float | None  # log(TP / (TP + 100 FP)) at 10 % recall (DFDC)
    log_weighted_precision_50: float | None  # the same at 50 % recall
    log_weighted_precision_90: float | None  # the same at 90 % recall
    count: int  # number of predictions
    fake: int  # how many of them are labelled FAKE
    without_face: int = 0  # how many of them are the prior because no face was found
    groups: int | None = None  # number of groups that `intervals` resample
    intervals: dict[str, Interval] = field(default_factory=dict)  # 95 %

    def values(self) -> dict[str, float | None]:
        """Return name to value, without the intervals."""
        return {name: value for name, value in vars(self).items() if name != "intervals"}


@dataclass(frozen=True)
class Counts:
    """The (weighted) numbers of FAKE and REAL at each predicted probability, in each set."""

    probabilities: Floats  # (levels,), ascending
    fakes: Floats  # (levels, sets)
    reals: Floats  # (levels, sets)


def count_labels(labels: Floats, probabilities: Floats) -> Counts:
    """Count labels by predicted probability, each prediction with weight 1."""
    levels, level = np.unique(probabilities, return_inverse=True)
    fakes, reals = (np.asarray(np.bincount(level, of), np.float64) for of in (labels, 1 - labels))
    return Counts(levels, fakes[:, None], reals[:, None])


def metrics_of(counts: Counts) -> dict[str, Floats]:
    """Return the metrics that have intervals, of each set of counts.

    Returns:
        Attribute of `Metrics` to float64 (sets,); NaN where a label that it needs does not occur.
    """
    p = np.clip(counts.probabilities, CLIP, 1 - CLIP)
    fakes, reals = counts.fakes, counts.reals
    with np.errstate(divide="ignore", invalid="ignore"):
        all_fakes, all_reals = fakes.sum(0), reals.sum(0)
        everything = all_fakes + all_reals
        positive = counts.probabilities > 0.5
        measured = {
            "log_loss": -(np.log(p) @ fakes + np.log1p(-p) @ reals) / everything,
            "brier": ((1 - p) ** 2 @ fakes + p**2 @ reals) / everything,
            "ece": _calibration_gaps(counts) / everything,
            "accuracy": (fakes[positive].sum(0) + reals[~positive].sum(0)) / everything,
        }
        return measured | _curve_metrics(fakes, reals, all_fakes, all_reals)


def _calibration_gaps(counts: Counts) -> Floats:
    """Return the sum over bins of |sum of probabilities - number of FAKE|, (sets,)."""
    edges = np.linspace(0, 1, _BINS + 1)[1:-1]
    starts = np.unique(np.searchsorted(counts.probabilities, [-1.0, *edges], side="right"))
    starts = starts[starts < len(counts.probabilities)]
    gap = counts.probabilities[:, None] * (counts.fakes + counts.reals) - counts.fakes
    return np.asarray(np.abs(np.add.reduceat(gap, starts, axis=0)).sum(0))


def _curve_metrics(
    fakes: Floats, reals: Floats, all_fakes: Floats, all_reals: Floats
) -> dict[str, Floats]:
    # Row k: positives if the k-th highest probability is the threshold; row 0: none.
    true_positives = np.zeros((len(fakes) + 1, fakes.shape[1]))
    false_positives = np.zeros_like(true_positives)
    np.cumsum(fakes[::-1], axis=0, out=true_positives[1:])
    np.cumsum(reals[::-1], axis=0, out=false_positives[1:])
    tpr, fpr = true_positives / all_fakes, false_positives / all_reals
    columns = np.arange(fakes.shape[1])

    area = ((tpr[1:] + tpr[:-1]) / 2 * np.diff(fpr, axis=0)).sum(0)
    precision = true_positives[1:] / np.maximum(true_positives[1:] + false_positives[1:], CLIP)
    average_precision = (np.diff(tpr, axis=0) * precision).sum(0)

    # FPR - FNR rises from -1 to 1; the equal error rate is the FPR where the line crosses 0.
    excess = fpr - (1 - tpr)
    after = np.maximum(np.argmax(excess >= 0, axis=0), 1)
    low, high = excess[after - 1, columns], excess[after, columns]
    share = np.where(high > low, -low / np.where(high > low, high - low, 1), 0)
    eer = fpr[after - 1, columns] + share * (fpr[after, columns] - fpr[after - 1, columns])

    measured = {"roc_auc": area, "average_precision": average_precision, "eer": eer}
    known = (all_fakes > 0) & (all_reals > 0)
    for name, rate in _FALSE_POSITIVE_RATES.items():
        last = (fpr <= rate).sum(0) - 1
        measured[f"tpr_at_fpr_{name}"] = tpr[np.maximum(last, 0), columns]
    for name, recall in _RECALLS.items():
        # The tolerance absorbs rounding errors of weighted sums.
        row = np.argmax(tpr >= recall - 1e-9, axis=0)
        hits, false = true_positives[row, columns], false_positives[row, columns]
        measured[f"log_weighted_precision_{name}"] = np.log(
            hits / (hits + _FALSE_POSITIVE_WEIGHT * false)
        )
    return {name: np.where(known, values, np.nan) for name, values in measured.items()}


def row_losses(labels: Floats, probabilities: Floats) -> dict[str, Floats]:
    """Return the log loss and the Brier score of each prediction, float64 (n,)."""
    p = np.clip(probabilities, CLIP, 1 - CLIP)
    return {
        "log_loss": -np.where(labels == 1, np.log(p), np.log1p(-p)),
        "brier": (p - labels) ** 2,
    }


def constant_log_loss(labels: Floats) -> float:
    """Return the log loss of the constant baseline, which predicts the share of FAKE everywhere.

    This is the entropy of the labels; no other constant has a lower log loss on them.
    """
    rate = labels.mean()
    return float(entr(rate) + entr(1 - rate))


def decompose_log_loss(labels: Floats, probabilities: Floats) -> tuple[float, float]:
    """Return the resolution and the calibration error of float64 (n,) predictions.

    The CORP decomposition (Dimitriadis, Gneiting and Jordan, "Stable reliability diagrams", 2021):
    log loss = constant baseline - resolution + calibration error. The paper calls these terms
    uncertainty, discrimination and miscalibration. The recalibrated predictions are the isotonic
    fit to the same labels, so few predictions make both terms too large by the same amount.
    """
    loss = row_losses(labels, probabilities)["log_loss"].mean()
    isotonic = IsotonicRegression(y_min=0, y_max=1).fit_transform(probabilities, labels)
    recalibrated = row_losses(labels, isotonic)["log_loss"].mean()
    return float(constant_log_loss(labels) - recalibrated), float(loss - recalibrated)


def binary_metrics(labels: Floats, probabilities: Floats) -> Metrics:
    """Return the metrics of float64 (n,) predictions, n > 0, without intervals."""
    measured = metrics_of(count_labels(labels, probabilities))
    values: dict[str, Any] = {name: finite(value[0]) for name, value in measured.items()}
    resolution, calibration_error = decompose_log_loss(labels, probabilities)
    return Metrics(
        **values,
        constant_log_loss=constant_log_loss(labels),
        resolution=resolution,
        calibration_error=calibration_error,
        count=len(labels),
        fake=int(labels.sum()),
    )


def finite(value: float) -> float | None:
    """Return a finite value, None for NaN and infinity, which JSON lacks."""
    return float(value) if np.isfinite(value) else None
