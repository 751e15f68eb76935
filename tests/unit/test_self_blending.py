"""Blended fakes: the face of a REAL crop differs, what is around it does not."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from skimage import data

from unmask.config import BlendingConfig
from unmask.tables import FACES, read_table
from unmask.training.augmentation import create_augmentation
from unmask.training.backbones import ModelInput
from unmask.training.dataset import FaceDataset
from unmask.training.face_masks import Face, fill_hull
from unmask.training.sampler import BLENDED, SampleId
from unmask.training.self_blending import FaceCrop, Lookalikes, self_blend, soften

FIVE = np.array([[77, 88], [118, 83], [104, 112], [84, 130], [118, 126]], np.float32)
NONE = np.full((5, 2), np.nan, np.float32)
BOX = np.array([53, 45, 140, 163], np.float32)
FACE, FACE_WITHOUT = Face(BOX, FIVE), Face(BOX, NONE)
PICTURE = np.ascontiguousarray(data.astronaut()[20:212, 128:320])  # 192 pixels square
REAL = FaceCrop(PICTURE, FACE)
PUBLISHED = BlendingConfig()
# The same person, smaller, turned by 20 degrees, in another light.
TURN = cv2.getRotationMatrix2D((96, 96), 20, 0.8)
OTHER = FaceCrop(
    np.asarray(cv2.warpAffine(PICTURE // 2 + 20, TURN, (192, 192)), np.uint8),
    Face(BOX, np.asarray(FIVE @ TURN[:, :2].T + TURN[:, 2], np.float32)),
)


@pytest.mark.parametrize("face", [FACE, FACE_WITHOUT], ids=["landmarks", "box"])
@pytest.mark.parametrize(
    "config",
    [PUBLISHED, BlendingConfig(partial=1), BlendingConfig(varied=1)],
    ids=["published", "partial", "varied"],
)
def test_a_blended_crop_is_mask_times_source_and_the_rest_of_its_real_one(
    config: BlendingConfig, face: Face
) -> None:
    ratios = set()
    for seed in range(24):
        real, fake, mask = self_blend(FaceCrop(PICTURE, face), seed, config)
        assert (fake.shape, fake.dtype, mask.dtype) == (PICTURE.shape, np.uint8, np.float32)
        assert (real.shape, real.dtype) == (PICTURE.shape, np.uint8)
        assert mask.min() >= 0
        assert mask.max() <= 1
        np.testing.assert_array_equal(fake[mask == 0], real[mask == 0])
        assert (mask == 0).any()
        assert 0.02 < (mask > 0).mean() < 0.9
        assert len(np.unique(mask)) > 100  # a soft edge, not 0 and 1
        ratios.add(round(float(mask.max()), 2))
        again = self_blend(FaceCrop(PICTURE, face), seed, config)
        assert all(map(np.array_equal, again, (real, fake, mask)))
    assert ratios <= {0.25, 0.5, 0.75, 1.0}
    assert len(ratios) > 2


def test_blending_changes_either_the_inside_or_both_outsides() -> None:
    """The REAL crop is changed half of the time, or the change would reveal the fake."""
    for config in (PUBLISHED, BlendingConfig(varied=1)):
        reals = [self_blend(REAL, seed, config)[0] for seed in range(60)]
        assert 0.3 < np.mean([np.array_equal(real, PICTURE) for real in reals]) < 0.7


def test_a_part_is_the_upper_or_the_lower_half_of_the_face() -> None:
    """Columns through eye and corner of the mouth, the softened edge left out."""
    parts = set()
    for seed in range(24):
        _, _, mask = self_blend(REAL, seed, BlendingConfig(partial=1))
        inside = mask > 0.6 * mask.max()
        parts.add((bool(inside[80:95, 90:110].any()), bool(inside[125:140, 90:110].any())))
    assert {(True, False), (False, True)} <= parts
    assert (True, True) not in parts


def test_the_face_of_another_person_takes_the_place_and_the_colours() -> None:
    """The other crop shows the same face, so the result is as if the crop's own were blended."""
    for seed in range(8):
        real, fake, mask = self_blend(REAL, seed, PUBLISHED, OTHER)
        np.testing.assert_array_equal(fake[mask == 0], real[mask == 0])
        assert mask.max() >= 0.75
        _, own, own_mask = self_blend(REAL, seed, PUBLISHED)
        if own_mask.max() == mask.max():
            assert np.abs(fake[mask > 0].astype(int) - own[mask > 0]).mean() < 10


