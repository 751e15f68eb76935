"""Pictures: from what a decoder returns to the frame that its maker meant to be seen.

What the container and the codec say about showing a picture is applied in FFmpeg's order: margins
are cut off, HDR becomes SDR, pixels become square, and the picture is mirrored or turned upright.
An upright SDR picture of square pixels stays as the decoder made it. `fields` comes before this.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from unmask.videos.container import Display, orientation
from unmask.videos.filters import cropped
from unmask.videos.frames import YUV420, YUV444, Frame, plane_shapes
from unmask.videos.hdr import is_wide, to_sdr

_FULL_RANGE = {"yuvj420p": YUV420, "yuvj444p": YUV444}
# A larger picture is scaled down: one in 8K has 50 MB, and its faces remain large enough.
_MAX_PIXELS = 4096 * 2160


def as_frame(index: int, time: float, decoded: VideoFrame, display: Display) -> Frame:
    """Return a decoded picture as it is meant to be seen, in one of the two layouts."""
    picture = _as_planes(decoded, display)
    name = picture.format.name
    pix_fmt = _FULL_RANGE.get(name, name)
    shapes = plane_shapes(picture.width, picture.height, pix_fmt)
    planes = []
    for plane, (height, width) in zip(picture.planes, shapes, strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        planes.append(rows[:height, :width])
    matrix = orientation(decoded)
    if matrix != (1, 0, 0, 1):
        planes = [_oriented(plane, *matrix) for plane in planes]
    height, width = planes[0].shape
    return Frame(
        index=index,
        time=time,
        width=width,
        height=height,
        pix_fmt=pix_fmt,
        colorspace=int(picture.colorspace),
        full_range=picture.color_range == ColorRange.JPEG or name in _FULL_RANGE,
        planes=tuple(planes),
    )


def _oriented(plane: NDArray[np.uint8], a: int, b: int, c: int, d: int) -> NDArray[np.uint8]:
    """Return a plane whose pixel (x, y) went to (a x + c y, b x + d y)."""
    turned = plane if a else plane.T
    return np.ascontiguousarray(turned[:: (b or d), :: (a or c)])


def _as_planes(decoded: VideoFrame, display: Display) -> VideoFrame:
    """Return a picture in one of the two layouts, of square pixels, and at most 4K large."""
    left, right, top, bottom = display.margins
    frame = decoded
    if any(display.margins) and left + right < frame.width and top + bottom < frame.height:
        frame = cropped(frame, display.margins)
    aspect = display.pixel_aspect()
    width, height = _shown_size(frame.width, frame.height, aspect)
    if is_wide(frame):
        frame = to_sdr(frame, width, height)
    pix_fmt = _FULL_RANGE.get(frame.format.name, frame.format.name)
    fits = pix_fmt == YUV444 or (pix_fmt == YUV420 and width % 2 == 0 and height % 2 == 0)
    if fits and (frame.width, frame.height) == (width, height):
        return frame
    # Odd sizes, 4:2:2, 10 bits, grey and RGB become 4:4:4 in 8 bits.
    rgb = {"dst_colorspace": Colorspace.ITU601, "dst_color_range": ColorRange.JPEG}
    colors: dict[str, Any] = rgb if frame.format.is_rgb else {}
    method = "AREA" if aspect == 1 else "BICUBIC"
    return frame.reformat(width, height, YUV444, interpolation=method, threads=1, **colors)


def _shown_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Return width and height in square pixels, at most 4K large."""
    wide = width * float(aspect)
    shrink = min(1.0, math.sqrt(_MAX_PIXELS / (wide * height)))
    return max(1, round(wide * shrink)), max(1, round(height * shrink))
