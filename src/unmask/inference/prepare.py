"""Preparing a video for a model: decoded and cropped, in a worker process without PyTorch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from unmask.config import FacesConfig, FramesConfig
from unmask.errors import UnmaskError
from unmask.faces.crops import Crop, crop_video
from unmask.faces.detectors import cached_detector
from unmask.videos.sampling import sample_video
from unmask.videos.source import VideoFile


@dataclass(frozen=True)
class Prepared:
    """The crops of a video's faces."""

    crops: list[Crop]
    reason: str  # why there are no crops; empty if there are any
    seconds: float  # of wall time that preparing took


def prepare_video(videos: Path, name: str, frames: FramesConfig, faces: FacesConfig) -> Prepared:
    """Decode a video of a folder and crop its faces."""
    started = time.perf_counter()
    try:
        file = VideoFile(videos, name).opened()
        sampled = sample_video(file, frames.per_video, frames.rate)
        cropped = crop_video(sampled, cached_detector(faces), faces)
        crops, reason = cropped.crops, "" if cropped.crops else cropped.detail
    except UnmaskError as error:  # no detector: all videos fall back to the prior
        crops, reason = [], str(error)
    return Prepared(crops, reason, time.perf_counter() - started)