def test_faces_are_taken_from_real_crops_of_other_people_with_near_landmarks() -> None:
    profile = FIVE * (0.3, 1)
    landmarks = np.stack([FIVE, FIVE * 2 + 9, FIVE + 5, profile, FIVE, NONE]).astype(np.float32)
    people = np.array([0, 1, 0, 2, 3, 4])
    real = np.array([True, True, True, True, False, True])
    lookalikes = Lookalikes(landmarks, people, real)
    drawn = [lookalikes.draw(row, np.random.default_rng(0)) for row in range(6)]
    assert drawn == [1, drawn[1], 1, None, drawn[4], None]
    assert drawn[1] in (0, 2)
    assert drawn[4] in (0, 1, 2)


def test_a_softened_mask_is_eroded_unless_nothing_would_be_left() -> None:
    """The first blur erodes the mask, so the seam is inside the face, not around it."""
    mask = fill_hull(FACE.hull(), 192, 192)
    small = np.zeros((192, 192), np.float32)
    small[90:94, 90:94] = 1
    for seed in range(8):
        soft = soften(mask, np.random.default_rng(seed))
        assert soft.max() == pytest.approx(1)
        assert (soft > 0.5).sum() < mask.sum()
        assert soften(small, np.random.default_rng(seed)).max() > 0.9


def test_the_outline_follows_the_landmarks() -> None:
    hull = fill_hull(FACE.hull(), 192, 192)
    for x, y in FIVE.astype(int):
        assert hull[y, x] == 1
    more = fill_hull(FACE.hull(forehead=0.8), 192, 192)
    assert (more >= hull).all()
    assert more.sum() > 1.1 * hull.sum()
    moved = fill_hull(Face(FACE.box + 10, FIVE + 10).hull(), 192, 192)
    assert (moved[10:, 10:] == hull[:-10, :-10]).mean() > 0.99


def test_the_outline_of_a_turned_face_ends_where_its_box_does() -> None:
    """Landmarks of a profile are close together at one side of the head."""
    profile = np.array([[60, 80], [75, 80], [55, 100], [62, 122], [72, 122]], np.float32)
    hull = Face(np.array([52, 40, 140, 160], np.float32), profile).hull()
    assert hull[:, 0].min() == pytest.approx(52)
    assert hull[:, 0].max() == pytest.approx(140)
    assert hull[:, 1].max() == pytest.approx(160)


def test_68_landmarks_give_the_hull_and_the_parts() -> None:
    angles = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    points = 96 + 50 * np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    points[36:42], points[42:48], points[30] = (77, 88), (118, 83), (104, 112)
    points[48], points[54] = (84, 130), (118, 126)
    face = Face(BOX, NONE, points)
    assert fill_hull(face.hull(), 192, 192).sum() == pytest.approx(np.pi * 50**2, rel=0.05)
    np.testing.assert_array_equal(face.five(), FIVE)


@pytest.fixture
def faces(worked_part: Path) -> pd.DataFrame:
    """The crops of two REAL videos of one synthetic face, as if of two people."""
    index = read_table(worked_part / "faces/part-00.parquet", FACES)
    reals = index[index["video"].isin(["a.mp4", "b.mp4"])]
    return reals.assign(label="REAL", family=reals["video"])


def blended(faces: pd.DataFrame, shards: Path, **blending: float) -> list[NDArray[np.uint8]]:
    """Return a REAL crop and its fake in each of eight epochs."""
    model_input = ModelInput("any", 64, (0.5,) * 3, (0.5,) * 3)
    augmentation = create_augmentation("none", model_input)
    dataset = FaceDataset(faces, shards, model_input, augmentation, 1, BlendingConfig(**blending))
    return [
        picture for epoch in range(8) for picture in dataset[SampleId(epoch, 1, BLENDED)].pictures
    ]


def test_other_people_are_blended_as_often_as_configured(
    faces: pd.DataFrame, worked_part: Path
) -> None:
    shards = worked_part / "faces"
    own, mixed, others = (blended(faces, shards, other_person=p) for p in (0.0, 0.5, 1.0))
    alike = [np.array_equal(one, other) for one, other in zip(mixed, own, strict=True)]
    swapped = [np.array_equal(one, other) for one, other in zip(mixed, others, strict=True)]
    assert 0 < alike[1::2].count(False) < 8
    assert all(map(np.logical_or, alike, swapped))
    alone = faces[faces["video"] == "a.mp4"]
    for one, other in zip(blended(alone, shards, other_person=1.0), own, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_face_of_another_moment_is_from_the_same_track(
    faces: pd.DataFrame, worked_part: Path
) -> None:
    """Other people and other videos change nothing."""
    shards = worked_part / "faces"
    track = faces[(faces["video"] == "a.mp4") & (faces["track"] == 0)]
    moments = blended(track, shards, other_moment=1.0)
    for one, other in zip(moments, blended(faces, shards, other_moment=1.0), strict=True):
        np.testing.assert_array_equal(one, other)
    own = blended(track, shards)
    assert any(not np.array_equal(*two) for two in zip(moments[1::2], own[1::2], strict=True))
