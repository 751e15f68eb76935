"""Augmentations are seeded, equal for both crops of a pair, and do what their names say."""

from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from unmask.config import Augment
from unmask.config_files import resolve_augment
from unmask.errors import UnmaskError
from unmask.training.augmentation import (
    create_augmentation,
    create_transforms,
    scoring_margin,
)
from unmask.training.backbones import ModelInput
from unmask.training.face_masks import Face, fill_hull
from unmask.training.recompress import TUNES, recode
from unmask.training.transforms import StoredCrop

PICTURE = np.ascontiguousarray(data.astronaut()[20:212, 128:320])  # 192 pixels square
FIVE = np.array([[77, 88], [118, 83], [104, 112], [84, 130], [118, 126]], np.float32)
FACE = Face(np.array([55, 45, 140, 160], np.float32), FIVE)
FACE_WITHOUT = Face(FACE.box, np.full((5, 2), np.nan, np.float32))


def augment(
    entries: Augment,
    seed: int,
    picture: NDArray[np.uint8] = PICTURE,
    *,
    face: Face = FACE,
    size: int = 192,
) -> NDArray[np.uint8]:
    """Return one crop as an augmentation leaves it."""
    crop = StoredCrop(face, lambda reach: [picture] * (2 * reach + 1))
    return create_augmentation(entries, model_input(size))([picture], [crop], seed).pictures[0]


def model_input(size: int) -> ModelInput:
    return ModelInput("any", size, (0.5,) * 3, (0.5,) * 3)


def always(entries: Augment) -> list[dict[str, Any]]:
    """Return the transforms of a list, presets in their place, each on every crop."""
    resolved = resolve_augment(entries)
    assert isinstance(resolved, list)
    nested = [always(one["transforms"]) if "preset" in one else [one] for one in resolved]
    transforms = [one for several in nested for one in several]
    return [{name: {**keys, "p": 1}} for one in transforms for name, keys in one.items()]


@pytest.mark.parametrize(
    "entry", always("strong") + always("sbi"), ids=lambda entry: next(iter(entry))
)
def test_each_transform_changes_the_crop_as_its_seed_says(entry: dict[str, Any]) -> None:
    results = [augment([entry], seed, size=160) for seed in range(6)]
    again = [augment([entry], seed, size=160) for seed in reversed(range(6))][::-1]
    plain = augment("none", 0, size=160)
    for one, other in zip(results, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert (one.shape, one.dtype, one.flags.c_contiguous) == ((160, 160, 3), np.uint8, True)
    assert any(not np.array_equal(one, plain) for one in results) or "ResizeToInput" in entry


def test_without_augmentation_a_crop_is_left_alone() -> None:
    assert np.array_equal(augment("none", 3), PICTURE)


def test_a_probability_is_how_often() -> None:
    augmentation = create_augmentation([{"HorizontalFlip": {"p": 0.3}}], model_input(192))
    crops = [StoredCrop(FACE, lambda reach: [])]
    flipped = [
        not np.array_equal(augmentation([PICTURE], crops, seed).pictures[0], PICTURE)
        for seed in range(300)
    ]
    assert 0.2 < np.mean(flipped) < 0.4


def test_both_of_a_pair_get_the_same_parameters() -> None:
    """A fake that differs in one patch differs in the same patch, moved, and nowhere else."""
    fake = PICTURE.copy()
    fake[100:140, 80:120] = 255 - fake[100:140, 80:120]
    entries = [
        one for one in always("winner") if "GaussianBlur" not in one and "GaussNoise" not in one
    ]
    entries = [one for one in entries if "ImageCompression" not in one and "OneOf" not in one]
    crops = [StoredCrop(FACE, lambda reach: [])] * 2
    for seed in range(8):
        augmentation = create_augmentation([*entries, *always("sbi")[:2]], model_input(192))
        first, second = augmentation([PICTURE, fake], crops, seed).pictures
        differs = (first != second).any(axis=2)
        assert 0 < differs.mean() < 2 * 1600 / 192**2
        rows, columns = np.nonzero(differs)
        assert np.ptp(rows) < 60
        assert np.ptp(columns) < 60


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ("absent", r"config/augmentations/absent\.yaml"),
        ([{"HorizontlFlip": {}}], "HorizontlFlip; did you mean HorizontalFlip"),
        ([{"ImageCompression": {"quality": 3}}], "ImageCompression: .*'quality'"),
        ([{"ImageCompression": {"quality_range": [70, 300]}}], "ImageCompression: .*quality_range"),
        ([{"VideoCodec": {"crf_range": [40, 17]}}], "VideoCodec: .*crf_range"),
        ([{"OneOf": {"transforms": [{"Blurr": {}}]}}], "OneOf: .*Blurr"),
        ([{"json:loads": {}}], "json:loads"),
        ([{"HorizontalFlip": {}, "ToGray": {}}], "an entry must be a transform"),
        (
            [{"HorizontalFlip": {}}, {"LandmarkCutout": {}}],
            "LandmarkCutout .*before HorizontalFlip",
        ),
        ([{"TightCrop": {}}, {"VideoCodec": {}}], "VideoCodec .*before TightCrop"),
        ("absent_module:list", "absent_module"),
        ("builtins:dict", "builtins:dict returns no list"),
    ],
)
def test_a_wrong_list_is_named(entries: Augment, named: str) -> None:
    with pytest.raises(UnmaskError, match=named) as caught:
        create_transforms(entries)
    assert "\n" not in str(caught.value)


