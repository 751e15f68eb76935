"""Shifted clips: some videos of the data, shifted as whole clips, with their faces cropped.

A clip is decoded once, and every picture goes through all shifts into as many encoders. Each result
is a clip of its own, as in a test set, and is sampled, searched and cropped like any other video.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pandas as pd

from unmask.config import Config
from unmask.errors import UnmaskError, reason
from unmask.faces.cropping import index_row
from unmask.faces.crops import CroppedVideo, crop_video
from unmask.faces.detectors import cached_detector
from unmask.faces.shards import write_shard
from unmask.progress import track
from unmask.robustness.shifts import NEAR_LOSSLESS_CRF, SHIFTS, Picture, Shift, draw_shift
from unmask.tables import (
    PROBE,
    SHIFT_SAMPLE,
    SHIFTED_FACES,
    SHIFTED_VIDEOS,
    SPLITS,
    VIDEOS,
    read_rows,
    read_table,
    write_rows,
    write_table,
)
from unmask.videos.color import picture_bgr
from unmask.videos.container import IMAGES, VideoSource
from unmask.videos.isolation import Lost, Task, run_isolated
from unmask.videos.sampling import first_frames, sample_video
from unmask.videos.source import VideoFile, video_files
from unmask.vocabulary import Status

logger = logging.getLogger(__name__)

_TICKS = 90_000  # per second, MPEG's clock
# "ultrafast" takes 8 ms for a 720p frame, the next preset twice that.
_NEAR_LOSSLESS_PRESET, _COMPRESSING_PRESET = "ultrafast", "veryfast"
# Memory for the encoders and their clips, in addition to limits.memory_mb for the decoder.
_ENCODERS_MB = 1500
_X264 = "threads=1:lookahead-threads=1:cpu-independent=1:log-level=none"
# [U V] = matrix @ [B G R 1] in 8 bits (ITU-T H.273, 8.3): BT.601's colour differences.
_TO_CHROMA = np.array(
    [
        [112, -112 * 0.587 / 0.886, -112 * 0.299 / 0.886, 128 * 255],
        [-112 * 0.114 / 0.701, -112 * 0.587 / 0.701, 112, 128 * 255],
    ],
    np.float64,
) / np.array(255, np.float64)


def sample_shifts(
    ledger: Path, splits: Path, folds: Collection[int], count: int, output: Path
) -> None:
    """Choose the videos that are shifted.

    Args:
        ledger: the table of all videos; only those with a face are chosen.
        splits: the split table.
        folds: those that some model is validated or tested on.
        count: number of videos to choose.
        output: see `unmask.tables.SHIFT_SAMPLE`.

    Raises:
        UnmaskError: there is none.
    """
    videos = read_table(ledger, VIDEOS)[["part", "video", "status", "format"]]
    videos = videos[videos["status"] == Status.OK].drop(columns="status")
    known = videos.merge(read_table(splits, SPLITS), on=["part", "video"])
    sample = choose_families(known[known["fold"].isin(list(folds))], count)
    if sample.empty:
        raise UnmaskError(
            f"evaluation.shift_videos: no video with a face in folds {sorted(folds)} to shift; "
            "set it to 0"
        )
    if images := int((sample["format"] == IMAGES).sum()):
        logger.warning(
            "%d of %d are folders of images, which have no clock: they are encoded at 25 frames a "
            "second, so the shift of the frame rate says nothing about them",
            *(images, len(sample)),
        )
    write_table(sample, SHIFT_SAMPLE, output)
    labels = sample.groupby(["fold", "label"]).size().to_dict()
    logger.info("%d videos; by fold and label %s", len(sample), labels)


def choose_families(videos: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return whole families, from all folds in turn, until there are `count` videos.

    Each fold has at least one family, because some model is validated or tested on it. The last
    family may exceed the count. Families are ordered by a hash of their name, so a larger count
    adds to the sample of a smaller one, and new families in the data replace few of the old.
    """
    families = videos.groupby(["fold", "family"], as_index=False).size()
    families["hash"] = [
        hashlib.blake2b(name.encode(), digest_size=8).hexdigest() for name in families["family"]
    ]
    families["turn"] = families.groupby("fold")["hash"].rank(method="first")
    families = families.sort_values(["turn", "hash"], kind="stable")
    before = families["size"].cumsum() - families["size"]
    taken = families.loc[(before < count) | (families["turn"] == 1), "family"]
    chosen: pd.DataFrame = videos[videos["family"].isin(taken)]
    return chosen


def shift_shard(
    parts: Sequence[Path],
    probe: Path,
    sample: Path,
    config: Config,
    workers: int,
    shard: Path,
    index: Path,
    videos: Path,
) -> None:
    """Shift those videos of a shard that are in the sample, and crop their faces.

    Args:
        parts: folders or archives with the videos.
        probe: the shard's probe table.
        sample: the videos to shift.
        config: the sections `frames`, `faces`, `limits` and `evaluation`.
        workers: number of processes.
        shard: the tar of crops to write.
        index: the face index to write, see `unmask.tables.SHIFTED_FACES`.
        videos: the status of each video, see `unmask.tables.SHIFTED_VIDEOS`.
    """
    wanted = {(row["part"], row["video"]) for row in read_rows(sample, SHIFT_SAMPLE)}
    names = [
        {"part": row["part"], "video": row["video"]}
        for row in read_rows(probe, PROBE)
        if (row["part"], row["video"]) in wanted
    ]
    tasks = [
        Task(shift_video, (video, config), name=video.name) for video in video_files(parts, names)
    ]
    memory = config.limits.memory_mb + _ENCODERS_MB
    limits = config.limits.model_copy(update={"memory_mb": memory})
    results = track(run_isolated(tasks, limits, workers), "videos", len(tasks))
    faces: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    with write_shard(shard) as writer:
        for name, result in zip(names, results, strict=True):
            clips = _without_faces(result) if isinstance(result, Lost) else result
            for shift, clip in clips.items():
                key = {"shift": shift, **name}
                part, member = name["part"], f"{name['video']}_{shift}"
                if clip.detail:
                    logger.warning("%s/%s: %s", part, member, clip.detail)
                faces += [key | index_row(crop, writer, part, member) for crop in clip.crops]
                outcome = {"status": clip.status, "detail": clip.detail, "frames": clip.frames}
                outcomes.append(key | outcome | {"crops": len(clip.crops)})
    write_rows(faces, SHIFTED_FACES, index)
    write_rows(outcomes, SHIFTED_VIDEOS, videos)
    logger.info("%d crops of %d videos, %d shifts each", len(faces), len(names), len(SHIFTS))


