"""Cropping a shard: from its frame stream to a tar of crops, the index, and what became of each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from unmask.config import FacesConfig
from unmask.faces.crops import Crop, crop_faces
from unmask.faces.detectors import create_detector
from unmask.faces.landmarks import create_landmarker
from unmask.faces.search import Search, find_faces
from unmask.faces.shards import ShardWriter, write_shard
from unmask.progress import track
from unmask.tables import CROPPED, FACES, PROBE, read_rows, write_rows
from unmask.videos.color import perceptual_hash
from unmask.videos.stream import SampledVideo, read_stream
from unmask.vocabulary import Status

logger = logging.getLogger(__name__)


def crop_shard(
    stream: Path, probe: Path, config: FacesConfig, shard: Path, index: Path, videos: Path
) -> None:
    """Crop the faces of one shard's frame stream.

    Args:
        stream: the frame stream, a FIFO or a file.
        probe: the shard's probe table, for the family of each video.
        config: the `faces` section.
        shard: the tar of crops to write.
        index: the face index to write, see `unmask.tables.FACES`.
        videos: the table of what became of each video, see `unmask.tables.CROPPED`.
    """
    cv2.setNumThreads(1)
    probed = {
        (row["part"], row["video"]): row
        for row in read_rows(probe, PROBE)
        if row["status"] == Status.OK
    }
    rows: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    with write_shard(shard) as writer:
        cropped = _crop_stream(stream, probed, config)
        for outcome, crops in track(cropped, "videos", len(probed)):
            names = {"part": outcome["part"], "video": outcome["video"]}
            rows += [names | index_row(crop, writer, **names) for crop in crops]
            outcomes.append(outcome)
    write_rows(rows, FACES, index)
    write_rows(outcomes, CROPPED, videos)
    logger.info("%d crops of %d videos in %s", len(rows), len(outcomes), shard)


def _crop_stream(
    stream: Path, probed: Mapping[tuple[str, str], Mapping[str, Any]], config: FacesConfig
) -> Iterator[tuple[dict[str, Any], list[Crop]]]:
    """Yield each video's row for the table of outcomes, and its crops."""
    detector, landmarker = create_detector(config), create_landmarker(config)
    family, reference = ("", ""), None
    for sampled, frames in read_stream(stream):
        # Of the same part: what a fake is given does not depend on which parts a shard has.
        own = sampled.part, probed[sampled.part, sampled.video]["family"]
        if own != family:
            family, reference = own, None
        search, crops = None, []
        try:
            search = find_faces(frames, detector, config, reference)
            crops = crop_faces(frames, search, config, landmarker)
        except Exception as error:  # one odd video must not cost its whole shard
            logger.exception("%r of %s", sampled.video, sampled.part)
            sampled = replace(sampled, status=Status.FAILED, detail=type(error).__name__)
        # The stream brings an original before its fakes; without it, a fake serves the others.
        if crops and reference is None:
            reference = search
        outcome = _outcome(sampled, len(frames), search, crops)
        yield outcome | {"phash": perceptual_hash(frames)}, crops
        # The next video's frames need the room.
        del frames


def index_row(crop: Crop, writer: ShardWriter, part: str, video: str) -> dict[str, Any]:
    """Append a crop to a shard; return its row for the face index, but for whose it is.

    Args:
        crop: the crop.
        writer: of the shard.
        part: the folder that the members of the same video lie in there.
        video: what they are called.
    """
    # WebDataset takes what follows the first dot of a file's name for the suffix.
    key = f"{part}/{video.replace('.', '-')}_{crop.track}_{crop.frame:04d}"
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
        "landmarks_68": None if crop.landmarks_68 is None else crop.landmarks_68.reshape(-1),
        "sharpness": crop.sharpness,
        "brightness": crop.brightness,
    }


def _outcome(
    sampled: SampledVideo, frames: int, search: Search | None, crops: list[Crop]
) -> dict[str, Any]:
    status, detail = sampled.status, sampled.detail
    if status == Status.OK and not crops:
        status, detail = Status.NO_FACE, f"no face in {frames} frames"
    return {
        "part": sampled.part,
        "video": sampled.video,
        "status": status,
        "detail": detail,
        "frames": frames,
        "frames_with_face": len({crop.frame for crop in crops}),
        "tracks": len({crop.track for crop in crops}),
        "crops": len(crops),
        "detections": search.detections if search else 0,
        "reused": search.reused if search else False,
    }
