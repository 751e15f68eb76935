"""Extraction: the frames of a shard's videos, decoded in worker processes, as a frame stream."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import FileIO
from itertools import cycle
from pathlib import Path
from typing import Any

from unmask.config import Config, FramesConfig
from unmask.errors import UnmaskError
from unmask.files import naming_full_disk
from unmask.progress import track
from unmask.tables import PROBE, read_rows
from unmask.videos.frames import YUV420
from unmask.videos.isolation import Lost, Task, run_isolated
from unmask.videos.sampling import write_frames
from unmask.videos.source import video_files
from unmask.videos.stream import finish_stream, write_all, write_end
from unmask.vocabulary import Status

logger = logging.getLogger(__name__)

# Memory for frames that are decoded but not yet written; those of one 4K video take 400 MB.
_BUFFER_MB = 500.0
# Capacity of the pipe. Its ends wake each other a quarter as often as with the default, 64 kB, and
# its contents are still in a core's cache when they are read.
_PIPE_BYTES = 1 << 18
# Memory that a buffer keeps from one video to the next; a 720p video takes 45 MB.
_KEPT_BYTES = 128_000_000


def write_stream(
    parts: Sequence[Path], probe: Path, config: Config, workers: int, output: Path
) -> None:
    """Sample every readable video of a shard and write the frame stream.

    The original of a family comes first, so that its fakes can reuse the faces found in it.

    Args:
        parts: folders or archives with the videos.
        probe: the shard's probe table; only its videos with status `ok` are opened.
        config: the sections `frames` and `limits`.
        workers: number of decoding processes.
        output: a FIFO or a file.

    Raises:
        UnmaskError: the reader of the FIFO stopped.
    """
    rows = [row for row in read_rows(probe, PROBE) if row["status"] == Status.OK]
    rows.sort(
        key=lambda row: (row["part"], row["family"], row["video"] != row["family"], row["video"])
    )
    names = [f"{row['part']}/{row['video']}" for row in rows]
    # One file in memory for each video in progress: it takes no disk space, and its pages go into a
    # pipe without a copy. Workers open it by its path below this process.
    buffers = [os.memfd_create("frames") for _ in range(workers + 1)]
    paths = [Path(f"/proc/{os.getpid()}/fd/{buffer}") for buffer in buffers]
    sampling = config.frames.per_video, config.frames.rate
    tasks = [
        Task(write_frames, (path, name, video, *sampling), _megabytes(row, config.frames), name)
        for path, name, video, row in zip(cycle(paths), names, video_files(parts, rows), rows)
    ]
    outcomes = run_isolated(tasks, config.limits, workers, _BUFFER_MB)
    frames = 0
    try:
        with naming_full_disk(output), output.open("wb", buffering=0) as sink:
            capacity = _widen_pipe(sink)
            for index, outcome in enumerate(track(outcomes, "videos", len(rows))):
                if outcome.detail:
                    logger.warning("%r: %s, %s", names[index], outcome.status, outcome.detail)
                if isinstance(outcome, Lost):
                    write_end(sink, names[index], outcome.status, outcome.detail, [])
                else:
                    _forward(buffers[index % len(buffers)], outcome.size, sink, capacity)
                    frames += outcome.frames
            finish_stream(sink, len(rows))
    except BrokenPipeError:
        raise UnmaskError(f"{output}: its reader stopped; see the log of crop_faces") from None
    finally:
        for buffer in buffers:
            os.close(buffer)
    logger.info("%d frames of %d videos", frames, len(rows))


def _megabytes(row: Mapping[str, Any], config: FramesConfig) -> float:
    pixels = (row["video_width"] or 0) * (row["video_height"] or 0)
    ratio = row["video_sample_aspect_ratio"] or "1:1"
    width, height = map(int, ratio.split(":"))
    is_square = width == height
    bytes_per_pixel = 1.5 if row["video_pix_fmt"] == YUV420 and is_square else 3
    frames = config.per_video
    if config.rate is not None:
        frames = round((row["video_duration"] or 60.0) * config.rate) + 1
    return float(pixels * width / height * bytes_per_pixel * frames / 1e6)


def _forward(buffer: int, size: int, sink: FileIO, capacity: int) -> None:
    """Send the contents of a buffer, which may be overwritten as soon as this returns.

    `sendfile` puts the buffer's own pages into a pipe, where they stay until the reader takes them.
    So the last bytes, as many as the pipe holds, are copied: once they are in it, all pages before
    are out.
    """
    copied = min(size, capacity)
    sent = 0
    while sent < size - copied:
        sent += os.sendfile(sink.fileno(), buffer, sent, size - copied - sent)
    write_all(sink, os.pread(buffer, copied, sent))
    if size > _KEPT_BYTES:
        os.ftruncate(buffer, _KEPT_BYTES)


def _widen_pipe(sink: FileIO) -> int:
    """Return the capacity of a pipe in bytes, after enlarging it; 0 for a file."""
    if not stat.S_ISFIFO(os.fstat(sink.fileno()).st_mode):
        return 0
    # The kernel refuses it to a user with a thousand pipes; the default is only slower.
    with suppress(PermissionError):
        fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return fcntl.fcntl(sink, fcntl.F_GETPIPE_SZ)
