"""Metrics equal the challenge's and scikit-learn's, and intervals have their coverage."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit
from sklearn import metrics as sklearn_metrics

from unmask.evaluation import figures
from unmask.evaluation.compare import paired_difference
from unmask.evaluation.intervals import (
    interval,
    mean_interval,
    metric_intervals,
    resampled_metrics,
    resampling,
)
from unmask.evaluation.metrics import (
    binary_metrics,
    constant_log_loss,
    decompose_log_loss,
    row_losses,
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
    figure = figures.losses(np.array([0.0, 1, 1, 0]), np.array([1.0, 1, 0, 0.5]))
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


def draw_families(
    rng: np.random.Generator, families: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.object_]]:
    """Draw families of a REAL and one to six FAKE whose difficulty they share."""
    labels, logits, groups = [], [], []
    for family in range(families):
        hard = rng.normal(0, 1.5)
        fakes = int(rng.integers(1, 7))
        labels += [0.0, *[1.0] * fakes]
        logits += [rng.normal(-1 + hard, 1), *rng.normal(1 + hard, 1, fakes)]
        groups += [f"family {family}"] * (1 + fakes)
    return np.array(labels), expit(np.array(logits)), np.array(groups, dtype=object)


@pytest.mark.parametrize(
    ("families", "metric"), [(40, "log_loss"), (100, "log_loss"), (40, "roc_auc")]
)
def test_intervals_cover_the_truth_in_95_percent_of_trials(families: int, metric: str) -> None:
    rng, trials = np.random.default_rng(3), 400
    truth = binary_metrics(*draw_families(rng, 40_000)[:2]).values()[metric]
    covered = 0
    for trial in range(trials):
        labels, probabilities, groups = draw_families(rng, families)
        resampled = resampling(groups, 500, trial)
        low, high = metric_intervals(labels, probabilities, resampled)[metric]
        covered += low <= truth <= high
    assert 0.92 <= covered / trials <= 0.98


def test_intervals_of_single_videos_would_be_too_narrow() -> None:
    labels, predicted, groups = draw_families(np.random.default_rng(4), 60)
    alone = np.arange(len(labels)).astype(object)

    def width(names: NDArray[np.object_]) -> float:
        low, high = metric_intervals(labels, predicted, resampling(names, 1000))["log_loss"]
        return high - low

    assert width(groups) > 1.3 * width(alone)


def test_merging_levels_hardly_changes_a_resample() -> None:
    """More than 4096 distinct probabilities are merged with their neighbours."""
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, 6000)
    labels = (rng.random(6000) < expit(logits)).astype(float)
    groups = np.arange(6000).astype(object)
    resampled = resampling(groups, 100)
    many = resampled_metrics(labels, expit(logits), resampled)
    weights = np.concatenate(list(resampled.weights()), axis=1)
    # Rows in the order of their group's number, as the weights have them.
    exact = [
        sklearn_metrics.roc_auc_score(labels, logits, sample_weight=weights[resampled.group, draw])
        for draw in range(20)
    ]
    np.testing.assert_allclose(many["roc_auc"][:20], exact, atol=2e-4)


@pytest.mark.parametrize("families", [2, 4, 12, 19, 20])
def test_intervals_of_few_groups_stay_within_reason(families: int) -> None:
    labels, predicted, groups = draw_families(np.random.default_rng(8), families)
    resampled = resampling(groups, 500)
    losses = row_losses(labels, predicted)["log_loss"]
    low, high = mean_interval(losses, resampled)
    assert 0 < low < losses.mean() < high
    if families > 2:
        assert high < 6 * losses.mean()
    lower, higher = mean_interval(losses - losses.mean(), resampled)
    assert lower < 0 < higher


def test_a_single_group_has_no_interval() -> None:
    assert mean_interval(np.ones(3), resampling(np.array(["a"] * 3), 100)) == (None, None)
    assert interval(np.array([0.1, 0.2]), 1) == (None, None)
    assert interval(np.array([np.nan, np.nan]), 5) == (None, None)


def predictions(probability: NDArray[np.float64], labels: NDArray[np.float64]) -> pd.DataFrame:
    count = len(labels)
    return pd.DataFrame(
        {
            "fold": 0,
            "part": "p",
            "video": [f"{number}.mp4" for number in range(count)],
            "label": np.where(labels == 1, "FAKE", "REAL"),
            "group": [f"family {number // 4}" for number in range(count)],
            "probability": probability,
        }
    )


def test_paired_differences_are_sharper_than_the_difference_of_intervals() -> None:
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 2, 200)
    labels = (rng.random(200) < expit(logits)).astype(float)
    better = predictions(expit(logits), labels)
    worse = predictions(expit(logits + rng.normal(0, 1, 200)), labels)
    found = paired_difference(("worse", worse), ("better", better.sample(frac=1)), 1000)
    assert found is not None
    assert found.videos == 200
    expected = log_loss(labels, worse["probability"]) - log_loss(labels, better["probability"])
    assert found.log_loss == pytest.approx(expected)
    low, high = found.log_loss_interval
    assert 0 < low < found.log_loss < high
    alone = metric_intervals(
        labels, worse["probability"].to_numpy(), resampling(worse["group"].to_numpy(), 1000)
    )["log_loss"]
    assert high - low < alone[1] - alone[0]


def test_experiments_without_a_common_video_are_not_compared() -> None:
    rows = predictions(np.array([0.5, 0.5]), np.array([0.0, 1]))
    assert paired_difference(("a", rows), ("b", rows.assign(fold=1)), 100) is None
