"""Shifts: frozen transformations of videos, as they occur between a camera and a test set.

DFDC's training videos are as the cameras recorded them. Most of its test videos were scaled down,
slowed down, overlaid or made noisier (Dolhansky et al., "The DeepFake Detection Challenge Dataset",
2020), like what people upload. Each shift is one such change alone.

The parameters depend only on the shift and the name of the video, so all experiments and runs are
tested on the same clips. A test has the digest of every shift: results of two versions of a shift
cannot be compared, so a changed shift needs a new name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # BGR, (h, w, 3)
Change = Callable[[Picture, int], Picture]  # of a picture and the index of its frame

CLEAN = "clean"
# For shifts other than compression: encoding again at 56 dB adds no effect of its own.
NEAR_LOSSLESS_CRF = 6
_SEED = "unmask 1"
# Sizes are given for a picture of this height and scaled for others.
_HEIGHT = 720
# How much larger the noise field is than the picture: each frame takes another part of it.
_NOISE_MARGIN = 32
_LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_TEXTS, _SHAPES = 3, 8


def _unchanged(picture: Picture, index: int) -> Picture:
    return picture


@dataclass(frozen=True)
class Shift:
    """A shift of one clip, with its parameters."""

    change: Change = _unchanged  # the results have the same size for all frames of a clip
    rate: float | None = None  # frames per second to keep at most; None keeps all
    crf: int = NEAR_LOSSLESS_CRF  # x264's constant rate factor with which the clip is encoded


Draw = Callable[[np.random.Generator, int, int], Shift]


def draw_shift(name: str, video: str, height: int, width: int) -> Shift:
    """Draw the parameters of a shift for one video, whose name is the seed.

    Height and width are those of its pictures in pixels.
    """
    digest = hashlib.blake2b(f"{_SEED}/{name}/{video}".encode(), digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    return SHIFTS[name](rng, height, width)


def _halved(picture: Picture, index: int) -> Picture:
    size = [max(1, length // 2) for length in picture.shape[1::-1]]
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _mirrored(picture: Picture, index: int) -> Picture:
    return np.asarray(cv2.flip(picture, 1), np.uint8)


def _grey(picture: Picture, index: int) -> Picture:
    luma = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    return np.asarray(cv2.cvtColor(luma, cv2.COLOR_GRAY2BGR), np.uint8)


def _noisy(rng: np.random.Generator, height: int, width: int) -> Shift:
    """Gaussian noise in each channel, with a standard deviation of 5 to 15 levels of 255."""
    sigma = rng.uniform(5, 15)
    shape = (height + _NOISE_MARGIN, width + _NOISE_MARGIN, 3)
    field = np.rint(sigma * rng.standard_normal(shape, np.float32)).astype(np.int16)

    def add(picture: Picture, index: int) -> Picture:
        # Steps that are coprime to the margin repeat only after 32 frames.
        y, x = 13 * index % _NOISE_MARGIN, 29 * index % _NOISE_MARGIN
        there = field[y : y + height, x : x + width]
        return np.asarray(cv2.add(picture, there, dtype=cv2.CV_8U), np.uint8)

    return Shift(add)


def _blurred(rng: np.random.Generator, height: int, width: int) -> Shift:
    """Gaussian blur with a standard deviation of 1.5 to 4 pixels at 720p."""
    sigma = rng.uniform(1.5, 4) * height / _HEIGHT
    side = 2 * max(1, round(3 * sigma)) + 1
    return Shift(
        lambda picture, index: np.asarray(cv2.GaussianBlur(picture, (side, side), sigma), np.uint8)
    )


def _relit(rng: np.random.Generator, height: int, width: int) -> Shift:
    """Gamma of 0.4 to 0.7 (brighter) or 1.5 to 2.5 (darker)."""
    gamma = rng.uniform(0.4, 0.7) if rng.random() < 0.5 else rng.uniform(1.5, 2.5)
    levels = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return Shift(lambda picture, index: np.asarray(cv2.LUT(picture, levels), np.uint8))


@dataclass(frozen=True)
class _Overlay:
    """An overlay that moves across the picture and wraps around at its edges."""

    start: NDArray[np.float64]  # x y in pixels
    speed: NDArray[np.float64]  # x y in pixels per frame
    size: float  # in pixels
    color: list[int]  # blue, green, red
    kind: int  # of shape: 0 circle, 1 rectangle, 2 triangle

    def at(self, index: int, height: int, width: int) -> tuple[int, int]:
        x, y = self.start + index * self.speed
        return int(x % width), int(y % height)


def _draw_overlay(rng: np.random.Generator, height: int, width: int) -> _Overlay:
    start, speed = rng.uniform(0, [width, height]), rng.uniform(-1, 1, 2) * height / 180
    color = rng.integers(0, 256, 3).tolist()
    size = float(rng.uniform(0.06, 0.14) * height)
    return _Overlay(start, speed, size, color, kind=int(rng.integers(3)))


def _written_over(rng: np.random.Generator, height: int, width: int) -> Shift:
    """Three moving words."""
    words = [
        ("".join(rng.choice(_LETTERS, rng.integers(6, 13))), _draw_overlay(rng, height, width))
        for _ in range(_TEXTS)
    ]

    def write(picture: Picture, index: int) -> Picture:
        written = picture.copy()
        for word, place in words:
            scale = place.size / 25  # the font is about 22 pixels high
            thickness = max(1, round(2.5 * scale))
            at = place.at(index, height, width)
            cv2.putText(written, word, at, cv2.FONT_HERSHEY_SIMPLEX, scale, place.color, thickness)
        return written

    return Shift(write)


def _covered(rng: np.random.Generator, height: int, width: int) -> Shift:
    """Eight moving circles, rectangles and triangles, filled."""
    shapes = [_draw_overlay(rng, height, width) for _ in range(_SHAPES)]

    def cover(picture: Picture, index: int) -> Picture:
        covered = picture.copy()
        for shape in shapes:
            (x, y), half = shape.at(index, height, width), max(1, int(shape.size / 2))
            if shape.kind == 0:
                cv2.circle(covered, (x, y), half, shape.color, cv2.FILLED)
            elif shape.kind == 1:
                low, high = (x - half, y - half), (x + half, y + half)
                cv2.rectangle(covered, low, high, shape.color, cv2.FILLED)
            else:
                corners = np.array([(x, y - half), (x - half, y + half), (x + half, y + half)])
                cv2.fillPoly(covered, [corners], shape.color)
        return covered

    return Shift(cover)


SHIFTS: dict[str, Draw] = {
    # The reference, encoded again like all others.
    CLEAN: lambda rng, height, width: Shift(),
    "fps_15": lambda rng, height, width: Shift(rate=15),
    "quarter_resolution": lambda rng, height, width: Shift(_halved),
    # From x264's default to visible blocks.
    "crf_23_40": lambda rng, height, width: Shift(crf=int(rng.integers(23, 41))),
    "noise": _noisy,
    "blur": _blurred,
    "gamma": _relit,
    "flip": lambda rng, height, width: Shift(_mirrored),
    "text": _written_over,
    "shapes": _covered,
    "grayscale": lambda rng, height, width: Shift(_grey),
}
