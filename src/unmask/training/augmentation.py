"""Augmentation of training crops.

Every augmentation is a function of a crop and a random generator. The generator depends on the
sample and on the name of the augmentation, so both of a pair get the same parameters, and switching
one augmentation on leaves the draws of all others as they were. The pixels are the work of
albumentations' functions, which keep no state; this is the only module that uses them.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Sequence

# Or its import asks the internet for a newer version, and a node without one waits for the answer.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations.augmentations.blur.functional as fblur
import albumentations.augmentations.geometric.functional as fgeometric
import albumentations.augmentations.pixel.functional as fpixel
import cv2
import numpy as np
from numpy.typing import NDArray

from unmask.config import AugmentConfig
from unmask.faces.images import resize_crop
from unmask.training.face_masks import Face, Points, fill_hull
from unmask.training.recompress import TUNES, recode

Picture = NDArray[np.uint8]
Step = Callable[[Picture, np.random.Generator, AugmentConfig], Picture]

_INTERPOLATIONS = (
    (cv2.INTER_AREA, cv2.INTER_CUBIC),
    (cv2.INTER_AREA, cv2.INTER_LINEAR),
    (cv2.INTER_LINEAR, cv2.INTER_LINEAR),
)


class Augmentation:
    """What is done to the crops of one experiment."""

    def __init__(self, config: AugmentConfig, size: int, enlarging: str = "bicubic") -> None:
        """Take the settings.

        Args:
            config: which augmentations, how often and how strongly.
            size: side of the model's input in pixels; crops leave with it.
            enlarging: see `resize_crop`.
        """
        self._config = config
        self._size = size
        self._enlarging = enlarging
        self._chances = {name: config.probability(name) for name in NAMES}

    def neighbours(self, seed: int) -> int:
        """Return how many crops before and after its own a sample needs to be encoded with."""
        if self._generator("codec", seed) is None:
            return 0
        return self._config.codec_frames // 2

    def __call__(self, sequence: Sequence[Picture], face: Face, seed: int) -> Picture:
        """Augment the middle one of some crops of one person.

        Args:
            sequence: RGB uint8 (h, w, 3) each, in order of time, the sample's own in the middle;
                `neighbours` says how many.
            face: where the face is in the middle one.
            seed: equal seeds get equal parameters, whatever the pictures.

        Returns:
            RGB uint8 (size, size, 3), contiguous.
        """
        picture = sequence[len(sequence) // 2]
        if (rng := self._generator("codec", seed)) is not None:
            crf = _integer(rng, self._config.codec_crf)
            picture = recode(sequence, crf, TUNES[rng.integers(len(TUNES))])
        if (rng := self._generator("cutout", seed)) is not None:
            picture = cut_out(picture, face, rng)
        picture = self._apply(BEFORE_RESIZE, picture, seed)
        picture = self._resize(picture, seed)
        return np.ascontiguousarray(self._apply(AFTER_RESIZE, picture, seed))

    def mixture(self, seed: int) -> float | None:
        """Return the share of the fake in the first of a mixed pair; None where it stays unmixed.

        NTech-Lab, third in the challenge, drew it from Beta(0.5, 0.5).
        """
        rng = self._generator("mixup", seed)
        return None if rng is None else float(rng.beta(0.5, 0.5))

    def _apply(self, steps: dict[str, Step], picture: Picture, seed: int) -> Picture:
        for name, step in steps.items():
            if (rng := self._generator(name, seed)) is not None:
                picture = step(picture, rng, self._config)
        return picture

    def _resize(self, picture: Picture, seed: int) -> Picture:
        rng = self._generator("interpolation", seed)
        if rng is None or len(picture) == self._size:
            return resize_crop(picture, self._size, self._enlarging)
        down, up = _INTERPOLATIONS[rng.integers(len(_INTERPOLATIONS))]
        interpolation = down if len(picture) > self._size else up
        return np.asarray(
            cv2.resize(picture, (self._size, self._size), interpolation=interpolation), np.uint8
        )

    def _generator(self, name: str, seed: int) -> np.random.Generator | None:
        """Return the generator of an augmentation, or None where it is not the sample's turn."""
        chance = self._chances[name]
        if chance <= 0:
            return None
        # Ten times as fast as seeding a generator, of which most would be made for nothing.
        turn = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
        if int.from_bytes(turn, "big") >= chance * 2**64:
            return None
        return np.random.Generator(np.random.PCG64((seed, zlib.crc32(name.encode()))))


