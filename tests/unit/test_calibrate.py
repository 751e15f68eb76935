"""Probabilities are calibrated on few videos and on many, and moved to another prior."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn import metrics as sklearn_metrics

from unmask.inference.calibrate import (
    CALIBRATIONS,
    Calibration,
    best_clip,
    fit_isotonic,
    fit_platt,
    fit_temperature,
)


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


def test_shifted_scores_are_moved_back() -> None:
    logits, labels = draw_scores(1.0)
    shifted, plain = fit_platt(logits + 4, labels), fit_platt(logits, labels)
    moved_back = log_loss(labels, shifted.probability(logits + 4))
    assert moved_back == pytest.approx(log_loss(labels, plain.probability(logits)), abs=0.02)


def test_a_few_separable_videos_give_no_certainty() -> None:
    logits, labels = np.array([-9.0, -8, 8, 9]), np.array([0.0, 0, 1, 1])
    probabilities = fit_platt(logits, labels).probability(logits)
    # Platt's targets for two of each are 1/4 and 3/4; the prior keeps some of the model's own view.
    assert (probabilities[:2] > 0.1).all()
    assert (probabilities[2:] < 0.9).all()


def test_a_dozen_videos_hardly_move_the_slope() -> None:
    """Plain Platt scaling gives these twelve a slope above 5."""
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1.0])
    logits = np.array([1.2, 1.3, 1.4, 1.6, 1.7, 1.8, 1.8, 1.9, 2.0, 2.1, 2.2, 2.4])
    assert 0.5 < fit_platt(logits, labels).slope < 1.5


def test_uninformative_scores_and_a_single_label_give_the_prior() -> None:
    logits, labels = draw_scores(1.0)
    reversed_ = fit_platt(-logits, labels)
    assert reversed_.slope == 0
    np.testing.assert_allclose(reversed_.probability(logits), reversed_.prior)
    assert reversed_.prior == pytest.approx(labels.mean(), abs=0.01)
    single = fit_platt(np.array([1.0, 2, 3]), np.ones(3))
    np.testing.assert_allclose(single.probability(np.array([-5.0, 5])), 4 / 5)


def test_a_video_without_a_face_gets_the_prior() -> None:
    calibration = Calibration(slope=2.0, intercept=1.0, prior=0.8)
    found = calibration.probability(np.array([np.nan, 0.0]))
    np.testing.assert_allclose(found, [0.8, expit(1)])
    np.testing.assert_allclose(calibration.probability(np.array([np.nan]), 0.5), 0.5)


@given(probability=st.floats(0.001, 0.999), old=st.floats(0.05, 0.95), new=st.floats(0.05, 0.95))
def test_another_prior_reweights_both_labels(probability: float, old: float, new: float) -> None:
    """Saerens et al. 2002, equation 4: the share of each label is scaled by its ratio of priors."""
    calibration = Calibration(slope=1.0, intercept=0.0, prior=old)
    fake, real = probability * new / old, (1 - probability) * (1 - new) / (1 - old)
    (found,) = calibration.probability(np.array([logit(probability)]), new)
    assert found == pytest.approx(fake / (fake + real))


@pytest.mark.parametrize("how", sorted(CALIBRATIONS))
def test_no_calibration_makes_perfect_scores_worse(how: str) -> None:
    logits, labels = draw_scores(1.0, 20_000)
    fitted = CALIBRATIONS[how](logits[:10_000], labels[:10_000])
    held_out, truth = logits[10_000:], labels[10_000:]
    best = log_loss(truth, expit(held_out))
    assert log_loss(truth, fitted.probability(held_out)) < best + 0.004


@pytest.mark.parametrize("how", ["temperature", "platt", "isotonic"])
def test_each_calibration_improves_overconfident_scores(how: str) -> None:
    logits, labels = draw_scores(0.3, 4000)
    fitted = CALIBRATIONS[how](logits[:2000], labels[:2000])
    held_out, truth = logits[2000:], labels[2000:]
    assert log_loss(truth, fitted.probability(held_out)) < log_loss(truth, expit(held_out)) - 0.1


def test_a_temperature_has_no_intercept() -> None:
    logits, labels = draw_scores(0.3)
    fitted = fit_temperature(logits + 1, labels)
    assert fitted.intercept == 0
    assert 0 < fitted.slope < 1


def test_isotonic_probabilities_never_fall_and_are_never_certain() -> None:
    logits, labels = draw_scores(1.0, 50)
    fitted = fit_isotonic(logits, labels)
    found = fitted.probability(np.linspace(-20, 20, 101))
    assert (np.diff(found) >= 0).all()
    assert found.min() >= 1 / 52 - 1e-9
    assert found.max() <= 51 / 52 + 1e-9


@pytest.mark.parametrize(("count", "wrong"), [(400, 20), (400, 60), (2000, 300)])
def test_certain_predictions_are_clipped_at_their_error_rate(count: int, wrong: int) -> None:
    """The clip of least log loss is the error rate; half an error is added at each end."""
    labels = np.repeat([0.0, 1.0], count // 2)
    log_odds = np.where(labels == 1, 9.0, -9.0)
    log_odds[: wrong // 2] *= -1
    log_odds[-wrong // 2 :] *= -1
    assert best_clip(log_odds, labels) == pytest.approx((wrong + 1) / (count + 1), rel=0.06)


def test_calibrated_predictions_are_hardly_clipped() -> None:
    logits, labels = draw_scores(1.0, 4000)
    clip = best_clip(logits, labels)
    limit = logit(1 - clip) if clip else np.inf
    clipped = log_loss(labels, expit(np.clip(logits, -limit, limit)))
    assert clipped < log_loss(labels, expit(logits)) + 0.001


def test_probabilities_are_kept_within_the_clip() -> None:
    calibration = Calibration(1.0, 0.0, prior=0.5, clip=0.1)
    found = calibration.probability(np.array([-9.0, 0.0, 9.0, np.nan]))
    np.testing.assert_allclose(found, [0.1, 0.5, 0.9, 0.5])
