"""Probabilities are calibrated, moved to another prior, and measured as the challenge does."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn import metrics as sklearn_metrics

from unmask.config import EvaluationConfig
from unmask.evaluation.aggregate import aggregate_videos, mean_logit, mean_probability
from unmask.evaluation.calibrate import Calibration, fit_platt, identity
from unmask.evaluation.evaluate import average_models, calibrate_fold
from unmask.evaluation.metrics import best_constant_log_loss, binary_metrics


def log_loss(labels: NDArray[np.float64], probabilities: NDArray[np.float64]) -> float:
    return float(sklearn_metrics.log_loss(labels, probabilities, labels=[0, 1]))


def draw_scores(slope: float, count: int = 400) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw labels whose true log-odds are `slope` times the logits."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, count)
    return logits, (rng.random(count) < expit(slope * logits)).astype(float)


def test_good_scores_stay_as_they_are() -> None:
    logits, labels = draw_scores(1.0)
    calibration = fit_platt(logits, labels)
    assert calibration.slope == pytest.approx(1, abs=0.15)
    assert calibration.intercept == pytest.approx(0, abs=0.3)
    raw = log_loss(labels, expit(logits))
    assert log_loss(labels, calibration.probability(logits)) == pytest.approx(raw, abs=0.01)


def test_overconfident_scores_improve() -> None:
    logits, labels = draw_scores(0.2)
    calibration = fit_platt(logits, labels)
    assert calibration.slope == pytest.approx(0.2, abs=0.07)
    answered = log_loss(labels, calibration.probability(logits))
    assert answered < log_loss(labels, expit(logits)) - 0.1
    assert answered < best_constant_log_loss(labels)


def test_shifted_scores_are_moved_back() -> None:
    logits, labels = draw_scores(1.0)
    shifted, plain = fit_platt(logits + 4, labels), fit_platt(logits, labels)
    moved_back = log_loss(labels, shifted.probability(logits + 4))
    assert moved_back == pytest.approx(log_loss(labels, plain.probability(logits)), abs=0.02)
    assert moved_back < log_loss(labels, expit(logits + 4)) - 0.5


def test_a_few_separable_videos_give_no_certainty() -> None:
    logits, labels = np.array([-9.0, -8, 8, 9]), np.array([0.0, 0, 1, 1])
    probabilities = fit_platt(logits, labels).probability(logits)
    # Platt's targets for two of each are 1/4 and 3/4; the prior keeps some of the model's own view.
    assert (probabilities[:2] > 0.1).all()
    assert (probabilities[2:] < 0.9).all()


def test_a_dozen_videos_never_make_a_model_much_more_confident() -> None:
    """Plain Platt scaling gives these twelve a slope above 5."""
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1.0])
    logits = np.array([1.2, 1.3, 1.4, 1.6, 1.7, 1.8, 1.8, 1.9, 2.0, 2.1, 2.2, 2.4])
    assert 0.5 < fit_platt(logits, labels).slope < 1.5


def test_scores_that_say_the_contrary_answer_the_prior() -> None:
    logits, labels = draw_scores(1.0)
    calibration = fit_platt(-logits, labels)
    assert calibration.slope == 0
    np.testing.assert_allclose(calibration.probability(logits), calibration.prior)
    assert calibration.prior == pytest.approx(labels.mean(), abs=0.01)


def test_a_single_label_answers_a_prior_that_is_not_certain() -> None:
    calibration = fit_platt(np.array([1.0, 2, 3]), np.ones(3))
    np.testing.assert_allclose(calibration.probability(np.array([-5.0, 5])), 4 / 5)


def test_a_video_without_a_face_answers_the_prior() -> None:
    calibration = Calibration(slope=2.0, intercept=1.0, prior=0.8)
    answers = calibration.probability(np.array([np.nan, 0.0]))
    np.testing.assert_allclose(answers, [0.8, expit(1)])
    np.testing.assert_allclose(calibration.probability(np.array([np.nan]), 0.5), 0.5)


@given(probability=st.floats(0.001, 0.999), old=st.floats(0.05, 0.95), new=st.floats(0.05, 0.95))
def test_another_prior_reweights_both_labels(probability: float, old: float, new: float) -> None:
    """Saerens et al. 2002, equation 4: each label's share is scaled by its ratio of priors."""
    calibration = Calibration(slope=1.0, intercept=0.0, prior=old)
    fake, real = probability * new / old, (1 - probability) * (1 - new) / (1 - old)
    answer = calibration.probability(np.array([logit(probability)]), new)
    assert answer[0] == pytest.approx(fake / (fake + real))


