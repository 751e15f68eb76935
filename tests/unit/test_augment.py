"""Augmentations: seeded, alike on both of a pair, each doing what it is named after."""

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from unmask.config import PRESETS, AugmentConfig
from unmask.training.augmentation import NAMES, Augmentation
from unmask.training.dataset import mix_pair
from unmask.training.face_masks import Face, fill_hull
from unmask.training.recompress import TUNES, recode
from unmask.training.self_blending import self_blend, soften

PICTURE = np.ascontiguousarray(data.astronaut()[20:212, 128:320])  # 192 pixels square
FIVE = np.array([[77, 88], [118, 83], [104, 112], [84, 130], [118, 126]], np.float32)
FACE = Face(np.array([55, 45, 140, 160], np.float32), FIVE)
FACE_WITHOUT = Face(FACE.box, np.full((5, 2), np.nan, np.float32))
FACES = [FACE, FACE_WITHOUT]


def only(name: str, chance: float = 1.0, size: int = 192, **keys: Any) -> Augmentation:
    return Augmentation(AugmentConfig(**{"preset": "none", name: chance, **keys}), size)


def apply(
    augmentation: Augmentation, seed: int, picture: NDArray[np.uint8] = PICTURE, face: Face = FACE
) -> NDArray[np.uint8]:
    return augmentation([picture] * (2 * augmentation.neighbours(seed) + 1), face, seed)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("mixup", "interpolation")])
