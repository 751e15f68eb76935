"""Metrics of probabilities against labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
)

# The challenge's log loss clips here (scikit-learn's own would be the float's epsilon).
_CLIP = 1e-15


def best_constant_log_loss(labels: NDArray[np.float64]) -> float:
    """Return the log loss of the constant that is best in hindsight: the entropy of the base rate.

    No constant answer can do better on these labels, so a model above it is worth nothing.
    """
    rate = float(np.clip(labels.mean(), _CLIP, 1 - _CLIP))
    return float(-(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))


def binary_metrics(
    labels: NDArray[np.float64], probabilities: NDArray[np.float64]
) -> dict[str, float]:
    """Return the metrics of one set of answers.

    Args:
        labels: float64 (n,), 1 for FAKE; both classes must occur.
        probabilities: float64 (n,) of FAKE.

    Returns:
        `log_loss` is the challenge's: -mean(y log p + (1 - y) log(1 - p)).
    """
    clipped = np.clip(probabilities, _CLIP, 1 - _CLIP)
    return {
        "log_loss": float(log_loss(labels, clipped, labels=[0, 1])),
        "best_constant_log_loss": best_constant_log_loss(labels),
        "roc_auc": float(roc_auc_score(labels, probabilities)),
        "average_precision": float(average_precision_score(labels, probabilities)),
        "accuracy": float(accuracy_score(labels, probabilities > 0.5)),
        "brier": float(brier_score_loss(labels, clipped)),
        "videos": len(labels),
        "fake": int(labels.sum()),
    }
