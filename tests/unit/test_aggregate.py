"""Aggregations answer what their authors' rules say, for each video by itself."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import trim_mean

from unmask.config import EvaluationConfig
from unmask.files import read_json, write_json
from unmask.inference.aggregate import AGGREGATIONS, FaceLogits
from unmask.inference.calibrate import fit_platt
from unmask.inference.scoring_head import (
    ScoringHead,
    aggregate_logits,
    cross_fit,
    cross_fit_parts,
    fit_scoring_head,
)


def video_of(probabilities: list[float], tracks: list[int] | None = None) -> FaceLogits:
    count = len(probabilities)
    track = np.asarray(tracks if tracks is not None else [0] * count)
    return FaceLogits(logit(np.array(probabilities)), np.zeros(count, np.int64), track)


def answer(how: str, faces: FaceLogits) -> float:
    (found,) = expit(AGGREGATIONS[how](faces))
    return float(found)


def test_means_are_geometric_and_arithmetic() -> None:
    faces = video_of([0.9, 0.9, 0.3])
    odds = (9 * 9 * (3 / 7)) ** (1 / 3)
    assert answer("mean_logit", faces) == pytest.approx(odds / (1 + odds))
    assert answer("mean_probability", faces) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.95] * 13 + [0.1] * 19, 0.95),
        ([0.95] * 12 + [0.1] * 18, 0.44),
        ([0.95] * 12 + [0.1] * 20, 0.41875),
        ([0.99] * 11, 0.99),
        ([0.05] * 29 + [0.5] * 3, 0.05),
        ([0.05] * 28 + [0.5] * 4, 0.10625),
        ([0.9] * 32 + [0.05] * 32, 0.9),
    ],
)
def test_the_winner_answers_by_its_confident_faces(
    probabilities: list[float], expected: float
) -> None:
    assert answer("confident", video_of(probabilities)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [([0.9, 0.6, 0.5, 0.2], 0.60151), ([0.5, 0.5], 0.5), ([0.99], 0.99)],
)
def test_the_third_weighs_confident_faces_more(probabilities: list[float], expected: float) -> None:
    assert answer("power_weighted", video_of(probabilities)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("people", "expected"),
    [
        # 8 of 10 are above 0.85, so their mean counts; then above 0.9.
        ([[0.95] * 8 + [0.2] * 2], 0.95),
        # 7 of 10 are not more than 70 %.
        ([[0.95] * 7 + [0.2] * 3], 0.725),
        ([[0.05] * 8 + [0.5] * 2, [0.95] * 4], 0.95),
        ([[0.65] * 4, [0.7] * 4], 0.7),
        ([[0.05] * 4, [0.3] * 4], 0.05),
        ([[0.2] * 4, [0.8] * 4], 0.5),
    ],
)
def test_the_fourth_answers_by_people(people: list[list[float]], expected: float) -> None:
    faces = [face for person in people for face in person]
    tracks = [index for index, person in enumerate(people) for _ in person]
    assert answer("face_rules", video_of(faces, tracks)) == pytest.approx(expected)


def test_one_fake_person_makes_the_video_fake() -> None:
    faces = video_of([0.9, 0.9, 0.2, 0.2], [0, 0, 1, 1])
    assert answer("noisy_or", faces) == pytest.approx(1 - 0.1 * 0.8)
    assert answer("noisy_or", video_of([0.9, 0.9])) == pytest.approx(0.9)


@given(st.lists(st.floats(-6, 6), min_size=1, max_size=60))
def test_the_trimmed_mean_is_scipys(logits: list[float]) -> None:
    values = np.array(logits)
    zeros = np.zeros(len(values), np.int64)
    (found,) = AGGREGATIONS["trimmed_mean"](FaceLogits(values, zeros, zeros))
    assert found == pytest.approx(trim_mean(values, 0.1))


def several(rng: np.random.Generator) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Draw videos of one to three people with one to forty faces each."""
    videos = []
    for _ in range(20):
        sizes = rng.integers(1, 40, rng.integers(1, 4))
        videos.append((rng.normal(0, 3, sizes.sum()), np.repeat(np.arange(len(sizes)), sizes)))
    return videos


@pytest.mark.parametrize("how", sorted(AGGREGATIONS))
def test_a_video_is_answered_as_if_it_were_alone(how: str) -> None:
    videos = several(np.random.default_rng(0))
    alone = [
        AGGREGATIONS[how](FaceLogits(logits, np.zeros(len(logits), np.int64), track))[0]
        for logits, track in videos
    ]
    people = np.cumsum([0, *(track[-1] + 1 for _, track in videos)])
    together = FaceLogits(
        np.concatenate([logits for logits, _ in videos]),
        np.repeat(np.arange(len(videos)), [len(logits) for logits, _ in videos]),
        np.concatenate([track + first for (_, track), first in zip(videos, people, strict=False)]),
    )
    np.testing.assert_allclose(AGGREGATIONS[how](together), alone)


@pytest.mark.parametrize("how", sorted(AGGREGATIONS))
def test_the_order_of_faces_changes_nothing(how: str) -> None:
    rng = np.random.default_rng(1)
    logits, zeros = rng.normal(0, 2, 32), np.zeros(32, np.int64)
    shuffled = FaceLogits(rng.permutation(logits), zeros, zeros)
    expected = AGGREGATIONS[how](FaceLogits(logits, zeros, zeros))
    np.testing.assert_allclose(AGGREGATIONS[how](shuffled), expected)


