"""Aggregations follow their published rules, for each video independently."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import trim_mean

from unmask.inference.aggregate import AGGREGATIONS, FaceLogits


def faces_of(logits: NDArray[np.float64], tracks: list[int] | None = None) -> FaceLogits:
    """Return the faces of one video."""
    zeros = np.zeros(len(logits), np.int64)
    return FaceLogits(logits, zeros, zeros if tracks is None else np.array(tracks))


def probability(how: str, faces: list[float], tracks: list[int] | None = None) -> float:
    (found,) = expit(AGGREGATIONS[how](faces_of(logit(np.array(faces)), tracks)))
    return float(found)


@pytest.mark.parametrize(
    ("how", "faces", "expected"),
    [
        ("mean_logit", [0.9, 0.9, 0.3], 1 / (1 + (1 / 9 * 1 / 9 * 7 / 3) ** (1 / 3))),
        ("mean_probability", [0.9, 0.9, 0.3], 0.7),
        ("confident", [0.95] * 13 + [0.1] * 19, 0.95),
        ("confident", [0.95] * 12 + [0.1] * 18, 0.44),
        ("confident", [0.95] * 12 + [0.1] * 20, 0.41875),
        ("confident", [0.99] * 11, 0.99),
        ("confident", [0.05] * 29 + [0.5] * 3, 0.05),
        ("confident", [0.05] * 28 + [0.5] * 4, 0.10625),
        ("confident", [0.9] * 32 + [0.05] * 32, 0.9),
        ("power_weighted", [0.9, 0.6, 0.5, 0.2], 0.60151),
        ("power_weighted", [0.5, 0.5], 0.5),
        ("power_weighted", [0.99], 0.99),
        ("noisy_or", [0.9, 0.9], 0.9),
    ],
)
def test_one_track_is_aggregated_by_the_rule(how: str, faces: list[float], expected: float) -> None:
    assert probability(how, faces) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("how", "tracks", "expected"),
    [
        ("noisy_or", [[0.9, 0.9], [0.2, 0.2]], 1 - 0.1 * 0.8),
        # 8 of 10 are above 0.85, so their mean counts; it is above 0.9.
        ("face_rules", [[0.95] * 8 + [0.2] * 2], 0.95),
        # 7 of 10 are not more than 70 %.
        ("face_rules", [[0.95] * 7 + [0.2] * 3], 0.725),
        ("face_rules", [[0.05] * 8 + [0.5] * 2, [0.95] * 4], 0.95),
        ("face_rules", [[0.65] * 4, [0.7] * 4], 0.7),
        ("face_rules", [[0.05] * 4, [0.3] * 4], 0.05),
        ("face_rules", [[0.2] * 4, [0.8] * 4], 0.5),
    ],
)
def test_several_tracks_are_aggregated_by_the_rule(
    how: str, tracks: list[list[float]], expected: float
) -> None:
    faces = [face for track in tracks for face in track]
    numbers = [number for number, track in enumerate(tracks) for _ in track]
    assert probability(how, faces, numbers) == pytest.approx(expected)


@given(st.lists(st.floats(-6, 6), min_size=1, max_size=60))
def test_the_trimmed_mean_is_scipys(logits: list[float]) -> None:
    (found,) = AGGREGATIONS["trimmed_mean"](faces_of(np.array(logits)))
    assert found == pytest.approx(trim_mean(logits, 0.1))


@pytest.mark.parametrize("how", sorted(AGGREGATIONS))
def test_videos_and_the_order_of_faces_have_no_effect_on_each_other(how: str) -> None:
    rng = np.random.default_rng(0)
    sizes = [rng.integers(1, 40, rng.integers(1, 4)) for _ in range(20)]
    logits = [rng.normal(0, 3, of_video.sum()) for of_video in sizes]
    tracks = [np.repeat(np.arange(len(of_video)), of_video) for of_video in sizes]
    alone = [
        AGGREGATIONS[how](faces_of(of_video, list(track)))[0]
        for of_video, track in zip(logits, tracks, strict=True)
    ]
    first = np.cumsum([0, *(len(of_video) for of_video in sizes)])
    together = FaceLogits(
        np.concatenate(logits),
        np.repeat(np.arange(20), [len(of_video) for of_video in logits]),
        np.concatenate([track + n for track, n in zip(tracks, first, strict=False)]),
    )
    np.testing.assert_allclose(AGGREGATIONS[how](together), alone)
    shuffled = AGGREGATIONS[how](faces_of(rng.permutation(logits[0])))
    np.testing.assert_allclose(shuffled, AGGREGATIONS[how](faces_of(logits[0])))


@pytest.mark.parametrize("how", sorted(set(AGGREGATIONS) - {"confident", "face_rules"}))
def test_a_higher_face_never_lowers_the_video(how: str) -> None:
    """Two of the published rules have jumps and are left out."""
    logits = np.random.default_rng(2).normal(0, 1, 20)
    before = AGGREGATIONS[how](faces_of(logits))
    for face in range(20):
        higher = logits + 0.1 * (np.arange(20) == face)
        assert AGGREGATIONS[how](faces_of(higher)) >= before - 1e-9


@pytest.mark.parametrize("how", sorted(AGGREGATIONS))
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_logits_give_finite_ones(how: str, sign: int) -> None:
    (found,) = AGGREGATIONS[how](faces_of(np.full(3, sign * 800.0)))
    assert np.isfinite(found)
    assert sign * found > 4
