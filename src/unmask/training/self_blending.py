"""Self-blended images: fakes made from REAL crops alone.

Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022: a face, slightly
changed and moved, is blended onto itself, so that a model learns the seam, the colours and the
sharpness of a swap instead of one generator's artefacts. All numbers are from the paper's published
code. Two things differ: stored crops are used as they are, without cropping around the landmarks
first; and the published shift of hue, saturation and value by 0.3 of 255 levels is omitted, because
it rounds to zero.
"""

from __future__ import annotations

import random

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from unmask.training.face_masks import Face, fill_hull
from unmask.training.recompress import Picture

Mask = NDArray[np.float32]


def _lose_resolution(scale: float) -> A.Downscale:
    pair = {"downscale": cv2.INTER_NEAREST, "upscale": cv2.INTER_LINEAR}
    return A.Downscale(scale_range=(scale, scale), interpolation_pair=pair, p=1)


# Makes the inside of a face differ from its outside.
_CHANGE = A.Compose(
    [
        A.RGBShift(r_shift_limit=20, g_shift_limit=20, b_shift_limit=20, p=0.3),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.1, p=1),
        A.OneOf(
            [
                A.OneOf([_lose_resolution(1 / 2), _lose_resolution(1 / 4)], p=1),
                A.Sharpen(alpha=(0.2, 0.5), lightness=(0.5, 1.0), p=1),
            ],
            p=1,
        ),
    ],
    is_check_shapes=False,
)
# Share of blended faces whose mask ends at the brows.
_WITHOUT_FOREHEAD = 0.25
_RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
# Displacement of the mask's pixels: amplitude and smoothness, both in pixels.
_ELASTIC_ALPHA, _ELASTIC_SIGMA = 50.0, 7.0
# After a blur the inside of a mask is 1 up to rounding.
_INSIDE = 1 - 1e-4


def self_blend(
    picture: Picture, face: Face, seed: int | tuple[int, ...]
) -> tuple[Picture, Picture, Mask]:
    """Blend a REAL crop with itself.

    Half of the time the inside is changed, half of the time the outside. In the latter case the
    REAL crop of the pair is changed too, so that the change by itself does not reveal the fake.

    Args:
        picture: RGB uint8 (h, w, 3).
        face: its position in the crop.
        seed: equal seeds draw equal parameters.

    Returns:
        The REAL crop and the blended one, uint8 (h, w, 3), and the mask, float32 (h, w) in [0, 1],
        with `blended = mask * source + (1 - mask) * real`.
    """
    rng = np.random.default_rng(seed)
    _CHANGE.set_random_state(rng, random.Random(int(rng.integers(2**32))))
    changed = _CHANGE(image=picture)["image"]
    source, target = (changed, picture) if rng.random() < 0.5 else (picture, changed)
    hull = face.hull(forehead=bool(rng.random() >= _WITHOUT_FOREHEAD))
    mask = fill_hull(hull, *picture.shape[:2])
    source, mask = _move(source, mask, rng)
    mask = soften(_deform(mask, rng), rng) * np.float32(rng.choice(_RATIOS))
    weight = mask[..., None]
    blended = weight * source + (1 - weight) * target
    return target, np.asarray(blended.round(), np.uint8), mask


def _move(source: Picture, mask: Mask, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Shift and scale source and mask alike."""
    height, width = mask.shape
    scale = rng.uniform(0.95, 1 / 0.95)
    shift = rng.uniform((-0.03, -0.015), (0.03, 0.015)) * (width, height)
    matrix = np.array([[scale, 0, 0], [0, scale, 0]])
    matrix[:, 2] = (1 - scale) * np.array([(width - 1) / 2, (height - 1) / 2]) + shift
    size = (width, height)
    moved = cv2.warpAffine(source, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8), np.asarray(cv2.warpAffine(mask, matrix, size), np.float32)


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
        float32 (h, w) with a maximum of 1, unless nothing is left.
    """
    height, width = mask.shape
    resized = cv2.resize(mask, tuple(int(side) for side in rng.integers(192, 257, 2)))
    kernels = [(int(side), int(side)) for side in 2 * rng.integers(2, 13, 2) + 1]
    inside = _to_one(cv2.GaussianBlur(resized, kernels[0], 0))
    inside[inside < _INSIDE] = 0
    soft = _to_one(cv2.GaussianBlur(inside, kernels[1], rng.uniform(5, 46)))
    soft = np.asarray(cv2.resize(soft, (width, height)), np.float32)
    return np.asarray(np.clip(soft, 0, 1), np.float32)


def _to_one(mask: NDArray[np.generic]) -> Mask:
    """Return a mask divided by its maximum; zeros stay zeros."""
    values = np.asarray(mask, np.float32)
    return values / np.float32(max(float(values.max()), 1e-6))