def test_a_preset_of_ones_own_is_named_and_may_contain_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("- preset: basic\n- ToGray: {p: 1}\n")
    kinds = [type(one).__name__ for one in create_transforms("mine.yaml")]
    assert kinds[-1] == "ToGray"
    assert len(kinds) > 1
    Path("mine.yaml").write_text("- ToGrey: {p: 1}\n")
    with pytest.raises(UnmaskError, match=r"mine\.yaml: .*ToGrey"):
        create_transforms("mine.yaml")
    Path("mine.yaml").write_text("- preset: mine.yaml\n")
    with pytest.raises(UnmaskError, match=r"mine\.yaml.* contains itself"):
        create_transforms("mine.yaml")


def gray_all() -> list[albumentations.BasicTransform]:
    return [albumentations.ToGray(p=1)]


def test_a_list_may_come_from_a_function_or_name_a_class_by_its_path() -> None:
    expected = augment([{"ToGray": {"p": 1}}], 0)
    np.testing.assert_array_equal(augment(f"{__name__}:gray_all", 0), expected)
    np.testing.assert_array_equal(augment([{"albumentations:ToGray": {"p": 1}}], 0), expected)


def test_cutout_blackens_one_part_of_the_face_and_nothing_around_it() -> None:
    hull = fill_hull(FACE.hull(forehead=0.8), 192, 192)
    around = cv2.dilate(hull, np.ones((9, 9))) == 0
    kinds = []
    for seed in range(60):
        cut = (augment([{"LandmarkCutout": {"p": 1}}], seed) != PICTURE).any(axis=2)
        assert 0.005 < cut.mean() < 0.25
        assert not (cut & around).any()
        eyes, mouth = cut[88, 77] and cut[83, 118], cut[128, 101]
        kinds.append((bool(eyes), bool(mouth)))
    assert {(True, False), (False, True), (False, False)} <= set(kinds)


def test_without_landmarks_half_of_the_face_is_cut() -> None:
    for seed in range(8):
        cut = augment([{"LandmarkCutout": {"p": 1}}], seed, face=FACE_WITHOUT) != PICTURE
        assert 0.05 < cut.any(axis=2).mean() < 0.2


