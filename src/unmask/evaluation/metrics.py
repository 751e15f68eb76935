"""Metrics of probabilities against labels, for one set of weights of the answers or for many.

Everything is computed from how many FAKE and how many REAL answers lie at each level of
probability. Weighted counts give the metrics of a resample (`unmask.evaluation.intervals`), so that
a figure and its interval come from the same lines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

Floats = NDArray[np.float64]

# The challenge's log loss clips here (scikit-learn's own would be the float's epsilon).
CLIP = 1e-15
_FALSE_POSITIVE_RATES = {"0.1": 0.001, "1": 0.01, "5": 0.05}
_RECALLS = {"10": 0.1, "50": 0.5, "90": 0.9}
# Dolhansky et al., "The Deepfake Detection Challenge (DFDC) Preview Dataset", 2019: a false alarm
# weighs as much as a hundred fakes found, since nearly all videos of the world are REAL.
_ALARM_WEIGHT = 100.0
_BINS = 15


@dataclass(frozen=True)
class Counts:
    """How often each answer was given to FAKE and to REAL.

    Attributes:
        answers: float64 (levels,), ascending probabilities.
        fakes: float64 (levels, sets), (weighted) number of FAKE with this answer in each set.
        reals: float64 (levels, sets), the same of REAL.
    """

    answers: Floats
    fakes: Floats
    reals: Floats


def count_answers(labels: Floats, probabilities: Floats) -> Counts:
    """Count answers, one level for each that occurs, each with weight 1."""
    answers, level = np.unique(probabilities, return_inverse=True)
    fakes, reals = np.zeros((2, len(answers), 1))
    np.add.at(fakes[:, 0], level[labels == 1], 1)
    np.add.at(reals[:, 0], level[labels == 0], 1)
    return Counts(answers, fakes, reals)


def metrics_of(counts: Counts) -> dict[str, Floats]:
    """Return each metric of each set of counts.

    Returns:
        Name to float64 (sets,); NaN where a label that a metric needs does not occur.
            log_loss: the challenge's, -mean(y log p + (1 - y) log(1 - p)).
            brier: mean squared error.
            ece: expected calibration error of 15 bins of equal width.
            accuracy: at one half.
            roc_auc, average_precision, eer: as usual; eer where the ROC curve, linear between its
                points, has as many misses as false alarms.
            tpr_at_fpr_X: the most FAKE found with at most X % of REAL called FAKE.
            log_weighted_precision_R: log(TP / (TP + 100 FP)) where R % of FAKE are found (DFDC).
    """
    p = np.clip(counts.answers, CLIP, 1 - CLIP)
    fakes, reals = counts.fakes, counts.reals
    with np.errstate(divide="ignore", invalid="ignore"):
        all_fakes, all_reals = fakes.sum(0), reals.sum(0)
        everything = all_fakes + all_reals
        called = counts.answers > 0.5
        measured = {
            "log_loss": -(np.log(p) @ fakes + np.log1p(-p) @ reals) / everything,
            "brier": ((1 - p) ** 2 @ fakes + p**2 @ reals) / everything,
            "ece": _calibration_error(counts) / everything,
            "accuracy": (fakes[called].sum(0) + reals[~called].sum(0)) / everything,
        }
        return measured | _curve_metrics(fakes, reals, all_fakes, all_reals)


def _calibration_error(counts: Counts) -> Floats:
    """Return the sum over bins of |sum of answers - number of FAKE|, (sets,)."""
    edges = np.linspace(0, 1, _BINS + 1)[1:-1]
    starts = np.unique(np.searchsorted(counts.answers, [-1.0, *edges], side="right"))
    starts = starts[starts < len(counts.answers)]
    gap = counts.answers[:, None] * (counts.fakes + counts.reals) - counts.fakes
    return np.asarray(np.abs(np.add.reduceat(gap, starts, axis=0)).sum(0))


def _curve_metrics(
    fakes: Floats, reals: Floats, all_fakes: Floats, all_reals: Floats
) -> dict[str, Floats]:
    # Row k: what is called FAKE with the k-th highest answer as the threshold; row 0: nothing.
    found = np.zeros((len(fakes) + 1, fakes.shape[1]))
    alarms = np.zeros_like(found)
    np.cumsum(fakes[::-1], axis=0, out=found[1:])
    np.cumsum(reals[::-1], axis=0, out=alarms[1:])
    tpr, fpr = found / all_fakes, alarms / all_reals
    columns = np.arange(fakes.shape[1])

    area = ((tpr[1:] + tpr[:-1]) / 2 * np.diff(fpr, axis=0)).sum(0)
    precision = found[1:] / np.maximum(found[1:] + alarms[1:], CLIP)
    average_precision = (np.diff(tpr, axis=0) * precision).sum(0)

    # Misses fall from 1 to 0 and alarms rise from 0 to 1; between two rows both are lines.
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
        # Rounding of weighted sums must not ask for one more.
        row = np.argmax(tpr >= recall - 1e-9, axis=0)
        hits, false = found[row, columns], alarms[row, columns]
        measured[f"log_weighted_precision_{name}"] = np.log(hits / (hits + _ALARM_WEIGHT * false))
    return {name: np.where(known, values, np.nan) for name, values in measured.items()}


def constant_log_loss(labels: Floats) -> float:
    """Return the log loss of the constant that is best in hindsight: the entropy of the base rate.

    No constant answer can do better on these labels, so a model above it is worth nothing.
    """
    rate = float(np.clip(labels.mean(), CLIP, 1 - CLIP))
    return float(-(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))


def decompose_log_loss(labels: Floats, probabilities: Floats) -> dict[str, float]:
    """Split the log loss into what calibration costs and what telling apart gains.

    With the best non-decreasing recalibration of these very answers (Dimitriadis, Gneiting and
    Jordan, "Stable reliability diagrams", 2021): log loss = best constant - discrimination +
    miscalibration. On few answers both are too large by as much, since the recalibration is fitted
    to them.

    Args:
        labels: float64 (n,), 1 for FAKE.
        probabilities: float64 (n,) of FAKE.
    """
    answered = metrics_of(count_answers(labels, probabilities))["log_loss"][0]
    isotonic = IsotonicRegression(y_min=0, y_max=1).fit_transform(probabilities, labels)
    recalibrated = metrics_of(count_answers(labels, isotonic))["log_loss"][0]
    constant = constant_log_loss(labels)
    return {
        "miscalibration": float(answered - recalibrated),
        "discrimination": float(constant - recalibrated),
    }


def binary_metrics(labels: Floats, probabilities: Floats) -> dict[str, float | None]:
    """Return the metrics of one set of answers.

    Args:
        labels: float64 (n,), 1 for FAKE.
        probabilities: float64 (n,) of FAKE.

    Returns:
        See `metrics_of`, None where one label is missing, and `decompose_log_loss`;
        `constant_log_loss`, the number of answers `count`, and `fake`, those to FAKE.
    """
    measured = metrics_of(count_answers(labels, probabilities))
    return {
        **{name: number(values[0]) for name, values in measured.items()},
        "constant_log_loss": constant_log_loss(labels),
        **decompose_log_loss(labels, probabilities),
        "count": len(labels),
        "fake": int(labels.sum()),
    }


def number(value: float) -> float | None:
    """Return a finite value as JSON takes it, else None."""
    return float(value) if np.isfinite(value) else None