def test_each_augmentation_changes_the_crop_as_its_seed_says(name: str) -> None:
    augmentation = only(name)
    results = [apply(augmentation, seed) for seed in range(6)]
    again = [apply(only(name), seed) for seed in reversed(range(6))][::-1]
    for one, other in zip(results, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert (one.shape, one.dtype, one.flags.c_contiguous) == ((192, 192, 3), np.uint8, True)
        assert not np.array_equal(one, PICTURE)
    assert len({one.tobytes() for one in results}) > (0 if name in ("flip", "gray") else 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_probability_is_how_often(name: str) -> None:
    never, sometimes = only(name, 0.0), only(name, 0.3)
    fired = [sometimes._generator(name, seed) is not None for seed in range(400)]
    assert 0.2 < np.mean(fired) < 0.4
    assert all(never._generator(name, seed) is None for seed in range(100))


def test_switching_one_on_leaves_the_draws_of_others() -> None:
    noisy, both = only("affine"), only("affine", gray=1.0)
    for seed in range(4):
        gray = cv2.cvtColor(apply(noisy, seed), cv2.COLOR_RGB2GRAY).astype(int)
        other = apply(both, seed)[..., 0].astype(int)
        assert np.abs(gray - other).mean() < 2


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_give_crops_of_the_models_size(preset: str) -> None:
    augmentation = Augmentation(AugmentConfig(preset=preset), 160)
    for seed in range(12):
        for face in FACES:
            result = apply(augmentation, seed, face=face)
            assert (result.shape, result.dtype) == ((160, 160, 3), np.uint8)


def test_without_augmentation_a_crop_is_left_alone() -> None:
    assert np.array_equal(apply(Augmentation(AugmentConfig(preset="none"), 192), 3), PICTURE)


def test_both_of_a_pair_are_moved_coloured_and_cut_alike() -> None:
    """A fake that differs in one patch differs in the same patch, moved, and nowhere else."""
    fake = PICTURE.copy()
    fake[100:140, 80:120] = 255 - fake[100:140, 80:120]
    chances = dict.fromkeys(("flip", "affine", "brightness_contrast", "cutout", "rgb_shift"), 1.0)
    augmentation = Augmentation(AugmentConfig(preset="none", **chances), 192)
    for seed in range(8):
        first, second = apply(augmentation, seed), apply(augmentation, seed, fake)
        differs = (first != second).any(axis=2)
        assert 0 < differs.mean() < 2 * 1600 / 192**2
        rows, columns = np.nonzero(differs)
        assert np.ptp(rows) < 60
        assert np.ptp(columns) < 60


def test_cutout_blackens_one_part_of_the_face_and_nothing_around_it() -> None:
    hull = fill_hull(FACE.scaled(1.0).hull(forehead=True), 192, 192)
    around = cv2.dilate(hull, np.ones((9, 9))) == 0
    kinds = []
    for seed in range(60):
        cut = (apply(only("cutout"), seed) != PICTURE).any(axis=2)
        assert 0.005 < cut.mean() < 0.25
        assert not (cut & around).any()
        eyes, mouth = cut[88, 77] and cut[83, 118], cut[128, 101]
        kinds.append((bool(eyes), bool(mouth)))
    assert {(True, False), (False, True), (False, False)} <= set(kinds)


def test_without_landmarks_half_of_the_face_is_cut() -> None:
    for seed in range(8):
        cut = (apply(only("cutout"), seed, face=FACE_WITHOUT) != PICTURE).any(axis=2)
        assert 0.05 < cut.mean() < 0.2


def test_noise_has_the_asked_spread_and_jpeg_the_asked_quality() -> None:
    gray = np.full((192, 192, 3), 128, np.uint8)
    noisy = apply(only("noise", noise_sigma=[10, 10]), 1, gray).astype(float)
    assert noisy.std() == pytest.approx(10, rel=0.05)
    assert noisy.mean() == pytest.approx(128, abs=0.5)
    errors = [
        np.abs(apply(only("jpeg", jpeg_quality=[q, q]), 1).astype(int) - PICTURE).mean()
        for q in (95, 60, 20)
    ]
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < 2


@pytest.mark.parametrize("side", [64, 75])
def test_recoding_gives_back_the_middle_picture_worse_with_a_higher_crf(side: int) -> None:
    sequence = [
        np.ascontiguousarray(np.roll(PICTURE, step, axis=1)[:side, 40 : 40 + side])
        for step in (-16, -8, 0, 8, 16)
    ]
    errors = [
        [np.abs(recode(sequence, crf, tune).astype(int) - one).mean() for one in sequence]
        for crf in (17, 40)
        for tune in TUNES
    ]
    assert all(np.argmin(error) == 2 for error in errors)
    fine, coarse = np.array(errors)[:6, 2], np.array(errors)[6:, 2]
    assert fine.max() < 6
    assert (coarse > 1.5 * fine).all()


def test_codec_asks_for_neighbours_only_when_it_is_its_turn() -> None:
    augmentation = only("codec", 0.5, codec_frames=7)
    assert {augmentation.neighbours(seed) for seed in range(20)} == {0, 3}


def test_mixtures_of_a_pair_keep_half_of_it_fake() -> None:
    real, fake = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 200, np.uint8)
    pictures, targets = mix_pair([real, fake], [0.0, 1.0], 0.25)
    assert [picture[0, 0, 0] for picture in pictures] == [50, 150]
    assert targets == [0.25, 0.75]
    shares = np.array([only("mixup").mixture(seed) for seed in range(500)])
    assert shares.mean() == pytest.approx(0.5, abs=0.05)
    assert shares.std() == pytest.approx(np.sqrt(1 / 8), abs=0.02)  # Beta(0.5, 0.5)


@pytest.mark.parametrize("face", FACES)
def test_a_blended_crop_is_mask_times_source_and_the_rest_of_its_real_one(face: Face) -> None:
    ratios = set()
    for seed in range(24):
        real, fake, mask = self_blend(PICTURE, face, seed)
        assert (fake.shape, fake.dtype, mask.dtype) == (PICTURE.shape, np.uint8, np.float32)
        assert (real.shape, real.dtype) == (PICTURE.shape, np.uint8)
        assert mask.min() >= 0
        assert mask.max() <= 1
        np.testing.assert_array_equal(fake[mask == 0], real[mask == 0])
        assert (mask == 0).any()
        assert 0.02 < (mask > 0).mean() < 0.9
        assert len(np.unique(mask)) > 100  # a soft edge, not 0 and 1
        ratios.add(round(float(mask.max()), 2))
    assert ratios <= {0.25, 0.5, 0.75, 1.0}
    assert len(ratios) > 2


def test_blending_changes_either_the_inside_or_both_outsides() -> None:
    """Half of the time the REAL one of the pair is changed, or its change would tell them apart."""
    untouched = [np.array_equal(self_blend(PICTURE, FACE, seed)[0], PICTURE) for seed in range(60)]
    assert 0.3 < np.mean(untouched) < 0.7


def test_equal_seeds_blend_alike() -> None:
    for one, other in zip(self_blend(PICTURE, FACE, 5), self_blend(PICTURE, FACE, 5), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_softened_mask_is_eroded() -> None:
    """What the first blur touches is gone, so the seam lies inside the face, not around it."""
    mask = fill_hull(FACE.hull(), 192, 192)
    for seed in range(8):
        soft = soften(mask, np.random.default_rng(seed))
        assert soft.max() == pytest.approx(1)
        assert (soft > 0.5).sum() < mask.sum()


def test_the_outline_follows_the_landmarks() -> None:
    hull = fill_hull(FACE.hull(), 192, 192)
    for x, y in FIVE.astype(int):
        assert hull[y, x] == 1
    more = fill_hull(FACE.hull(forehead=True), 192, 192)
    assert (more >= hull).all()
    assert more.sum() > 1.1 * hull.sum()
    moved = fill_hull(Face(FACE.box + 10, FIVE + 10).hull(), 192, 192)
    assert (moved[10:, 10:] == hull[:-10, :-10]).mean() > 0.99


def test_68_landmarks_give_the_hull_and_the_parts() -> None:
    angles = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    points = 96 + 50 * np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    points[36:42], points[42:48], points[30] = (77, 88), (118, 83), (104, 112)
    points[48], points[54] = (84, 130), (118, 126)
    face = Face(FACE.box, FACE_WITHOUT.landmarks, points)
    assert fill_hull(face.hull(), 192, 192).sum() == pytest.approx(np.pi * 50**2, rel=0.05)
    np.testing.assert_array_equal(face.five(), FIVE)