def test_calibration_is_fitted_on_the_select_role_alone() -> None:
    logits, labels = draw_scores(0.5)
    fold = pd.DataFrame({"logit": logits, "label": np.where(labels == 1, "FAKE", "REAL")})
    fold["role"] = "select"
    report = fold.assign(role="report", logit=-fold["logit"] * 9)
    faceless = fold.head(20).assign(logit=np.nan)
    config = EvaluationConfig()
    alone = calibrate_fold(fold, 0.8, config)
    assert calibrate_fold(pd.concat([report, fold, faceless]), 0.8, config) == alone
    assert alone == fit_platt(logits, labels)
    assert calibrate_fold(fold, 0.8, EvaluationConfig(calibrate=False)) == identity(0.8)


def test_metrics_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random(50) < 0.7).astype(float)
    answers = 0.3 * labels + rng.random(50) * 0.6
    found = binary_metrics(labels, answers)
    right = np.where(labels == 1, answers, 1 - answers)
    assert found == {
        "log_loss": pytest.approx(-np.log(right).mean()),
        "best_constant_log_loss": best_constant_log_loss(labels),
        "roc_auc": sklearn_metrics.roc_auc_score(labels, answers),
        "average_precision": sklearn_metrics.average_precision_score(labels, answers),
        "accuracy": np.mean((answers > 0.5) == labels),
        "brier": pytest.approx(np.mean((answers - labels) ** 2)),
        "videos": 50,
        "fake": labels.sum(),
    }


def test_a_certain_wrong_answer_costs_much_but_not_everything() -> None:
    found = binary_metrics(np.array([0.0, 1]), np.array([1.0, 1]))
    assert found["log_loss"] == pytest.approx(-math.log(1e-15) / 2, rel=1e-3)


@given(fakes=st.integers(0, 50), reals=st.integers(0, 50), constant=st.floats(0.001, 0.999))
def test_no_constant_beats_the_best_constant(fakes: int, reals: int, constant: float) -> None:
    assume(fakes + reals)
    labels = np.repeat([1.0, 0.0], [fakes, reals])
    best = best_constant_log_loss(labels)
    assert best <= log_loss(labels, np.full(len(labels), constant)) + 1e-9
    rate = np.clip(labels.mean(), 1e-12, 1 - 1e-12)
    assert best == pytest.approx(log_loss(labels, np.full(len(labels), rate)), abs=1e-9)


def test_the_best_constant_of_even_labels_is_log_two() -> None:
    assert best_constant_log_loss(np.array([0.0, 1, 1, 0])) == pytest.approx(math.log(2))


def test_aggregations_are_geometric_and_arithmetic_means() -> None:
    logits = np.array([logit(0.9), logit(0.9), logit(0.3)])
    odds = (9 * 9 * (3 / 7)) ** (1 / 3)
    assert mean_logit(logits) == pytest.approx(math.log(odds))
    assert expit(mean_probability(logits)) == pytest.approx(0.7)
    assert mean_probability(np.array([200.0])) == pytest.approx(logit(1 - 1e-6))


@pytest.mark.parametrize(
    ("how", "expected"), [("mean_logit", 1.0), ("mean_probability", logit(expit([0, 2]).mean()))]
)
def test_each_video_of_each_fold_is_one_row(how: str, expected: float) -> None:
    scores = pd.DataFrame(
        {
            "fold": [0, 0, 0, 1],
            "seed": [7, 7, 7, 7],
            "part": ["p", "p", "q", "p"],
            "video": ["a", "a", "a", "a"],
            "logit": [0.0, 2.0, 5.0, -3.0],
        }
    )
    config = EvaluationConfig(aggregate=how)  # type: ignore[arg-type]
    videos = aggregate_videos(scores, config).set_index(["fold", "part", "video"])
    assert videos["faces"].to_dict() == {(0, "p", "a"): 2, (0, "q", "a"): 1, (1, "p", "a"): 1}
    assert videos.loc[(0, "p", "a"), "logit"] == pytest.approx(expected)
    assert videos.loc[(1, "p", "a"), "logit"] == pytest.approx(-3)


def test_models_of_a_fold_answer_with_their_mean_log_odds() -> None:
    videos = pd.DataFrame({"part": "p", "video": ["a", "b"], "label": ["REAL", "FAKE"]})
    one = videos.assign(logit=[1.0, np.nan], log_odds=[2.0, 0.5])
    other = videos.assign(logit=[3.0, np.nan], log_odds=[-1.0, 1.5])
    averaged = average_models([one, other])
    np.testing.assert_allclose(averaged["probability"], expit([0.5, 1.0]))
    np.testing.assert_allclose(averaged["logit"], [2.0, np.nan])
    assert averaged[["part", "video", "label"]].equals(videos)
    np.testing.assert_allclose(average_models([one])["probability"], expit([2.0, 0.5]))
