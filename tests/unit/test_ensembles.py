"""An ensemble weights experiments on validation videos, within its budget."""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from unmask.evaluation.ensembles import Cost, build_ensemble, choose_members

BUDGET = Cost(bytes=100, seconds=10)


def noisy(rng: np.random.Generator, labels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(2 * labels - 1 + rng.normal(0, 1.5, len(labels)))


def test_experiments_with_independent_errors_are_combined() -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(400) % 2).astype(float)
    log_odds = {"a": noisy(rng, labels), "b": noisy(rng, labels), "noise": rng.normal(0, 3, 400)}
    weights = choose_members(log_odds, labels, dict.fromkeys(log_odds, Cost(10, 1)), BUDGET)
    assert set(weights) == {"a", "b"}
    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) > 0.3


@pytest.mark.parametrize(("cost", "members"), [((60, 1), 1), ((10, 6), 1), ((101, 1), 0)])
def test_an_ensemble_stays_within_its_budget(cost: tuple[int, float], members: int) -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(400) % 2).astype(float)
    log_odds = {"a": noisy(rng, labels), "b": noisy(rng, labels)}
    chosen = choose_members(log_odds, labels, dict.fromkeys(log_odds, Cost(*cost)), BUDGET)
    assert len(chosen) == members


def test_test_videos_are_predicted_with_weights_that_did_not_see_them() -> None:
    """One experiment is right about the validation videos and wrong about the test videos."""
    rng = np.random.default_rng(1)
    videos = pd.DataFrame({"role": ["test"] * 60 + ["val"] * 60, "fold": 0, "part": "p"})
    videos["video"] = [f"{number}.mp4" for number in range(120)]
    videos["label"] = ["REAL", "FAKE"] * 60
    videos["group"] = videos["video"]
    sign = np.where(videos["label"] == "FAKE", 1.0, -1.0)
    log_odds = {
        "good": 0.5 * sign + rng.normal(0, 0.1, 120),
        "traitor": np.where(videos["role"] == "val", 3 * sign, -3 * sign),
    }
    predictions = {
        name: videos.assign(logit=odds, log_odds=odds, probability=expit(odds))
        for name, odds in log_odds.items()
    }
    costs = dict.fromkeys(predictions, Cost(10, 1))
    ensemble = build_ensemble(predictions, costs, BUDGET, 100)
    assert ensemble is not None
    assert ensemble.weights["traitor"] > 0.9
    assert (ensemble.test.count, ensemble.test.accuracy) == (60, 0)
