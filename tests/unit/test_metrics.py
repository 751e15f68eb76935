"""Metrics equal the challenge's and scikit-learn's."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit
from sklearn import metrics as sklearn_metrics

from unmask.evaluation import figures
from unmask.evaluation.metrics import (
    binary_metrics,
    constant_log_loss,
    decompose_log_loss,
)
from unmask.report.style import save


def log_loss(labels: NDArray[np.float64], probabilities: NDArray[np.float64]) -> float:
    return float(sklearn_metrics.log_loss(labels, probabilities, labels=[0, 1]))


def test_metrics_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random(50) < 0.7).astype(float)
    predicted = 0.3 * labels + rng.random(50) * 0.6
    found = binary_metrics(labels, predicted)
    right = np.where(labels == 1, predicted, 1 - predicted)
    fpr, tpr, _ = sklearn_metrics.roc_curve(labels, predicted, drop_intermediate=False)
    expected = {
        "log_loss": -np.log(right).mean(),
        "constant_log_loss": constant_log_loss(labels),
        "roc_auc": sklearn_metrics.roc_auc_score(labels, predicted),
        "average_precision": sklearn_metrics.average_precision_score(labels, predicted),
        "accuracy": np.mean((predicted > 0.5) == labels),
        "brier": np.mean((predicted - labels) ** 2),
        "tpr_at_fpr_0_1": tpr[fpr <= 0.001].max(),
        "tpr_at_fpr_5": tpr[fpr <= 0.05].max(),
        "count": 50,
        "fake": labels.sum(),
    }
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected)


def test_certain_predictions_can_be_drawn(tmp_path: Path) -> None:
    """An isotonic calibration without a clip predicts 0 and 1, and may be wrong."""
    labels, probabilities = np.array([0.0, 1, 1, 0]), np.array([1.0, 1, 0, 0.5])
    figure = figures.losses(labels, probabilities, binary_metrics(labels, probabilities))
    save(figure, tmp_path / "losses.svg")
    assert all(np.isfinite(bar.get_width()) for bar in figure.axes[0].patches)


@given(fakes=st.integers(0, 50), reals=st.integers(0, 50), constant=st.floats(0.001, 0.999))
def test_no_constant_beats_the_constant_baseline(fakes: int, reals: int, constant: float) -> None:
    assume(fakes + reals)
    labels = np.repeat([1.0, 0.0], [fakes, reals])
    best = constant_log_loss(labels)
    assert best <= log_loss(labels, np.full(len(labels), constant)) + 1e-9
    rate = np.clip(labels.mean(), 1e-12, 1 - 1e-12)
    assert best == pytest.approx(log_loss(labels, np.full(len(labels), rate)), abs=1e-9)


# Of 10 FAKE, 5 are predicted above one REAL and 5 below it.
HALVES = [1] * 5 + [0] + [1] * 5 + [0] * 9


@pytest.mark.parametrize(
    ("metric", "labels", "predicted", "expected"),
    [
        ("log_loss", [0, 1], [1, 1], -math.log(1e-15) / 2),
        ("log_loss", [1, 1, 1], [0.5, 0.6, 0.7], -math.log(0.5 * 0.6 * 0.7) / 3),
        ("roc_auc", [1, 1, 1], [0.5, 0.6, 0.7], None),
        ("eer", [1, 1, 1], [0.5, 0.6, 0.7], None),
        # (FNR, FPR) of the thresholds: (1, 0), (1/2, 0), (1/2, 1/2), (0, 1/2), (0, 1).
        ("eer", [0, 1, 0, 1], [0.1, 0.4, 0.6, 0.9], 0.5),
        ("eer", [0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 0),
        # A false positive weighs as much as a hundred true ones.
        ("log_weighted_precision_50", HALVES, np.linspace(0.99, 0.01, 20), 0),
        ("log_weighted_precision_90", HALVES, np.linspace(0.99, 0.01, 20), math.log(9 / 109)),
        ("ece", [1, 0, 1, 1, 1], [0.2, 0.2, 0.9, 0.9, 0.9], (2 * 0.3 + 3 * 0.1) / 5),
    ],
)
def test_metrics_of_a_few_predictions(
    metric: str, labels: list[int], predicted: list[float], expected: float | None
) -> None:
    found = getattr(binary_metrics(np.array(labels, float), np.array(predicted, float)), metric)
    assert found is None if expected is None else found == pytest.approx(expected, rel=1e-3)


def test_the_log_loss_is_the_sum_of_its_parts() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, 5000)
    labels = (rng.random(5000) < expit(logits)).astype(float)
    for slope, costs in ((1.0, (0, 0.01)), (4.0, (0.3, 2))):
        predicted = expit(slope * logits)
        resolution, calibration_error = decompose_log_loss(labels, predicted)
        total = constant_log_loss(labels) - resolution + calibration_error
        assert log_loss(labels, predicted) == pytest.approx(total)
        assert costs[0] <= calibration_error <= costs[1]
