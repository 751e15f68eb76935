"""Crops: from the sampled frames of one video to JPEG crops of its faces.

Training and the Kaggle bundle both call `crop_video`, so a model sees at test time what it was
trained on, down to the JPEG.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unmask.config import FacesConfig
from unmask.errors import UnmaskError
from unmask.faces.detectors import Detections, Detector, create_detector
from unmask.faces.shards import ShardWriter, write_shard
from unmask.faces.tracks import Track, link_faces
from unmask.progress import track as track_progress
from unmask.tables import CROPPED, FACES, PROBE, Status, read_table, write_table
from unmask.videos.frames import Frame, SampledVideo, read_stream

logger = logging.getLogger(__name__)


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
        landmarks: float32 (5, 2), x y in pixels of the crop.
        sharpness: variance of the Laplacian of the crop's luma (Pech-Pacheco et al., 2000).
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
    sharpness: float
    jpeg: bytes


def detect_faces(frame: Frame, detector: Detector, config: FacesConfig) -> Detections:
    """Find the faces of one frame, in pixels of the frame, on a picture of `detect_size`."""
    scale = min(1.0, config.detect_size / max(frame.width, frame.height))
    width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    found = detector(frame.to_bgr(width, height)).scaled(1 / scale)
    return found.where(found.boxes[:, 2] - found.boxes[:, 0] >= config.min_size)


def crop_video(frames: Sequence[Frame], detector: Detector, config: FacesConfig) -> list[Crop]:
    """Find, link and crop the faces of one video.

    Args:
        frames: the sampled frames in order.
        detector: from `create_detector`.
        config: sizes, margins and limits.

    Returns:
        The crops by track and frame; none where no face was found.
    """
    detections = [detect_faces(frame, detector, config) for frame in frames]
    tracks = link_faces(detections, config.max_per_frame)
    return [
        _crop(frames[position], index, track, row, _crop_side(track, config), config)
        for index, track in enumerate(tracks)
        for row, position in enumerate(track.frames)
    ]


def _crop_side(track: Track, config: FacesConfig) -> int:
    """One size per track: a size that follows every box would make the face pulse."""
    sides = (track.boxes[:, 2:] - track.boxes[:, :2]).max(axis=1)
    return max(2, round(float(np.median(sides)) * (1 + 2 * config.margin)))


def _crop(frame: Frame, index: int, track: Track, row: int, side: int, config: FacesConfig) -> Crop:
    box = track.boxes[row]
    x0 = round(float(box[0] + box[2]) / 2 - side / 2)
    y0 = round(float(box[1] + box[3]) / 2 - side / 2)
    picture = _square(frame, x0, y0, side)
    interpolation = cv2.INTER_AREA if side > config.size else cv2.INTER_CUBIC
    resized = cv2.resize(picture, (config.size, config.size), interpolation=interpolation)
    crop = np.asarray(resized, np.uint8)
    gray = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
    offset = np.array([x0, y0], np.float32)
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
        landmarks=(track.landmarks[row] - offset) * np.float32(config.size / side),
        sharpness=float(cv2.Laplacian(gray, cv2.CV_64F).var()),
        jpeg=encode_jpeg(crop, config.jpeg_quality),
    )


def _square(frame: Frame, x0: int, y0: int, side: int) -> NDArray[np.uint8]:
    """Cut a square out of a frame; what lies outside repeats the frame's edge."""
    left, top = max(x0, 0), max(y0, 0)
    right, bottom = min(x0 + side, frame.width), min(y0 + side, frame.height)
    left, top = min(left, frame.width - 1), min(top, frame.height - 1)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    region = frame.region_to_bgr(left, top, right, bottom)
    border = (
        max(0, top - y0),
        max(0, y0 + side - bottom),
        max(0, left - x0),
        max(0, x0 + side - right),
    )
    if not any(border):
        return region
    return np.asarray(cv2.copyMakeBorder(region, *border, cv2.BORDER_REPLICATE), np.uint8)


