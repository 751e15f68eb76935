"""Intervals have their coverage, and paired differences are narrower than those of experiments."""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn import metrics as sklearn_metrics

from unmask.evaluation.compare import paired_difference
from unmask.evaluation.intervals import (
    FEWEST_GROUPS,
    mean_interval,
    metric_intervals,
    resampled_metrics,
    resampling,
)
from unmask.evaluation.metrics import binary_metrics, row_losses


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


@pytest.mark.parametrize("families", [FEWEST_GROUPS, 12, 19, 20])
def test_intervals_of_few_groups_stay_within_reason(families: int) -> None:
    labels, predicted, groups = draw_families(np.random.default_rng(8), families)
    resampled = resampling(groups, 500)
    losses = row_losses(labels, predicted)["log_loss"]
    low, high = mean_interval(losses, resampled)
    assert 0 < low < losses.mean() < high < 6 * losses.mean()
    lower, higher = mean_interval(losses - losses.mean(), resampled)
    assert lower < 0 < higher


def test_fewer_groups_have_no_interval() -> None:
    labels, predicted, groups = draw_families(np.random.default_rng(8), FEWEST_GROUPS - 1)
    intervals = metric_intervals(labels, predicted, resampling(groups, 100))
    assert set(intervals.values()) == {(None, None)}


def test_the_interval_of_a_paired_difference_is_narrow() -> None:
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 2, 200)
    labels = (rng.random(200) < expit(logits)).astype(float)
    videos = pd.DataFrame({"fold": 0, "part": "p", "video": np.arange(200).astype(str)})
    videos["label"] = np.where(labels == 1, "FAKE", "REAL")
    videos["group"] = np.arange(200) // 4
    better = videos.assign(probability=expit(logits))
    worse = videos.assign(probability=expit(logits + rng.normal(0, 1, 200)))
    found = paired_difference(("worse", worse), ("better", better.sample(frac=1)), 1000)
    assert found is not None
    assert found.videos == 200
    losses = [row_losses(labels, one["probability"])["log_loss"] for one in (worse, better)]
    assert found.log_loss == pytest.approx(losses[0].mean() - losses[1].mean())
    low, high = found.log_loss_interval
    assert 0 < low < found.log_loss < high
    alone = mean_interval(losses[0], resampling(videos["group"].to_numpy(), 1000))
    assert high - low < alone[1] - alone[0]
    assert paired_difference(("a", worse), ("b", better.assign(fold=1)), 100) is None
