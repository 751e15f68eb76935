"""Cropping a shard: from its frame stream to a tar of crops, their index, and statuses."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2

from unmask.config import FacesConfig
from unmask.faces.crops import Crop, CroppedVideo, crop_video
from unmask.faces.detectors import create_detector
from unmask.faces.landmarks import create_landmarker
from unmask.faces.shards import ShardWriter, write_shard
from unmask.progress import track
from unmask.tables import CROPPED, FACES, PROBE, read_rows, write_rows
from unmask.videos.color import perceptual_hash
from unmask.videos.frames import SampledVideo
from unmask.videos.stream import read_stream
from unmask.vocabulary import Status

logger = logging.getLogger(__name__)


def crop_shard(
    stream: Path, probe: Path, config: FacesConfig, shard: Path, index: Path, videos: Path
) -> None:
    """Crop the faces of one shard's frame stream.

    Args:
        stream: the frame stream, a FIFO or a file.
        probe: the shard's probe table, which has the family of each video.
        config: the `faces` section.
        shard: the tar of crops to write.
        index: the face index to write, see `unmask.tables.FACES`.
        videos: the table of each video's status to write, see `unmask.tables.CROPPED`.
    """
    cv2.setNumThreads(1)
    readable = [row for row in read_rows(probe, PROBE) if row["status"] == Status.OK]
    families = {(row["part"], row["video"]): row["family"] for row in readable}
    rows: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    with write_shard(shard) as writer:
        cropped = _crop_stream(stream, families, config)
        for outcome, crops in track(cropped, "videos", len(families)):
            names = {"part": outcome["part"], "video": outcome["video"]}
            rows += [names | index_row(crop, writer, **names) for crop in crops]
            outcomes.append(outcome)
    write_rows(rows, FACES, index)
    write_rows(outcomes, CROPPED, videos)
    logger.info("%d crops of %d videos in %s", len(rows), len(outcomes), shard)


def _crop_stream(
    stream: Path, families: Mapping[tuple[str, str], str], config: FacesConfig
) -> Iterator[tuple[dict[str, Any], list[Crop]]]:
    """Yield each video's row of the table `CROPPED`, and its crops."""
    detector, landmarker = create_detector(config), create_landmarker(config)
    family, reference = ("", ""), None
    for part, video, sampled in read_stream(stream):
        # Of the same part: the crops of a fake do not depend on which parts share its shard.
        own = part, families[part, video]
        if own != family:
            family, reference = own, None
        try:
            cropped = crop_video(sampled, detector, config, reference, landmarker)
        except Exception as error:  # one odd video must not cost its whole shard
            logger.exception("%r of %s", video, part)
            cropped = CroppedVideo(None, [], Status.FAILED, type(error).__name__)
        # The original comes first. Where it is absent, its first fake serves as reference.
        if cropped.crops and reference is None:
            reference = cropped.search
        yield _row(part, video, sampled, cropped), cropped.crops


def index_row(crop: Crop, writer: ShardWriter, part: str, video: str) -> dict[str, Any]:
    """Append a crop to a shard; return its row for the face index, without part and video.

    In the shard, the crop's folder is `part`, and its name begins with `video`.
    """
    # WebDataset takes everything after the first dot of a file name as its extension.
    key = f"{part}/{video.replace('.', '-')}_{crop.track}_{crop.frame:04d}"
    offset = writer.add(f"{key}.jpg", crop.jpeg)
    box = dict(zip(("x0", "y0", "x1", "y1"), crop.box.tolist(), strict=True))
    return box | {
        "track": crop.track,
        "frame": crop.frame,
        "time": crop.time,
        "shard": writer.path.name,
        "key": key,
        "offset": offset,
        "size": len(crop.jpeg),
        "score": crop.score,
        "detected": crop.detected,
        "crop_x0": crop.x0,
        "crop_y0": crop.y0,
        "crop_side": crop.side,
        "landmarks": crop.landmarks.reshape(-1),
        "landmarks_68": None if crop.landmarks_68 is None else crop.landmarks_68.reshape(-1),
        "sharpness": crop.sharpness,
        "brightness": crop.brightness,
    }


def _row(part: str, video: str, sampled: SampledVideo, cropped: CroppedVideo) -> dict[str, Any]:
    return {
        "part": part,
        "video": video,
        "status": cropped.status,
        "detail": cropped.detail,
        "frames": len(sampled.frames),
        "frames_with_face": len({crop.frame for crop in cropped.crops}),
        "tracks": len({crop.track for crop in cropped.crops}),
        "crops": len(cropped.crops),
        "detections": cropped.search.detections if cropped.search else 0,
        "reused": cropped.search.reused if cropped.search else False,
        "phash": perceptual_hash(sampled.frames),
    }
