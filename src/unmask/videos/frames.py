"""Frames: the sampled pictures of a video, as the decoder made them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unmask.vocabulary import Status

# The two layouts of a frame; any other is converted to the second, which loses no resolution.
YUV420, YUV444 = "yuv420p", "yuv444p"


@dataclass(frozen=True)
class Frame:
    """One sampled picture as it is meant to be seen, in square pixels, as 8-bit planar YUV.

    Attributes:
        index: position among the sampled frames, from 0.
        time: presentation time in seconds; where the clock jumps, of pictures at a constant rate.
        width: in pixels.
        height: in pixels.
        pix_fmt: "yuv420p" (width and height even) or "yuv444p".
        colorspace: FFmpeg's AVColorSpace of the planes; 2 (unspecified) is taken as BT.601.
        full_range: whether luma spans 0–255 instead of 16–235.
        planes: Y, U and V, uint8 (h, w) each; in yuv420p, U and V have half the height and width.
            May be views of the decoder's memory.
    """

    index: int
    time: float
    width: int
    height: int
    pix_fmt: str
    colorspace: int
    full_range: bool
    planes: tuple[NDArray[np.uint8], ...]


def plane_shapes(width: int, height: int, pix_fmt: str) -> list[tuple[int, int]]:
    """Return height and width of Y, U and V."""
    chroma = (height // 2, width // 2) if pix_fmt == YUV420 else (height, width)
    return [(height, width), chroma, chroma]


@dataclass(frozen=True)
class SampledVideo:
    """The sampled frames of one video, and how its decoding went."""

    frames: list[Frame]  # in order of time; where decoding stopped early, those before
    status: Status = Status.OK  # of a video with at least one frame
    detail: str = ""  # what went wrong
