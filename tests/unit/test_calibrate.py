"""Probabilities are calibrated on few videos and on many, and moved to another prior."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, logit

from unmask.inference.calibrate import (
    CALIBRATIONS,
    Calibration,
    balanced_weights,
    fit_calibration,
    fit_clip,
    fit_isotonic,
    fit_platt,
    log_losses,
)

Floats = NDArray[np.float64]


def log_loss(labels: Floats, log_odds: Floats) -> float:
    return float(log_losses(labels, log_odds).mean())


def draw_scores(slope: float, count: int = 400) -> tuple[Floats, Floats]:
    """Draw labels whose true log-odds are `slope` times the logits."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, count)
    return logits, (rng.random(count) < expit(slope * logits)).astype(float)


def weigh(labels: Floats) -> Floats:
    """Return the weights of videos that are a group each, of one source."""
    return balanced_weights(labels, np.arange(len(labels)).astype(object), np.zeros_like(labels))


def test_labels_sources_and_groups_are_balanced() -> None:
    labels = np.array([0.0, 0, 0, 0, 0, 1, 1])
    sources = np.array(["a", "a", "a", "a", "b", "a", "a"], dtype=object)
    groups = np.array(["1", "2", "3", "4", "5", "1", "1"], dtype=object)
    weights = balanced_weights(labels, groups, sources)
    assert weights[labels == 0].sum() == pytest.approx(weights[labels == 1].sum())
    assert weights[:4].sum() == pytest.approx(2 * weights[4])
    assert weights[5] == weights[6]
    # One group of FAKE videos limits what there is to learn, however many REAL ones there are.
    assert weights.sum() < 4


def test_many_good_scores_stay_as_they_are() -> None:
    logits, labels = draw_scores(1.0, 4000)
    calibration = fit_platt(logits, labels, weigh(labels))
    assert calibration.slope == pytest.approx(1, abs=0.1)
    assert calibration.intercept == pytest.approx(0, abs=0.15)


def test_shifted_scores_are_moved_back() -> None:
    logits, labels = draw_scores(1.0)
    shifted = fit_platt(logits + 4, labels, weigh(labels)).log_odds(logits + 4)
    assert log_loss(labels, shifted) == pytest.approx(log_loss(labels, logits), abs=0.02)


def test_a_dozen_videos_hardly_raise_the_slope() -> None:
    """Plain Platt scaling gives these twelve a slope above 5."""
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1.0])
    logits = np.array([1.2, 1.3, 1.4, 1.6, 1.7, 1.8, 1.8, 1.9, 2.0, 2.1, 2.2, 2.4])
    assert 0.5 < fit_platt(logits, labels, weigh(labels)).slope < 1.5


def test_misleading_scores_are_ignored() -> None:
    logits, labels = draw_scores(1.0)
    reversed_ = fit_platt(-logits, labels, weigh(labels))
    assert reversed_.slope == 0
    np.testing.assert_allclose(expit(reversed_.log_odds(logits, 0.7)), 0.7, atol=0.02)


@pytest.mark.parametrize("how", sorted(CALIBRATIONS))
def test_videos_of_one_label_change_nothing(how: str) -> None:
    fitted = fit_calibration(how, np.array([1.0, 2, 3]), np.zeros(3), np.ones(3))
    assert fitted.method == "none"
    np.testing.assert_allclose(fitted.log_odds(np.array([-5.0, 5])), [-5, 5])


def test_a_video_without_a_face_gets_the_prior() -> None:
    calibration = Calibration(slope=2.0, intercept=1.0, prior=0.8)
    found = expit(calibration.log_odds(np.array([np.nan, 0.0])))
    np.testing.assert_allclose(found, [0.8, expit(1 + logit(0.8))])
    np.testing.assert_allclose(expit(calibration.log_odds(np.array([np.nan]), 0.5)), 0.5)


@given(probability=st.floats(0.001, 0.999), prior=st.floats(0.05, 0.95))
def test_another_prior_reweights_both_labels(probability: float, prior: float) -> None:
    """Saerens et al. 2002, equation 4: the share of each label is scaled by its ratio of priors."""
    calibration = Calibration(slope=1.0, intercept=0.0, prior=0.5)
    fake, real = probability * prior, (1 - probability) * (1 - prior)
    (found,) = expit(calibration.log_odds(np.array([logit(probability)]), prior))
    assert found == pytest.approx(fake / (fake + real))


@pytest.mark.parametrize("how", sorted(CALIBRATIONS))
def test_no_calibration_makes_perfect_scores_worse(how: str) -> None:
    logits, labels = draw_scores(1.0, 10_000)
    fitted = fit_calibration(how, logits[:5000], labels[:5000], weigh(labels[:5000]))
    held_out, truth = logits[5000:], labels[5000:]
    assert log_loss(truth, fitted.log_odds(held_out)) < log_loss(truth, held_out) + 0.004


@pytest.mark.parametrize("how", sorted(set(CALIBRATIONS) - {"none"}))
def test_each_calibration_improves_overconfident_scores(how: str) -> None:
    logits, labels = draw_scores(0.3, 4000)
    fitted = fit_calibration(how, logits[:2000], labels[:2000], weigh(labels[:2000]))
    held_out, truth = logits[2000:], labels[2000:]
    assert log_loss(truth, fitted.log_odds(held_out)) < log_loss(truth, held_out) - 0.1


def test_a_temperature_has_no_intercept() -> None:
    logits, labels = draw_scores(0.3)
    fitted = fit_calibration("temperature", logits + 1, labels, weigh(labels))
    assert fitted.intercept == 0
    assert 0 < fitted.slope < 1


def test_isotonic_probabilities_never_fall_and_are_never_certain() -> None:
    logits, labels = draw_scores(1.0, 50)
    weights = weigh(labels)
    fitted = fit_isotonic(logits, labels, weights)
    found = expit(fitted.log_odds(np.linspace(-20, 20, 101)))
    assert (np.diff(found) >= 0).all()
    assert found.min() == pytest.approx(1 / (weights.sum() + 2))
    assert found.max() == pytest.approx(1 - found.min())


@pytest.mark.parametrize(("count", "wrong"), [(400, 20), (400, 60), (2000, 300)])
def test_certain_predictions_are_clipped_at_their_error_rate(count: int, wrong: int) -> None:
    labels = np.repeat([0.0, 1.0], count // 2)
    log_odds = np.where(labels == 1, 9.0, -9.0)
    log_odds[: wrong // 2] *= -1
    log_odds[-wrong // 2 :] *= -1
    assert fit_clip(log_odds, labels, weigh(labels)) == pytest.approx(wrong / count, rel=0.1)


@pytest.mark.parametrize("count", [10, 4000])
def test_calibrated_predictions_are_not_clipped(count: int) -> None:
    logits, labels = draw_scores(1.0, count)
    assert fit_clip(logits, labels, weigh(labels)) == 0


def test_probabilities_at_even_odds_are_kept_within_the_clip() -> None:
    calibration = Calibration(1.0, 0.0, prior=0.5, clip=0.1)
    found = expit(calibration.log_odds(np.array([-9.0, 0.0, 9.0, np.nan])))
    np.testing.assert_allclose(found, [0.1, 0.5, 0.9, 0.5])
    (rare,) = expit(calibration.log_odds(np.array([-9.0]), 0.01))
    assert rare < 0.01
