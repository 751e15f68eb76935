"""Crops: from the sampled frames of one video to JPEG crops of its faces.

The workflow, prediction, the shift suite and the plan all call `crop_video`, so a model gets the
same crops at test time as in training, down to the JPEG.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask.config import FacesConfig
from unmask.faces.detectors import Detector
from unmask.faces.images import encode_jpeg
from unmask.faces.landmarks import Landmarker
from unmask.faces.search import Search, find_faces
from unmask.faces.tracks import Track
from unmask.videos.color import square_bgr
from unmask.videos.frames import Frame, SampledVideo
from unmask.vocabulary import Status


@dataclass(frozen=True)
class Crop:
    """One face of one frame.

    Attributes:
        track: index of the person in the video, in decreasing order of confidence.
        frame: index of the sampled frame.
        time: presentation time of the frame in seconds.
        box: float32 (4,), x0 y0 x1 y1 of the face in pixels of the upright frame.
        score: of the detection; 0 where the box was interpolated.
        detected: whether the detector found the face in this frame.
        x0: left edge of the crop in pixels of the frame; may be outside, like `y0`.
        y0: top edge.
        side: of the crop in pixels of the frame, constant over a track.
        landmarks: float32 (5, 2), x y in pixels of the crop; NaN if the detector has none.
        landmarks_68: float32 (68, 2), the shape predictor's; None without a landmarker.
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


@dataclass(frozen=True)
class CroppedVideo:
    """The faces of one video."""

    search: Search | None  # None in a video that failed
    crops: list[Crop]  # by track and frame
    status: Status  # `ok` where there is a crop
    detail: str  # the reason of another status, or what is damaged in a video that has crops
    frames: int = 0  # number of sampled frames


def crop_video(
    sampled: SampledVideo,
    detector: Detector,
    config: FacesConfig,
    reference: Search | None = None,
    landmarker: Landmarker | None = None,
) -> CroppedVideo:
    """Find the faces of one video and crop them.

    Args:
        sampled: the video's sampled frames.
        detector: from `create_detector`.
        config: how faces are found, and size, margin and quality of the crops.
        reference: the search in a video of the same take, reused where it fits.
        landmarker: from `create_landmarker`, for 68 landmarks as well.
    """
    search = find_faces(sampled.frames, detector, config, reference)
    crops = []
    for index, track in enumerate(search.tracks):
        side = _crop_side(track, config)
        for row, number in enumerate(track.frames):
            frame = sampled.frames[number]
            if config.detector == "none":  # the whole picture; those of a video may differ in size
                side = max(frame.width, frame.height)
            crops.append(_crop(frame, index, track, row, side, config, landmarker))
    status, detail = sampled.status, sampled.detail
    if status == Status.OK and not crops:
        status, detail = Status.NO_FACE, f"no face in {len(sampled.frames)} frames"
    return CroppedVideo(search, crops, status, detail, len(sampled.frames))


def _crop_side(track: Track, config: FacesConfig) -> int:
    """Return one side for a whole track: one that followed every box would make the face pulse."""
    sides = (track.boxes[:, 2:] - track.boxes[:, :2]).max(axis=1)
    return max(2, _even(float(np.median(sides)) * (1 + 2 * config.margin)))


def _even(value: float) -> int:
    """Round to an even number, where pixels of luma and chroma coincide in 4:2:0."""
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
