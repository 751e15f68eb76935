"""Encoding a few crops as a video, as uploading it does."""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

TUNES = ("film", "animation", "grain", "stillimage", "fastdecode", "zerolatency")


def recode(pictures: Sequence[Picture], crf: int, tune: str) -> Picture:
    """Encode pictures as one H.264 video and return the middle one as a decoder returns it.

    Args:
        pictures: RGB uint8 (h, w, 3) each, in order of time.
        crf: x264's constant rate factor; higher is worse.
        tune: one of `TUNES`.

    Returns:
        The middle picture, uint8 (h, w, 3).
    """
    height, width = pictures[0].shape[:2]
    odd = ((0, height % 2), (0, width % 2), (0, 0))
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = width + width % 2, height + height % 2
    encoder.pix_fmt = "yuv420p"
    encoder.framerate = 30  # type: ignore[assignment]
    encoder.time_base = 1 / encoder.framerate
    encoder.options = {
        "preset": "superfast",
        "crf": str(crf),
        "tune": tune,
        "x264-params": "threads=1:lookahead-threads=1:log-level=none",
    }
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    decoded = []
    for index, picture in enumerate([*pictures, None]):
        frame = None
        if picture is not None:
            # 4:2:0 chroma needs an even size.
            even = np.pad(picture, odd, "edge") if max(odd)[1] else picture
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            frame.pts = index
        for packet in encoder.encode(frame):
            decoded += decoder.decode(packet)
    decoded += decoder.decode(None)
    middle = decoded[len(pictures) // 2].to_ndarray(format="rgb24")
    return np.ascontiguousarray(middle[:height, :width])
