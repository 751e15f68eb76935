"""Geometry of boxes: float arrays (..., 4) of x0 y0 x1 y1, which broadcast against each other."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = TypeVar("Float", np.float32, np.float64)


def area(boxes: NDArray[Float]) -> NDArray[Float]:
    """Return the areas (...) of boxes (..., 4)."""
    sides: NDArray[Float] = boxes[..., 2:] - boxes[..., :2]
    return sides[..., 0] * sides[..., 1]


def intersection(a: NDArray[Float], b: NDArray[Float]) -> NDArray[Float]:
    """Return the areas that boxes have in common."""
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., 2:], b[..., 2:])
    return area(np.concatenate([low, np.maximum(low, high)], axis=-1))


def iou(a: NDArray[Float], b: NDArray[Float]) -> NDArray[Float]:
    """Return the intersection over union of boxes.

    For all pairs of boxes a (n, 4) and b (m, 4), pass `a[:, None]` and `b`; the result is (n, m).
    """
    shared = intersection(a, b)
    return shared / (area(a) + area(b) - shared)


def squares(x0: ArrayLike, y0: ArrayLike, side: ArrayLike) -> NDArray[np.float64]:
    """Return the boxes (..., 4) of squares, float64, from corner and side, each (...)."""
    left, top, sides = (np.asarray(one, np.float64) for one in (x0, y0, side))
    return np.stack([left, top, left + sides, top + sides], axis=-1)


def in_crops(boxes: ArrayLike, crops: ArrayLike) -> NDArray[np.float32]:
    """Return boxes (n, 4) in units of the side of their crop, float32, from its upper left corner.

    Args:
        boxes: in pixels of the frame.
        crops: (n, 3), x0, y0 and side of the crops in pixels of the frame.
    """
    squares = np.asarray(crops, np.float32)
    corners = squares[:, [0, 1, 0, 1]]
    return (np.asarray(boxes, np.float32) - corners) / squares[:, 2:]
