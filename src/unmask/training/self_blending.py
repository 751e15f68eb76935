"""Blended images: fakes made from REAL crops alone.

Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022: a face, slightly
changed and moved, is blended onto itself, so that a model learns the seam, the colours and the
sharpness of a swap instead of one generator's artefacts. Numbers are from the paper's published
code unless `BlendingConfig` says otherwise. Its shift of hue, saturation and value by 0.3 of 255
levels is omitted, because it rounds to zero.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from unmask.config import BlendingConfig
from unmask.training.face_masks import Face, fill_hull
from unmask.training.recompress import Picture

Mask = NDArray[np.float32]


class FaceCrop(NamedTuple):
    """A stored crop, RGB uint8 (h, w, 3), and the position of the face in it."""

    picture: Picture
    face: Face


def _resample(scale: tuple[float, float], down: int, up: int) -> A.Downscale:
    pair = {"downscale": down, "upscale": up}
    return A.Downscale(scale_range=scale, interpolation_pair=pair, p=1)


def _compose(*transforms: A.BasicTransform | A.BaseCompose) -> A.Compose:
    return A.Compose(transforms, is_check_shapes=False)


# Make the inside of a face differ from its outside, as published and in more ways.
_PUBLISHED = _compose(
    A.RGBShift(r_shift_limit=20, g_shift_limit=20, b_shift_limit=20, p=0.3),
    A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.1, p=1),
    A.OneOf(
        [
            A.OneOf(
                [_resample((one, one), cv2.INTER_NEAREST, cv2.INTER_LINEAR) for one in (0.5, 0.25)]
            ),
            A.Sharpen(alpha=(0.2, 0.5), lightness=(0.5, 1.0), p=1),
        ],
        p=1,
    ),
)
_VARIED = _compose(
    A.OneOf(
        [
            A.HueSaturationValue(hue_shift_limit=6, sat_shift_limit=25, val_shift_limit=15, p=1),
            A.RandomGamma(gamma_limit=(80, 125), p=1),
            A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.1, p=1),
        ],
        p=0.7,
    ),
    A.OneOf(
        [
            # Of generators with few pixels, and of their upsampling.
            _resample((0.3, 0.9), cv2.INTER_AREA, cv2.INTER_LINEAR),
            _resample((0.3, 0.9), cv2.INTER_AREA, cv2.INTER_CUBIC),
            _resample((0.5, 0.5), cv2.INTER_AREA, cv2.INTER_NEAREST),
            A.GaussianBlur(sigma_limit=(0.4, 1.2), blur_limit=0, p=1),
            A.MedianBlur(blur_limit=3, p=1),
            A.GaussNoise(std_range=(0.01, 0.03), p=1),
            A.ImageCompression(quality_range=(30, 85), p=1),
        ],
        p=1,
    ),
)
# Height above the eyes, in units of the distance from the eyes to the mouth.
_HAIRLINE = 0.9
_RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
# Displacement of the mask's pixels: amplitude and smoothness, both in pixels.
_ELASTIC_ALPHA, _ELASTIC_SIGMA = 50.0, 7.0
# After a blur the inside of a mask is 1 up to rounding.
_INSIDE = 1 - 1e-4


def self_blend(
    real: FaceCrop,
    seed: int | tuple[int, ...],
    config: BlendingConfig,
    other: FaceCrop | None = None,
) -> tuple[Picture, Picture, Mask]:
    """Blend a REAL crop with itself, or with the face of another person.

    Half of the time the inside is changed, half of the time the outside. In the latter case the
    REAL crop of the pair is changed too, so that the change by itself does not reveal the fake.

    Args:
        real: the REAL crop.
        seed: equal seeds draw equal parameters.
        config: shares of kinds of fakes.
        other: the crop whose face is blended in instead of the crop's own.

    Returns:
        The REAL crop and the blended one, uint8 (h, w, 3), and the mask, float32 (h, w) in [0, 1],
        with `blended = mask * source + (1 - mask) * real`.
    """
    rng = np.random.default_rng(seed)
    source = target = real.picture
    if other is not None:
        source = _fitted(other, real)
    change = _VARIED if rng.random() < config.varied else _PUBLISHED
    change.set_random_state(rng, random.Random(int(rng.integers(2**32))))
    if rng.random() < 0.5:
        source = change(image=source)["image"]
    else:
        target = change(image=target)["image"]
    mask = _draw_mask(real, config.partial, rng)
    source, mask = _move(source, mask, rng)
    ratio = rng.choice(_RATIOS)
    if other is not None:
        ratio = max(ratio, 0.75)  # two faces would be seen at once
    mask = soften(_deform(mask, rng), rng) * np.float32(ratio)
    blended = cv2.blendLinear(source, target, mask, 1 - mask)
    return target, np.asarray(blended, np.uint8), mask


class Lookalikes:
    """REAL crops of other people with a similar arrangement of landmarks, to take faces from."""

    _CANDIDATES = 300
    # Between shapes of norm 1. Nine of ten frontal faces have a candidate at half of it.
    _FAR = 0.08

    def __init__(
        self, landmarks: NDArray[np.float32], people: NDArray[np.int64], real: NDArray[np.bool_]
    ) -> None:
        """Compare faces whatever their position and size.

        Args:
            landmarks: float32 (n, 5, 2) of all crops, NaN where unknown.
            people: int64 (n,), number of the person or family of each crop.
            real: bool (n,), whether faces may be taken from the crop.
        """
        centred = landmarks - landmarks.mean(axis=1, keepdims=True)
        size = np.linalg.norm(centred, axis=(1, 2), keepdims=True)
        self._shapes = (centred / size).reshape(len(landmarks), -1)
        self._people = people
        self._rows = np.flatnonzero(real & np.isfinite(self._shapes).all(axis=1))

    def draw(self, row: int, rng: np.random.Generator) -> int | None:
        """Return the most similar of some random crops of other people; None if none is near."""
        if not len(self._rows):
            return None
        some = rng.choice(self._rows, self._CANDIDATES)
        distances = np.linalg.norm(self._shapes[some] - self._shapes[row], axis=1)
        distances[self._people[some] == self._people[row]] = np.inf
        nearest = distances.argmin()
        return int(some[nearest]) if distances[nearest] < self._FAR else None


def _fitted(other: FaceCrop, real: FaceCrop) -> Picture:
    """Return another crop with its face in the place and in the colours of the REAL one."""
    points = [np.asarray(one.face.five()) @ (1, 1j) for one in (other, real)]
    mine, theirs = (one - one.mean() for one in reversed(points))
    turn = np.vdot(theirs, mine) / np.vdot(theirs, theirs).real
    shift = points[1].mean() - turn * points[0].mean()
    matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    height, width = real.picture.shape[:2]
    placed = cv2.warpAffine(other.picture, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    inside = fill_hull(real.face.hull(), height, width).astype(np.uint8)
    lab, wanted = (cv2.cvtColor(one, cv2.COLOR_RGB2LAB) for one in (placed, real.picture))
    mean, std = cv2.meanStdDev(lab, mask=inside)
    wanted_mean, wanted_std = cv2.meanStdDev(wanted, mask=inside)
    gain = np.clip(wanted_std / np.maximum(std, 1), 0.5, 2)
    table = (np.arange(256) - mean) * gain + wanted_mean
    matched = cv2.LUT(lab, np.clip(table.T[None], 0, 255).round().astype(np.uint8))
    return np.asarray(cv2.cvtColor(matched, cv2.COLOR_LAB2RGB), np.uint8)


def _draw_mask(real: FaceCrop, partial: float, rng: np.random.Generator) -> Mask:
    """Return the mask of a face up to a random height of its forehead, or of a part of it.

    The published masks end at the brows or at the hairline.
    """
    height, width = real.picture.shape[:2]
    mask = fill_hull(real.face.hull(rng.uniform(0, _HAIRLINE)), height, width)
    if rng.random() < partial:
        levels = real.face.levels(height, width)
        is_lower = rng.random() < 0.5
        border = rng.uniform(0.4, 0.7)
        mask[levels < border if is_lower else levels > border] = 0
    return mask


def _move(source: Picture, mask: Mask, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Shift and scale source and mask alike, in both directions independently."""
    height, width = mask.shape
    size = np.array([width, height])
    scale = rng.uniform(0.95, 1 / 0.95, 2)
    shift = rng.uniform((-0.03, -0.015), (0.03, 0.015)) * size + (1 - scale) * (size - 1) / 2
    matrix = np.column_stack([np.diag(scale), shift])
    moved = cv2.warpAffine(source, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    moved_mask = cv2.warpAffine(mask, matrix, (width, height))
    return np.asarray(moved, np.uint8), np.asarray(moved_mask, np.float32)


def _deform(mask: Mask, rng: np.random.Generator) -> Mask:
    """Deform a mask elastically (Simard et al., 2003)."""
    height, width = mask.shape
    # The field is smooth: at half the size and half the sigma it has the same displacements.
    few = rng.uniform(-1, 1, (-(-height // 2), -(-width // 2), 2)).astype(np.float32)
    smooth = cv2.GaussianBlur(few, (0, 0), _ELASTIC_SIGMA / 2) * (_ELASTIC_ALPHA / 2)
    field = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.asarray(
        cv2.remap(mask, x + field[..., 0], y + field[..., 1], cv2.INTER_LINEAR), np.float32
    )


def soften(mask: Mask, rng: np.random.Generator) -> Mask:
    """Erode a mask by a blur, then blur its edge, both at a random size.

    Args:
        mask: float32 (h, w) in [0, 1].
        rng: of the sizes and kernels.

    Returns:
        float32 (h, w) with a maximum of 1. A mask that the erosion would remove is not eroded.
    """
    height, width = mask.shape
    resized = cv2.resize(mask, tuple(int(side) for side in rng.integers(192, 257, 2)))
    kernels = [(int(side), int(side)) for side in 2 * rng.integers(2, 13, 2) + 1]
    eroded = cv2.GaussianBlur(resized, kernels[0], 0) >= _INSIDE
    inside = eroded.astype(np.float32) if eroded.any() else resized
    soft = cv2.GaussianBlur(inside, kernels[1], rng.uniform(5, 46))
    enlarged = np.asarray(cv2.resize(soft, (width, height)), np.float32)
    return np.asarray(np.clip(enlarged / max(float(soft.max()), 1e-6), 0, 1), np.float32)
