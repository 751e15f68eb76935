"""Crops: from the sampled frames of one video to JPEG crops of its faces.

Training and the Kaggle bundle both call `find_faces` and `crop_faces`, so a model sees at test time
what it was trained on, down to the JPEG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask.config import FacesConfig
from unmask.faces.images import encode_jpeg
from unmask.faces.landmarks import Landmarker
from unmask.faces.search import Search
from unmask.faces.tracks import Track
from unmask.videos.color import square_bgr
from unmask.videos.frames import Frame


@dataclass(frozen=True)
class Crop:
    """One face of one frame.

    Attributes:
        track: index of the person in the video, the most certain first.
        frame: index of the sampled frame.
        time: presentation time of the frame in seconds.
        box: float32 (4,), the face's x0 y0 x1 y1 in pixels of the upright frame.
        score: the detector's; 0 where the box was interpolated.
        detected: whether the detector found the face in this very frame.
        x0: left edge of the crop in the frame, pixels; may lie outside.
        y0: top edge.
        side: side of the crop in pixels of the frame, constant over a track.
        landmarks: float32 (5, 2), x y in pixels of the crop; NaN where the detector has none.
        landmarks_68: float32 (68, 2), the same of the shape predictor; None where not asked for.
        sharpness: variance of the Laplacian of the crop's luma (Pech-Pacheco et al., 2000).
        brightness: mean of the crop's luma, 0 to 255.
        jpeg: the encoded crop, `FacesConfig.size` pixels square.
    """

    track: int
    frame: int
    time: float
    box: NDArray[np.float32]
    score: float
    detected: bool
    x0: int
    y0: int
    side: int
    landmarks: NDArray[np.float32]
    landmarks_68: NDArray[np.float32] | None
    sharpness: float
    brightness: float
    jpeg: bytes


def crop_faces(
    frames: Sequence[Frame],
    search: Search,
    config: FacesConfig,
    landmarker: Landmarker | None = None,
) -> list[Crop]:
    """Crop the faces that were found in one video.

    Args:
        frames: the sampled frames in order.
        search: what `find_faces` found in them.
        config: size, margin and quality of the crops.
        landmarker: from `create_landmarker`, for 68 landmarks as well.

    Returns:
        The crops by track and frame; none where no face was found.
    """
    return [
        _crop(frames[position], index, track, row, _crop_side(track, config), config, landmarker)
        for index, track in enumerate(search.tracks)
        for row, position in enumerate(track.frames)
    ]


def _crop_side(track: Track, config: FacesConfig) -> int:
    """One size per track: a size that follows every box would make the face pulse."""
    sides = (track.boxes[:, 2:] - track.boxes[:, :2]).max(axis=1)
    return max(2, _even(float(np.median(sides)) * (1 + 2 * config.margin)))


def _even(value: float) -> int:
    """Round to where luma and chroma of 4:2:0 begin together."""
    return 2 * round(value / 2)


def _crop(
    frame: Frame,
    index: int,
    track: Track,
    row: int,
    side: int,
    config: FacesConfig,
    landmarker: Landmarker | None,
) -> Crop:
    box = track.boxes[row]
    x0 = _even(float(box[0] + box[2]) / 2 - side / 2)
    y0 = _even(float(box[1] + box[3]) / 2 - side / 2)
    crop = square_bgr(frame, x0, y0, side, config.size)
    luma = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
    laplacian = cv2.Laplacian(luma, cv2.CV_16S)
    offset, scale = np.array([x0, y0], np.float32), np.float32(config.size / side)
    inside = ((box.reshape(2, 2) - offset) * scale).reshape(4)
    return Crop(
        track=index,
        frame=frame.index,
        time=frame.time,
        box=box,
        score=float(track.scores[row]),
        detected=bool(track.detected[row]),
        x0=x0,
        y0=y0,
        side=side,
        landmarks=(track.landmarks[row] - offset) * scale,
        landmarks_68=landmarker(crop, inside) if landmarker else None,
        sharpness=float(cv2.meanStdDev(laplacian)[1][0, 0] ** 2),
        brightness=float(cv2.mean(luma)[0]),
        jpeg=encode_jpeg(crop, config.jpeg_quality),
    )
