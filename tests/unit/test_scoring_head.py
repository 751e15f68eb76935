"""A scoring head is chosen on evidence, and fitted without the videos it is tested on."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit

from unmask.config import EvaluationConfig
from unmask.files import read_json, write_json
from unmask.inference.aggregate import FaceLogits
from unmask.inference.calibrate import balanced_weights, fit_platt, log_losses
from unmask.inference.scoring_head import (
    ScoringHead,
    aggregate_logits,
    candidate_aggregations,
    cross_fit,
    cross_fit_parts,
    fit_scoring_head,
)

Floats = NDArray[np.float64]
Names = NDArray[np.object_]


def fit(
    faces: FaceLogits, labels: Floats, config: EvaluationConfig, groups: Names | None = None
) -> ScoringHead:
    """Fit a head on videos of one source, two videos in each family unless told otherwise."""
    if groups is None:
        groups = np.array([f"family {video // 2}" for video in range(len(labels))], dtype=object)
    logits = {name: aggregate_logits(faces, name, 0.5) for name in candidate_aggregations(config)}
    return fit_scoring_head(logits, labels, groups, np.full(len(labels), "source"), config)[0]


def single_faces(logits: Floats) -> FaceLogits:
    number = np.arange(len(logits))
    return FaceLogits(logits, number, number)


def scored(rng: np.random.Generator, videos: int) -> tuple[FaceLogits, Floats]:
    labels = (np.arange(videos) % 2).astype(float)
    logits = np.repeat(labels - 0.5 + rng.normal(0, 1, videos), 8) + rng.normal(0, 1, 8 * videos)
    number = np.repeat(np.arange(videos), 8)
    return FaceLogits(logits, number, number), labels


def test_thresholds_are_meant_for_even_odds() -> None:
    """A model that assumes 90 % FAKE gives uninformative faces 0.9: they are not confident."""
    zeros = np.zeros(32, np.int64)
    faces = FaceLogits(np.full(32, logit(0.9)), zeros, zeros)
    assert aggregate_logits(faces, "power_weighted", 0.9)[0] == pytest.approx(0)
    assert expit(aggregate_logits(faces, "power_weighted", 0.5)[0]) > 0.95


def test_a_scoring_head_survives_json(tmp_path: Path) -> None:
    config = EvaluationConfig(calibrate="isotonic", aggregate="noisy_or", clip=0.02)
    head = fit(*scored(np.random.default_rng(3), 40), config)
    write_json({"fold0-seed1": head}, tmp_path / "calibration.json")
    assert read_json(tmp_path / "calibration.json", dict[str, ScoringHead])["fold0-seed1"] == head
    assert (head.calibration.method, head.calibration.clip) == ("isotonic", 0.02)


def test_few_videos_keep_the_default() -> None:
    """On a dozen videos, one of 7 aggregations always looks better."""
    for seed in range(10):
        head = fit(*scored(np.random.default_rng(seed), 12), EvaluationConfig())
        assert (head.aggregate, head.calibration.method) == ("mean_logit", "none")


def test_many_videos_rarely_choose_an_aggregation_that_is_not_better() -> None:
    """With one face per video, all aggregations but one agree."""
    labels = (np.arange(160) % 2).astype(float)
    chosen = []
    for seed in range(10):
        logits = 2 * labels - 1 + np.random.default_rng(seed).logistic(0, 1, 160)
        chosen.append(fit(single_faces(logits), labels, EvaluationConfig()).aggregate)
    assert chosen.count("mean_logit") >= 8


def test_a_clearly_better_aggregation_is_chosen() -> None:
    """In a FAKE video one of two people is FAKE, so the mean is little informative."""
    rng = np.random.default_rng(4)
    labels = (np.arange(400) % 2).astype(float)
    fake = np.stack([labels, np.zeros(400)], 1).ravel()
    logits = np.repeat(8 * fake - 4, 4) + rng.normal(0, 2, 3200)
    faces = FaceLogits(logits, np.repeat(np.arange(400), 8), np.repeat(np.arange(800), 4))
    assert fit(faces, labels, EvaluationConfig(calibrate="none")).aggregate in (
        "noisy_or",
        "face_rules",
    )


def test_held_out_predictions_never_saw_their_group() -> None:
    rng = np.random.default_rng(5)
    logits, labels = rng.normal(0, 2, 20), np.tile([0.0, 1.0], 10)
    groups = np.repeat([f"family {number}" for number in range(5)], 4).astype(object)
    weights = balanced_weights(labels, groups, np.full(20, "source"))
    held_out = cross_fit("platt", logits, labels, weights, cross_fit_parts(groups))
    first = groups == "family 0"
    expected = fit_platt(logits[~first], labels[~first], weights[~first]).log_odds(logits[first])
    np.testing.assert_allclose(held_out[first], expected)


def draw_logits(kind: str, labels: Floats, groups: NDArray[np.int64], seed: list[int]) -> Floats:
    """Draw logits of videos; half of the variance is that of their group."""
    rng = np.random.default_rng(seed)
    noise = (rng.normal(size=groups.max() + 1)[groups] + rng.normal(size=len(groups))) / 2**0.5
    calibrated = 2 * (2 * labels - 1) + 2 * noise  # at even odds, by Bayes' rule
    match kind:
        case "overconfident":
            return 3 * calibrated
        case "shifted":
            return calibrated - 2.5
        case "self_blended":  # on foreign fakes: means and spread as measured
            return np.where(labels == 1, -1.2 + 3 * noise, -4.5 + 2 * noise)
        case "sometimes_wrong":
            return (2 * labels - 1) * np.where(rng.random(len(labels)) < 0.05, -9, 9) + noise
    return calibrated


def fresh_loss(kind: str, families: int, draws: int) -> tuple[float, float]:
    """Return log losses on a large fresh sample: uncalibrated, and the mean over calibrations.

    Each is fitted on families of a REAL video and two fakes.
    """
    fresh = np.tile([0.0, 1.0], 5000)
    logits = draw_logits(kind, fresh, np.arange(10_000), [0])
    labels, groups = np.tile([0.0, 1.0, 1.0], families), np.repeat(np.arange(families), 3)
    config, losses = EvaluationConfig(aggregate="mean_logit"), []
    for draw in range(draws):
        drawn = draw_logits(kind, labels, groups, [1, draw])
        head = fit(single_faces(drawn), labels, config, groups.astype(object))
        losses.append(log_losses(fresh, head.calibration.log_odds(logits)).mean())
    return float(log_losses(fresh, logits).mean()), float(np.mean(losses))


@pytest.mark.parametrize("families", [3, 5, 10, 20, 60])
@pytest.mark.parametrize("kind", ["calibrated", "overconfident", "shifted", "self_blended"])
def test_calibration_costs_at_most_a_hundredth_in_expectation(kind: str, families: int) -> None:
    uncalibrated, calibrated = fresh_loss(kind, families, 20)
    assert calibrated <= uncalibrated + (0.005 if kind == "calibrated" else 0)


@pytest.mark.parametrize(
    ("kind", "best"),
    [("overconfident", 0.36), ("shifted", 0.36), ("self_blended", 0.52), ("sometimes_wrong", 0.2)],
)
def test_bad_scores_are_calibrated_with_twenty_families(kind: str, best: float) -> None:
    uncalibrated, calibrated = fresh_loss(kind, 20, 20)
    assert calibrated < best + 0.4 * (uncalibrated - best)