def _without_faces(lost: Lost) -> dict[str, CroppedVideo]:
    return dict.fromkeys(SHIFTS, CroppedVideo(None, [], lost.status, lost.detail))


def shift_video(video: VideoFile, config: Config) -> dict[str, CroppedVideo]:
    """Apply every shift to the beginning of one video; return the faces under each.

    This runs in a worker process.
    """
    cv2.setNumThreads(1)
    try:
        with video.opened() as source:
            clips = encode_shifts(source, video.name, config.evaluation.shift_seconds)
    except MemoryError:
        raise
    except (av.FFmpegError, UnmaskError) as error:
        return _without_faces(Lost(Status.DECODE_ERROR, reason(error)))
    detector = cached_detector(config.faces)
    cropped = {}
    for shift, clip in clips.items():
        file = nullcontext(io.BytesIO(clip))
        sampled = sample_video(file, config.frames.per_video, config.frames.rate)
        cropped[shift] = crop_video(sampled, detector, config.faces)
    return cropped


def encode_shifts(source: VideoSource, name: str, seconds: float) -> dict[str, bytes]:
    """Decode the first seconds of a video once and encode them again under each shift.

    Returns MP4 files by shift, with equal bytes for equal videos of the same name.

    Raises:
        av.FFmpegError: the file cannot be opened or decoded.
        UnmaskError: the file holds no video stream or no frame.
    """
    encoders: dict[str, _Encoder] = {}
    start = 0.0
    for frame in first_frames(source, seconds):
        picture = picture_bgr(frame, frame.width, frame.height)
        if not encoders:
            start = frame.time
            height, width = picture.shape[:2]
            encoders = {shift: _Encoder(draw_shift(shift, name, height, width)) for shift in SHIFTS}
        # A stream may change its size; the parameters are for the first frame's.
        if picture.shape[:2] != (height, width):
            picture = np.asarray(cv2.resize(picture, (width, height)), np.uint8)
        for encoder in encoders.values():
            encoder.add(picture, frame.index, frame.time - start)
    return {shift: encoder.finish() for shift, encoder in encoders.items()}


class _Encoder:
    """Shifts pictures and encodes them to an MP4 file in memory."""

    def __init__(self, shift: Shift) -> None:
        self._shift = shift
        self._file = io.BytesIO()
        self._container = av.open(self._file, "w", format="mp4")
        self._stream: av.VideoStream | None = None
        self._tick = -1
        self._slot = -1

    def add(self, picture: Picture, index: int, seconds: float) -> None:
        """Shift and encode a picture, unless the frame rate is limited and it is to be dropped."""
        tick = round(seconds * _TICKS)
        # The first frame of each 1/rate seconds is kept.
        slot = index if self._shift.rate is None else int(seconds * self._shift.rate + 1e-6)
        if tick <= self._tick or slot <= self._slot:
            return
        self._tick, self._slot = tick, slot
        shifted = _even(self._shift.change(picture, index))
        if self._stream is None:
            self._stream = self._add_stream(shifted)
        frame = av.VideoFrame.from_ndarray(_yuv420(shifted), format="yuv420p")
        frame.pts, frame.time_base = tick, Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))

    def _add_stream(self, picture: Picture) -> av.VideoStream:
        crf = self._shift.crf
        preset = _NEAR_LOSSLESS_PRESET if crf == NEAR_LOSSLESS_CRF else _COMPRESSING_PRESET
        stream = self._container.add_stream("libx264", rate=30)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        stream.options = {"preset": preset, "crf": str(crf), "x264-params": _X264}
        return stream

    def finish(self) -> bytes:
        """Return the file."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()
        return self._file.getvalue()


def _yuv420(picture: Picture) -> Picture:
    """Return BGR uint8 (h, w, 3) of even size as Y, U and V, uint8 (1.5 h, w): BT.601, 16 to 235.

    FFmpeg's conversion tints grey by one level, and OpenCV's takes the chroma of one pixel in four.
    """
    height, width = picture.shape[:2]
    luma = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420)[:height]
    quarter = cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    chroma = cv2.split(cv2.transform(quarter, _TO_CHROMA))
    planes = np.concatenate([luma.reshape(-1), *(plane.reshape(-1) for plane in chroma)])
    return np.asarray(planes.reshape(height * 3 // 2, width), np.uint8)


def _even(picture: Picture) -> Picture:
    """Repeat the last row or column of a picture of odd size, as 4:2:0 needs even ones."""
    below, after = (length % 2 for length in picture.shape[:2])
    return np.pad(picture, ((0, below), (0, after), (0, 0)), mode="edge")
