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


def test_a_certain_and_wrong_prediction_has_a_finite_loss() -> None:
    found = binary_metrics(np.array([0.0, 1]), np.array([1.0, 1]))
    assert found.log_loss == pytest.approx(-math.log(1e-15) / 2, rel=1e-3)


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


def test_the_equal_error_rate_is_where_false_negatives_and_positives_are_equally_frequent() -> None:
    # (FNR, FPR) of the thresholds: (1, 0), (1/2, 0), (1/2, 1/2), (0, 1/2), (0, 1).
    found = binary_metrics(np.array([0, 1, 0, 1.0]), np.array([0.1, 0.4, 0.6, 0.9]))
    assert found.eer == pytest.approx(0.5)
    apart = binary_metrics(np.array([0, 0, 1, 1.0]), np.array([0.1, 0.2, 0.8, 0.9]))
    assert apart.eer == pytest.approx(0)


def test_a_false_positive_weighs_as_much_as_a_hundred_true_ones() -> None:
    """Of 10 FAKE, 5 are predicted above one REAL and 5 below."""
    labels = np.array([1.0] * 5 + [0] + [1] * 5 + [0] * 9)
    found = binary_metrics(labels, np.linspace(0.99, 0.01, 20))
    assert found.log_weighted_precision_50 == pytest.approx(0)
    assert found.log_weighted_precision_90 == pytest.approx(math.log(9 / (9 + 100)))


def test_the_expected_calibration_error_is_the_gap_of_each_bin() -> None:
    labels = np.array([1.0, 0, 1, 1, 1])
    predicted = np.array([0.2, 0.2, 0.9, 0.9, 0.9])
    expected = (2 * abs(0.2 - 0.5) + 3 * abs(0.9 - 1)) / 5
    assert binary_metrics(labels, predicted).ece == pytest.approx(expected)


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


def test_with_one_label_metrics_that_need_both_are_none() -> None:
    found = binary_metrics(np.ones(3), np.array([0.5, 0.6, 0.7]))
    assert found.roc_auc is None
    assert found.eer is None
    assert found.log_loss == pytest.approx(-np.log([0.5, 0.6, 0.7]).mean())