@pytest.mark.parametrize("how", sorted(set(AGGREGATIONS) - {"confident", "face_rules"}))
def test_a_face_that_looks_more_fake_makes_no_video_more_real(how: str) -> None:
    """The rules of the first and the fourth jump, so they are not asked."""
    rng = np.random.default_rng(2)
    logits, zeros = rng.normal(0, 1, 20), np.zeros(20, np.int64)
    before = AGGREGATIONS[how](FaceLogits(logits, zeros, zeros))
    for face in range(20):
        more = logits + 0.1 * (np.arange(20) == face)
        assert AGGREGATIONS[how](FaceLogits(more, zeros, zeros)) >= before - 1e-9


@pytest.mark.parametrize("how", sorted(AGGREGATIONS))
def test_certain_faces_give_finite_answers(how: str) -> None:
    zeros = np.zeros(3, np.int64)
    for sign in (-1, 1):
        found = AGGREGATIONS[how](FaceLogits(np.full(3, sign * 800.0), zeros, zeros))
        assert np.isfinite(found).all()
        assert sign * found[0] > 4


def test_thresholds_are_meant_for_even_odds() -> None:
    """A model that assumes 90 % FAKE says 0.9 of faces it knows nothing of: not confidently."""
    unknown = np.full(32, logit(0.9))
    zeros = np.zeros(32, np.int64)
    faces = FaceLogits(unknown, zeros, zeros)
    assert aggregate_logits(faces, "power_weighted", 0.9)[0] == pytest.approx(logit(0.9))
    assert expit(aggregate_logits(faces, "power_weighted", 0.5)[0]) > 0.95


def scored(
    rng: np.random.Generator, videos: int
) -> tuple[FaceLogits, NDArray[np.float64], NDArray[np.object_]]:
    labels = (np.arange(videos) % 2).astype(float)
    logits = np.repeat(labels - 0.5 + rng.normal(0, 1, videos), 8) + rng.normal(0, 1, 8 * videos)
    number = np.repeat(np.arange(videos), 8)
    groups = np.array([f"family {video // 2}" for video in range(videos)], dtype=object)
    return FaceLogits(logits, number, number), labels, groups


def test_a_scoring_head_survives_json(tmp_path: Path) -> None:
    config = EvaluationConfig(calibrate="isotonic", aggregate="noisy_or", clip=0.02)
    faces, labels, groups = scored(np.random.default_rng(3), 40)
    head = fit_scoring_head(faces, labels, groups, 0.5, config).head
    write_json({"fold0-seed1": head}, tmp_path / "calibration.json")
    assert read_json(tmp_path / "calibration.json", dict[str, ScoringHead])["fold0-seed1"] == head
    assert head.calibration.clip == 0.02


def test_few_videos_choose_the_default() -> None:
    """Of 21 candidates one always looks better on a dozen videos."""
    chosen = []
    for seed in range(10):
        faces, labels, groups = scored(np.random.default_rng(seed), 12)
        head = fit_scoring_head(faces, labels, groups, 0.5, EvaluationConfig()).head
        chosen.append((head.aggregate, head.calibrate))
    assert set(chosen) == {("mean_logit", "platt")}


def test_many_videos_seldom_choose_what_is_no_better() -> None:
    """Faces of one video have one logit: all aggregations but the third's say the same."""
    chosen = []
    for seed in range(10):
        labels = (np.arange(160) % 2).astype(float)
        logits = 2 * labels - 1 + np.random.default_rng(seed).logistic(0, 1, 160)
        number = np.arange(160)
        groups = np.array([f"family {video // 2}" for video in number], dtype=object)
        faces = FaceLogits(logits, number, number)
        head = fit_scoring_head(faces, labels, groups, 0.5, EvaluationConfig()).head
        chosen.append((head.aggregate, head.calibrate))
    assert chosen.count(("mean_logit", "platt")) >= 8


def test_what_is_clearly_better_is_chosen() -> None:
    """Two people a video, of whom one is FAKE in a FAKE video: their mean says little."""
    rng = np.random.default_rng(4)
    labels = (np.arange(400) % 2).astype(float)
    fake = np.stack([labels, np.zeros(400)], 1).ravel()
    logits = np.repeat(8 * fake - 4, 4) + rng.normal(0, 2, 3200)
    faces = FaceLogits(logits, np.repeat(np.arange(400), 8), np.repeat(np.arange(800), 4))
    groups = np.array([f"family {video // 2}" for video in range(400)], dtype=object)
    head = fit_scoring_head(faces, labels, groups, 0.5, EvaluationConfig(calibrate="none")).head
    assert head.aggregate in ("noisy_or", "face_rules")


def test_held_out_answers_never_saw_their_family() -> None:
    rng = np.random.default_rng(5)
    logits, labels = rng.normal(0, 2, 20), np.tile([0.0, 1.0], 10)
    groups = np.repeat([f"family {number}" for number in range(5)], 4).astype(object)
    held_out = cross_fit(logits, labels, cross_fit_parts(groups), "platt")
    first = groups == "family 0"
    expected = fit_platt(logits[~first], labels[~first]).log_odds(logits[first])
    np.testing.assert_allclose(held_out[first], expected)