def cut_out(picture: Picture, face: Face, rng: np.random.Generator) -> Picture:
    """Blacken eyes, mouth, nose or half of the face, as DFDC's winner did.

    A part is a line between landmarks, as wide as half the distance of the eyes (eyes and nose) or
    two thirds of the mouth's width: the winner dilated a line of two pixels by a quarter and a
    third of these, which is the same up to its corners. How often which is his, without the kind
    that needs a difference mask.
    """
    five = face.five()
    kinds = ("eyes", "mouth", "nose", "half")
    weights = np.array((0.35, 0.175, 0.0875, 0.06)) if five is not None else np.array((0, 0, 0, 1))
    kind = rng.choice(kinds, p=weights / weights.sum())
    horizontal, first = rng.random(2) < 0.5
    cut = picture.copy()
    if kind == "half" or five is None:
        half = _half_of(face.hull(), picture.shape[:2], bool(horizontal), bool(first))
        cut[half > 0] = 0
    else:
        right_eye, left_eye, nose, right_mouth, left_mouth = five
        start, end, radius = {
            "eyes": (right_eye, left_eye, np.linalg.norm(left_eye - right_eye) / 4),
            "mouth": (right_mouth, left_mouth, np.linalg.norm(left_mouth - right_mouth) / 3),
            "nose": ((right_eye + left_eye) / 2, nose, np.linalg.norm(left_eye - right_eye) / 4),
        }[str(kind)]
        thickness = max(1, 2 * round(float(radius)) + 2)
        cv2.line(cut, _pixel(start), _pixel(end), (0, 0, 0), thickness)
    return cut


def _half_of(
    hull: Points, shape: tuple[int, ...], horizontal: bool, first: bool
) -> NDArray[np.uint8]:
    """Return the mask of one side of a hull, split through its centroid."""
    mask = fill_hull(hull, *shape[:2]).astype(np.uint8)
    x, y = hull.mean(axis=0)
    split = int(np.clip(y if horizontal else x, 0, shape[0 if horizontal else 1]))
    side = slice(0, split) if first else slice(split, None)
    kept = np.zeros_like(mask)
    where = (side, slice(None)) if horizontal else (slice(None), side)
    kept[where] = mask[where]
    return kept


def _pixel(point: Points) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


def save_as_jpeg(picture: Picture, quality: int) -> Picture:
    """Return a picture as it is after a JPEG of that quality, with chroma at half the size."""
    # The library hands channels to OpenCV as they are; of RGB it would halve another chroma.
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    saved = fpixel.image_compression(bgr, quality, ".jpg")
    return np.asarray(cv2.cvtColor(saved, cv2.COLOR_BGR2RGB), np.uint8)


def shift_levels(picture: Picture, gain: float, offset: float) -> Picture:
    """Return `gain * picture + offset`, clipped to [0, 255]."""
    # The library drops fractions; with half a level more that is rounding.
    return np.asarray(fpixel.multiply_add(picture, gain, offset + 0.5), np.uint8)


def add_color(picture: Picture, color: NDArray[np.float64]) -> Picture:
    """Return a picture with a constant added to each channel, clipped to [0, 255]."""
    return np.asarray(fpixel.add_noise(picture, color.round()), np.uint8)


def shrink_and_enlarge(picture: Picture, factor: float, down: int, up: int) -> Picture:
    """Return a picture made `factor` times as large and brought back to its size."""
    return np.asarray(fpixel.downscale(picture, factor, down, up), np.uint8)


def _integer(rng: np.random.Generator, limits: Sequence[int]) -> int:
    low, high = limits
    return int(rng.integers(low, high, endpoint=True))


def _number(rng: np.random.Generator, limits: Sequence[float]) -> float:
    low, high = limits
    return float(rng.uniform(low, high))


def _jpeg(picture: Picture, rng: np.random.Generator, config: AugmentConfig) -> Picture:
    return save_as_jpeg(picture, _integer(rng, config.jpeg_quality))


