"""Preparing videos for a model: decoded and cropped, in worker processes without PyTorch."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask.config import FacesConfig, FramesConfig, LimitsConfig
from unmask.errors import UnmaskError
from unmask.faces.crops import Crop, CroppedVideo, crop_video
from unmask.faces.detectors import cached_detector
from unmask.faces.images import encode_jpeg
from unmask.videos.color import picture_bgr
from unmask.videos.container import probe_entry
from unmask.videos.frames import YUV444, Frame, SampledVideo
from unmask.videos.isolation import Lost, Task, run_isolated
from unmask.videos.sampling import sample_video
from unmask.videos.source import Entry, VideoFile
from unmask.vocabulary import Status

logger = logging.getLogger(__name__)

_PICTURE_QUALITY = 85


@dataclass(frozen=True)
class Prepared:
    """The crops of a video's faces."""

    crops: list[Crop]  # by track and frame
    status: Status  # `ok` where there is a crop
    reason: str  # why there are no crops, or what is damaged in a video that has some
    seconds: float = 0.0  # of wall time that preparing took
    frames: int = 0  # number of sampled frames
    container: dict[str, Any] = field(default_factory=dict)  # columns of `unmask.tables.PROBE`
    pictures: list[bytes] = field(default_factory=list)  # JPEGs of the sampled frames, if asked for
    width: int = 0  # of the upright frames in pixels


def prepare_video(
    videos: Path, name: str, frames: FramesConfig, faces: FacesConfig, picture_side: int = 0
) -> Prepared:
    """Decode a video of a folder and crop its faces.

    Args:
        videos: the folder.
        name: of the file.
        frames: which frames are sampled.
        faces: how faces are found and cropped.
        picture_side: long side in pixels of the pictures of whole frames; 0 for none.
    """
    started = time.perf_counter()
    container = probe_entry(videos, Entry(name, None, None, name))
    pictures: list[bytes] = []
    if container["status"] != Status.OK:
        cropped = CroppedVideo(None, [], container["status"], container["detail"])
    else:
        try:
            file = VideoFile(videos, name).opened()
            sampled = sample_video(file, frames.per_video, frames.rate)
            cropped = crop_video(sampled, cached_detector(faces), faces)
            if picture_side:
                pictures = [_picture(frame, picture_side) for frame in sampled.frames]
        except UnmaskError as error:  # no detector: all videos fall back to the prior
            cropped = CroppedVideo(None, [], Status.FAILED, str(error))
    seconds = time.perf_counter() - started
    outcome = (cropped.crops, cropped.status, cropped.detail)
    width = cropped.search.size[0] if cropped.search else 0
    return Prepared(*outcome, seconds, cropped.frames, container, pictures, width)


def _picture(frame: Frame, side: int) -> bytes:
    scale = min(1.0, side / max(frame.width, frame.height))
    size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    return encode_jpeg(picture_bgr(frame, *size), _PICTURE_QUALITY)


def prepare_image(image: NDArray[np.uint8], faces: FacesConfig) -> Prepared:
    """Crop the faces of a single RGB picture, uint8 (h, w, 3), as of a video with one frame."""
    luma, red, blue = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb))  # JPEG's: full range
    planes = tuple(np.asarray(one, np.uint8) for one in (luma, blue, red))
    height, width = image.shape[:2]
    frame = Frame(0, 0.0, width, height, YUV444, 2, True, planes)
    cropped = crop_video(SampledVideo([frame]), cached_detector(faces), faces)
    return Prepared(cropped.crops, cropped.status, cropped.detail, frames=1)


def prepare_videos(
    tasks: Iterable[Task[Prepared]], limits: LimitsConfig, workers: int
) -> Iterator[Prepared]:
    """Make calls of `prepare_video`, and yield what they return, in order.

    Args:
        tasks: the calls; the next one is taken only when it is about to be made.
        limits: time and memory of each call in a worker process.
        workers: number of worker processes; 0 makes the calls in this process, without limits.
    """
    if workers:
        # A second attempt would cost the time of other videos.
        once = limits.model_copy(update={"retries": 0})
        for one in run_isolated(tasks, once, workers):
            if isinstance(one, Lost):
                yield Prepared([], one.status, one.detail, limits.seconds)
            else:
                yield one
    else:
        for task in tasks:
            yield _prepared_here(task)


def _prepared_here(task: Task[Prepared]) -> Prepared:
    try:
        return task.function(*task.arguments)
    except Exception as error:  # one odd video must not cost the others
        logger.exception("%r failed", task.arguments[:2])
        return Prepared([], Status.FAILED, f"{type(error).__name__}; the log has the traceback")