def test_a_tight_crop_keeps_the_face_and_a_margin_in_the_range() -> None:
    """The face is a red box on grey, without context at the border of the picture."""
    picture = np.full((192, 192, 3), 128, np.uint8)
    box = np.array([0, 40, 80, 140], np.float32)
    picture[40:140, :80] = (255, 0, 0)
    (transform,) = create_transforms([{"TightCrop": {"margin": [0.1, 0.3]}}])
    shares = []
    for _ in range(30):
        crop = StoredCrop(Face(box, FACE_WITHOUT.landmarks), lambda reach: [])
        cut = transform(image=picture, crops=[crop], is_aligned=False)["image"]
        assert (cut == (255, 0, 0)).all(axis=2).sum() == 8000
        shares.append([(cut.shape[0] - 100) / 200, cut.shape[1] / 80 - 1])
    assert np.min(shares) > 0.09
    assert np.max(shares) < 0.31
    assert np.std(shares, axis=0).min() > 0.02


def test_both_of_a_pair_are_cut_alike_though_their_boxes_differ() -> None:
    crops = [StoredCrop(face, lambda reach: []) for face in (FACE, Face(FACE.box + 4, FIVE))]
    augmentation = create_augmentation([{"TightCrop": {}}], model_input(192))
    for seed in range(4):
        real, fake = augmentation([PICTURE] * 2, crops, seed, is_aligned=True).pictures
        np.testing.assert_array_equal(real, fake)
        real, fake = augmentation([PICTURE] * 2, crops, seed, is_aligned=False).pictures
        assert not np.array_equal(real, fake)


@pytest.mark.parametrize(
    ("augment", "margin"),
    [
        ("winner", None),
        ("sbi", None),
        ([{"TightCrop": {"margin": [0.05, 0.2]}}, {"preset": "sbi"}], 0.125),
        ([{"OneOf": {"transforms": [{"TightCrop": {"margin": [0, 0.2]}}]}}], 0.1),
    ],
)
def test_a_model_scores_crops_with_the_middle_of_the_margins_it_trains_with(
    augment: Augment, margin: float | None
) -> None:
    assert scoring_margin(augment) == margin


def test_pca_noise_adds_one_color() -> None:
    gray = np.full((192, 192, 3), 128, np.uint8)
    gray[:96] += 40
    entries: Augment = [{"PCANoise": {"p": 1, "std": 0.5}}]
    changes = [augment(entries, seed, gray).astype(int) - gray for seed in range(4)]
    for change in changes:
        assert len(np.unique(change)) == 1  # of gray values, gray is the only component
    assert len({change[0, 0, 0] for change in changes}) > 1


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


def test_the_codec_encodes_the_crop_with_its_neighbours() -> None:
    asked = []

    def neighbours(reach: int) -> list[NDArray[np.uint8]]:
        asked.append(reach)
        return [np.roll(PICTURE, 8 * step, axis=1) for step in range(-reach, reach + 1)]

    augmentation = create_augmentation([{"VideoCodec": {"p": 0.5, "frames": 7}}], model_input(192))
    for seed in range(8):
        result = augmentation([PICTURE], [StoredCrop(FACE, neighbours)], seed).pictures[0]
        assert np.abs(result.astype(int) - PICTURE).mean() < 12
    assert set(asked) == {3}
    assert 0 < len(asked) < 8


def test_mixtures_of_a_pair_keep_half_of_it_fake() -> None:
    pair = [np.full((192, 192, 3), value, np.uint8) for value in (0, 200)]
    crops = [StoredCrop(FACE, lambda reach: [])] * 2
    augmentation = create_augmentation([{"PairMixup": {"p": 1}}], model_input(192))
    shares = []
    for seed in range(300):
        mixed, share = augmentation(pair, crops, seed, is_aligned=True)
        assert share is not None
        values = [one[0, 0, 0] for one in mixed]
        assert values == pytest.approx([200 * share, 200 * (1 - share)], abs=1)
        shares.append(share)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    assert np.std(shares) == pytest.approx(np.sqrt(1 / 8), abs=0.03)  # Beta(0.5, 0.5)
    assert augmentation(pair, crops, 0, is_aligned=False).share is None