def _noise(picture: Picture, rng: np.random.Generator, config: AugmentConfig) -> Picture:
    sigma = np.float32(_number(rng, config.noise_sigma))
    noise = rng.standard_normal(picture.shape, np.float32) * sigma
    # The library's add_noise takes four times as long, and drops fractions.
    return np.asarray(cv2.add(picture, noise, dtype=cv2.CV_8U), np.uint8)


def _blur(picture: Picture, rng: np.random.Generator, config: AugmentConfig) -> Picture:
    kernel = fblur.create_gaussian_kernel_1d(_number(rng, config.blur_sigma))
    return np.asarray(fpixel.separable_convolve(picture, kernel), np.uint8)


def _downscale(picture: Picture, rng: np.random.Generator, config: AugmentConfig) -> Picture:
    factor = _number(rng, config.downscale_factor)
    down = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_NEAREST)[rng.integers(3)]
    return shrink_and_enlarge(picture, factor, down, cv2.INTER_LINEAR)


def _flip(picture: Picture, rng: np.random.Generator, config: AugmentConfig) -> Picture:
    return np.asarray(fgeometric.hflip(picture), np.uint8)


def _brightness_contrast(
    picture: Picture, rng: np.random.Generator, config: AugmentConfig
) -> Picture:
    brightness, contrast = rng.uniform(-1, 1, 2) * config.brightness_contrast_limit
    return shift_levels(picture, 1 + contrast, 255 * brightness)


def _rgb_shift(picture: Picture, rng: np.random.Generator, config: AugmentConfig) -> Picture:
    return add_color(picture, rng.uniform(-1, 1, 3) * config.rgb_shift_limit)


def _pca_noise(picture: Picture, rng: np.random.Generator, config: AugmentConfig) -> Picture:
    """Add colour along the principal components of the crop's own, after Krizhevsky et al., 2012.

    A tenth of each component's standard deviation, where DFDC's winner took a tenth of the variance
    of values in [0, 1], which is about one level of 255.
    """
    # The library's fancy_pca scales the crop along its components instead of adding to it, and
    # takes ten times as long.
    few = picture[::4, ::4].reshape(-1, 3).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(few, rowvar=False))
    shift = vectors @ (rng.normal(0, 0.1, 3) * np.sqrt(np.maximum(values, 0)))
    return add_color(picture, shift)


def _hue_saturation(picture: Picture, rng: np.random.Generator, config: AugmentConfig) -> Picture:
    hue, saturation, value = (rng.uniform(-1, 1, 3) * (20, 30, 20)).round()
    return np.asarray(fpixel.shift_hsv(picture, hue, saturation, value), np.uint8)


_COLORS: tuple[Step, ...] = (_brightness_contrast, _pca_noise, _hue_saturation)


def _color(picture: Picture, rng: np.random.Generator, config: AugmentConfig) -> Picture:
    return _COLORS[rng.integers(len(_COLORS))](picture, rng, config)


def _gray(picture: Picture, rng: np.random.Generator, config: AugmentConfig) -> Picture:
    # The library's to_gray does the same in 1.6 times the time.
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB), np.uint8)


def _affine(picture: Picture, rng: np.random.Generator, config: AugmentConfig) -> Picture:
    height, width = picture.shape[:2]
    degrees = rng.uniform(-1, 1) * config.affine_degrees
    scale = 1 + rng.uniform(-1, 1) * config.affine_scale
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale)
    shift = rng.uniform(-1, 1, 2) * config.affine_shift * (width, height)
    matrix = matrix + np.stack([np.zeros(2), np.zeros(2), shift], axis=1)
    # The library's warp_affine does the same in 1.4 times the time.
    return np.asarray(cv2.warpAffine(picture, matrix, (width, height)), np.uint8)


# The winner's order; what comes after the resize has fewer pixels to change.
BEFORE_RESIZE: dict[str, Step] = {
    "downscale": _downscale,
    "jpeg": _jpeg,
    "noise": _noise,
    "blur": _blur,
    "flip": _flip,
}
AFTER_RESIZE: dict[str, Step] = {
    "brightness_contrast": _brightness_contrast,
    "rgb_shift": _rgb_shift,
    "color": _color,
    "gray": _gray,
    "affine": _affine,
}
# Every augmentation; each has its probability under this name in the configuration.
NAMES = (
    "codec",
    "cutout",
    *BEFORE_RESIZE,
    "interpolation",
    *AFTER_RESIZE,
    "mixup",
)
