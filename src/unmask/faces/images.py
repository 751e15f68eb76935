"""Crops as JPEG, and brought to the size of a model."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask.errors import UnmaskError

_END_OF_JPEG = b"\xff\xd9"


def encode_jpeg(picture: NDArray[np.uint8], quality: int) -> bytes:
    """Encode BGR uint8 (h, w, 3) as JPEG without chroma subsampling, which would blur artefacts."""
    parameters = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    return cv2.imencode(".jpg", picture, parameters)[1].tobytes()


def cut_to_face(
    crop: NDArray[np.uint8], box: NDArray[np.float32], margins: Sequence[float]
) -> NDArray[np.uint8]:
    """Cut a crop, uint8 (h, h, 3), to a face and some context, as far as the crop reaches.

    Args:
        crop: the stored crop.
        box: float32 (4,), x0 y0 x1 y1 of the face in units of the crop's side.
        margins: context on the left, above, on the right and below, as shares of the box.

    Returns:
        A view, uint8 (h', w', 3), seldom a square.
    """
    side = len(crop)
    context = np.asarray(margins) * np.tile(box[2:] - box[:2], 2) * (-1, -1, 1, 1)
    x0, y0, x1, y1 = np.clip(np.round((box + context) * side), 0, side).astype(int)
    cut = crop[y0:y1, x0:x1]
    return cut if cut.size else crop


def resize_crop(
    crop: NDArray[np.uint8], size: int, enlarging: str = "bicubic"
) -> NDArray[np.uint8]:
    """Bring a crop, uint8 (h, w, 3), to a model's size: uint8 (size, size, 3).

    Averaged where it is at least halved; averaging at other factors takes OpenCV five times as long
    as bilinear interpolation. `enlarging` is "bicubic" or "bilinear".
    """
    longest, shortest = max(crop.shape[:2]), min(crop.shape[:2])
    if longest == shortest == size:
        return crop
    shrinks = cv2.INTER_AREA if shortest >= 2 * size else cv2.INTER_LINEAR
    enlarges = cv2.INTER_LINEAR if enlarging == "bilinear" else cv2.INTER_CUBIC
    interpolation = shrinks if longest > size else enlarges
    return np.asarray(cv2.resize(crop, (size, size), interpolation=interpolation), np.uint8)


def decode_jpeg(data: bytes, key: str) -> NDArray[np.uint8]:
    """Decode a crop to RGB uint8 (h, w, 3).

    Raises:
        UnmaskError: the bytes are no whole JPEG; the message names `key`.
    """
    # OpenCV returns None for data that is no picture, but fills a truncated picture with grey.
    whole = data.endswith(_END_OF_JPEG)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if whole else None
    if picture is None:
        raise UnmaskError(f"crop {key}: not a readable JPEG; delete its shard and rerun")
    return np.asarray(picture, np.uint8)