def encode_jpeg(picture: NDArray[np.uint8], quality: int) -> bytes:
    """Encode BGR uint8 (h, w, 3) as JPEG without chroma subsampling, which would blur artefacts."""
    parameters = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    return cv2.imencode(".jpg", picture, parameters)[1].tobytes()


def decode_jpeg(data: bytes, key: str) -> NDArray[np.uint8]:
    """Decode a crop to RGB uint8 (h, w, 3).

    Raises:
        UnmaskError: the bytes are no JPEG; the message names `key`.
    """
    # OpenCV returns None for what is no picture, but asserts on no bytes at all.
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    if picture is None:
        raise UnmaskError(f"crop {key}: not a readable JPEG; delete its shard and rerun")
    return np.asarray(picture, np.uint8)


def crop_shard(
    stream: Path, probe: Path, config: FacesConfig, shard: Path, index: Path, videos: Path
) -> None:
    """Crop the faces of one shard's frame stream.

    Args:
        stream: the frame stream, a FIFO or a file.
        probe: the shard's probe table, for the part of each video.
        config: the `faces` section.
        shard: the tar of crops to write.
        index: the face index to write, see `unmask.tables.FACES`.
        videos: the table of what became of each video, see `unmask.tables.CROPPED`.
    """
    cv2.setNumThreads(1)
    probed = read_table(probe, PROBE)
    readable = probed[probed["status"] == Status.OK]
    parts = dict(zip(readable["video"], readable["part"], strict=True))
    detector = create_detector(config)
    rows: list[dict[str, object]] = []
    outcomes: list[dict[str, object]] = []
    with write_shard(shard) as writer:
        for sampled, frames in track_progress(read_stream(stream), "videos", len(readable)):
            names = {"part": parts[sampled.video], "video": sampled.video}
            try:
                crops = crop_video(frames, detector, config)
            except Exception as error:  # one odd video must not cost its whole shard
                logger.exception("%s", sampled.video)
                crops = []
                sampled = SampledVideo(sampled.video, Status.FAILED, type(error).__name__)
            for crop in crops:
                rows.append(names | _index_row(crop, writer, Path(sampled.video).stem))
            outcomes.append(names | _outcome(sampled, len(frames), crops))
    write_table(pd.DataFrame(rows, columns=list(FACES.columns)), FACES, index)
    write_table(pd.DataFrame(outcomes, columns=list(CROPPED.columns)), CROPPED, videos)
    logger.info("%d crops of %d videos in %s", len(rows), len(outcomes), shard)


def _index_row(crop: Crop, writer: ShardWriter, stem: str) -> dict[str, object]:
    key = f"{stem}_{crop.track}_{crop.frame:04d}"
    offset = writer.add(f"{key}.jpg", crop.jpeg)
    x0, y0, x1, y1 = (float(value) for value in crop.box)
    return {
        "track": crop.track,
        "frame": crop.frame,
        "time": crop.time,
        "shard": writer.path.name,
        "key": key,
        "offset": offset,
        "size": len(crop.jpeg),
        "x0": x0,
        "y0": y0,
        "x1": x1,
        "y1": y1,
        "score": crop.score,
        "detected": crop.detected,
        "crop_x0": crop.x0,
        "crop_y0": crop.y0,
        "crop_side": crop.side,
        "landmarks": crop.landmarks.reshape(-1),
        "sharpness": crop.sharpness,
    }


def _outcome(sampled: SampledVideo, frames: int, crops: list[Crop]) -> dict[str, object]:
    status, detail = sampled.status, sampled.detail
    if status == Status.OK and not crops:
        status, detail = Status.NO_FACE, f"no face in {frames} frames"
    return {
        "status": status,
        "detail": detail,
        "frames": frames,
        "frames_with_face": len({crop.frame for crop in crops}),
        "tracks": len({crop.track for crop in crops}),
        "crops": len(crops),
        "detections": frames,
    }
