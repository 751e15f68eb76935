"""A scoring head is chosen on evidence, and fitted without the videos it is tested on."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit

from unmask.config import EvaluationConfig
from unmask.files import read_json, write_json
from unmask.inference.aggregate import FaceLogits
from unmask.inference.calibrate import fit_platt
from unmask.inference.scoring_head import (
    ScoringHead,
    aggregate_logits,
    cross_fit,
    cross_fit_parts,
    fit_scoring_head,
)


def families(videos: int) -> NDArray[np.object_]:
    """Return the groups of videos, two in each."""
    return np.array([f"family {video // 2}" for video in range(videos)], dtype=object)


def scored(rng: np.random.Generator, videos: int) -> tuple[FaceLogits, NDArray[np.float64]]:
    labels = (np.arange(videos) % 2).astype(float)
    logits = np.repeat(labels - 0.5 + rng.normal(0, 1, videos), 8) + rng.normal(0, 1, 8 * videos)
    number = np.repeat(np.arange(videos), 8)
    return FaceLogits(logits, number, number), labels


def test_thresholds_are_meant_for_even_odds() -> None:
    """A model that assumes 90 % FAKE gives uninformative faces 0.9: they are not confident."""
    zeros = np.zeros(32, np.int64)
    faces = FaceLogits(np.full(32, logit(0.9)), zeros, zeros)
    assert aggregate_logits(faces, "power_weighted", 0.9)[0] == pytest.approx(logit(0.9))
    assert expit(aggregate_logits(faces, "power_weighted", 0.5)[0]) > 0.95


def test_a_scoring_head_survives_json(tmp_path: Path) -> None:
    config = EvaluationConfig(calibrate="isotonic", aggregate="noisy_or", clip=0.02)
    faces, labels = scored(np.random.default_rng(3), 40)
    head = fit_scoring_head(faces, labels, families(40), 0.5, config).head
    write_json({"fold0-seed1": head}, tmp_path / "calibration.json")
    assert read_json(tmp_path / "calibration.json", dict[str, ScoringHead])["fold0-seed1"] == head
    assert head.calibration.clip == 0.02


def test_few_videos_keep_the_default() -> None:
    """On a dozen videos, one of 21 candidates always looks better."""
    for seed in range(10):
        faces, labels = scored(np.random.default_rng(seed), 12)
        head = fit_scoring_head(faces, labels, families(12), 0.5, EvaluationConfig()).head
        assert (head.aggregate, head.calibrate) == ("mean_logit", "platt")


def test_many_videos_rarely_choose_a_candidate_that_is_not_better() -> None:
    """With one face per video, all aggregations but one agree."""
    chosen = []
    labels, number = (np.arange(160) % 2).astype(float), np.arange(160)
    for seed in range(10):
        logits = 2 * labels - 1 + np.random.default_rng(seed).logistic(0, 1, 160)
        faces = FaceLogits(logits, number, number)
        head = fit_scoring_head(faces, labels, families(160), 0.5, EvaluationConfig()).head
        chosen.append((head.aggregate, head.calibrate))
    assert chosen.count(("mean_logit", "platt")) >= 8


def test_a_clearly_better_candidate_is_chosen() -> None:
    """In a FAKE video one of two people is FAKE, so the mean is little informative."""
    rng = np.random.default_rng(4)
    labels = (np.arange(400) % 2).astype(float)
    fake = np.stack([labels, np.zeros(400)], 1).ravel()
    logits = np.repeat(8 * fake - 4, 4) + rng.normal(0, 2, 3200)
    faces = FaceLogits(logits, np.repeat(np.arange(400), 8), np.repeat(np.arange(800), 4))
    config = EvaluationConfig(calibrate="none")
    head = fit_scoring_head(faces, labels, families(400), 0.5, config).head
    assert head.aggregate in ("noisy_or", "face_rules")


def test_held_out_predictions_never_saw_their_group() -> None:
    rng = np.random.default_rng(5)
    logits, labels = rng.normal(0, 2, 20), np.tile([0.0, 1.0], 10)
    groups = np.repeat([f"family {number}" for number in range(5)], 4).astype(object)
    held_out = cross_fit(logits, labels, cross_fit_parts(groups), "platt")
    first = groups == "family 0"
    expected = fit_platt(logits[~first], labels[~first]).log_odds(logits[first])
    np.testing.assert_allclose(held_out[first], expected)
