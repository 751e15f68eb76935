"""The frame stream: sampled frames on their way from `extract_frames` to `crop_faces`.

It is a tar archive, written to a pipe that `crop_faces` reads, or to a file. A frame is a member
`PART/VIDEO/INDEX.PIXFMT` of raw planes. After the frames of a video comes `PART/VIDEO/end.json`
with its status and the properties of its frames. The stream ends with `end.json`, so that the
reader notices when the writer died.

Raw planes are large. Each side copies them at most once, and reuses the same memory for one video
after another, because allocating memory costs as much as filling it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from unmask.config import Config, FramesConfig
from unmask.errors import UnmaskError
from unmask.files import naming_full_disk
from unmask.progress import track
from unmask.tables import PROBE, read_rows
from unmask.videos.frames import YUV420, Frame, SampledVideo, plane_shapes, sample_video
from unmask.videos.isolation import Lost, Task, run_isolated
from unmask.videos.source import VideoFile, video_files
from unmask.vocabulary import Label, Status

logger = logging.getLogger(__name__)

_END = "end.json"
_BLOCK = tarfile.BLOCKSIZE
# Attributes of a frame that end.json stores; the name of its member has the others.
_PROPERTIES = ("time", "width", "height", "colorspace", "full_range")
# Frames of videos that are decoded but not yet written; one 4K video has 400 MB.
_BUFFER_MB = 500.0
# Capacity of the pipe: its ends wake each other a quarter as often as with the default 64 kB, and
# what is in it is still in a core's cache when it is read.
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
        key=lambda row: (row["part"], row["family"], row["label"] != Label.REAL, row["video"])
    )
    members = [f"{row['part']}/{row['video']}" for row in rows]
    # A file in memory per video in work: it takes no disk space, and a pipe takes its pages without
    # copying them. Workers open it by its path below this process.
    buffers = [os.memfd_create("frames") for _ in range(workers + 1)]
    paths = [Path(f"/proc/{os.getpid()}/fd/{buffer}") for buffer in buffers]
    tasks = [
        Task(
            write_frames,
            (paths[index % len(paths)], members[index], video, config.frames),
            _megabytes(rows[index], config.frames),
        )
        for index, video in enumerate(video_files(parts, rows))
    ]
    outcomes = run_isolated(tasks, config.limits, workers, _BUFFER_MB)
    frames = 0
    try:
        with naming_full_disk(output), output.open("wb", buffering=0) as sink:
            capacity = _widen_pipe(sink)
            for index, outcome in enumerate(track(outcomes, "videos", len(rows))):
                if isinstance(outcome, Lost):
                    outcome = Written(0, outcome.status, outcome.detail, [])
                if outcome.detail:
                    logger.warning("%r: %s, %s", members[index], outcome.status, outcome.detail)
                _forward(buffers[index % len(buffers)], outcome.size, sink, capacity)
                end = {"status": outcome.status, "detail": outcome.detail, "frames": outcome.frames}
                _write_member(sink, f"{members[index]}/{_END}", json.dumps(end).encode())
                frames += len(outcome.frames)
            _write_member(sink, _END, json.dumps({"videos": len(rows)}).encode())
            sink.write(bytes(2 * _BLOCK))
    except BrokenPipeError:
        raise UnmaskError(f"{output}: its reader stopped; see the log of crop_faces") from None
    finally:
        for buffer in buffers:
            os.close(buffer)
    logger.info("%d frames of %d videos", frames, len(rows))


@dataclass(frozen=True)
class Written:
    """What a worker wrote of one video into a buffer.

    Attributes:
        size: bytes.
        status: see `SampledVideo`.
        detail: see `SampledVideo`.
        frames: properties of each frame, without its planes.
    """

    size: int
    status: Status
    detail: str
    frames: list[dict[str, Any]]


def _megabytes(row: Mapping[str, Any], config: FramesConfig) -> float:
    pixels = (row["video_width"] or 0) * (row["video_height"] or 0)
    bytes_per_pixel = 1.5 if row["video_pix_fmt"] == YUV420 else 3
    frames = config.per_video
    if config.rate is not None:
        frames = round((row["video_duration"] or 60.0) * config.rate) + 1
    return float(pixels * bytes_per_pixel * frames / 1e6)


def write_frames(buffer: Path, name: str, video: VideoFile, config: FramesConfig) -> Written:
    """Write the sampled frames of a video into a buffer. This runs in a worker process.

    Args:
        buffer: path of the file in memory.
        name: of the video in the stream.
        video: the video.
        config: the section `frames`.
    """
    frames: list[dict[str, Any]] = []
    with buffer.open("r+b", buffering=0) as sink:

        def write(frame: Frame) -> None:
            member = f"{name}/{frame.index:04d}.{frame.pix_fmt}"
            _write_member(sink, member, *map(np.ascontiguousarray, frame.planes))
            frames.append({name: getattr(frame, name) for name in _PROPERTIES})

        sampled = sample_video(video.opened(), config, write)
        return Written(sink.tell(), sampled.status, sampled.detail, frames)


def _write_member(sink: FileIO, name: str, *payload: bytes | NDArray[np.uint8]) -> None:
    views = [memoryview(part).cast("B") for part in payload]  # type: ignore[arg-type]
    member = tarfile.TarInfo(name)
    member.size = sum(view.nbytes for view in views)
    _write_all(sink, member.tobuf(tarfile.GNU_FORMAT))
    for view in views:
        _write_all(sink, view)
    _write_all(sink, bytes(-member.size % _BLOCK))


def _write_all(sink: FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view.nbytes:
        view = view[sink.write(view) :]


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
    _write_all(sink, os.pread(buffer, copied, sent))
    if size > _KEPT_BYTES:
        os.ftruncate(buffer, _KEPT_BYTES)


def _widen_pipe(sink: FileIO) -> int:
    """Return the capacity of a pipe in bytes, after enlarging it; 0 for a file."""
    if not stat.S_ISFIFO(os.fstat(sink.fileno()).st_mode):
        return 0
    # A user with a thousand pipes gets no more memory for them; it is only slower then.
    with suppress(PermissionError):
        fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return fcntl.fcntl(sink, fcntl.F_GETPIPE_SZ)


def read_stream(stream: Path) -> Iterator[tuple[str, str, SampledVideo]]:
    """Yield part, name and frames of each video of a frame stream.

    Frames are valid until the next video is requested, whose planes take their memory.

    Raises:
        UnmaskError: the stream ends early, because the job that writes it died.
    """
    with stream.open("rb", buffering=0) as source:
        planes: list[tuple[str, NDArray[np.uint8]]] = []
        videos = 0
        arena = _Arena()
        for name, payload in _members(source, stream, arena):
            path, _, leaf = name.rpartition("/")
            if leaf != _END:
                planes.append((leaf, payload))
                continue
            end = json.loads(payload.tobytes())
            if not path:
                if end["videos"] != videos:
                    break
                # Read to the end: the writer would fail at a pipe that is closed early.
                while source.read(1 << 16):
                    pass
                return
            frames = [
                _frame(leaf, properties, data)
                for (leaf, data), properties in zip(planes, end["frames"], strict=True)
            ]
            planes = []
            videos += 1
            part, _, video = path.partition("/")
            yield part, video, SampledVideo(frames, Status(end["status"]), end["detail"])
            arena.clear()
    raise UnmaskError(f"{stream}: the frame stream ended early; see the log of extract_frames")


class _Arena:
    """Memory for the planes of one video at a time, in blocks that the next video reuses."""

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.uint8]] = []
        self._block = self._used = 0

    def take(self, size: int) -> NDArray[np.uint8]:
        """Return uint8 (size,) of memory, valid until `clear`."""
        while self._block < len(self._blocks):
            rest = self._blocks[self._block][self._used :]
            if len(rest) >= size:
                self._used += size
                return rest[:size]
            self._block += 1
            self._used = 0
        # Space for several of this size, but for no more than a quarter of what is in use.
        held = sum(map(len, self._blocks))
        self._blocks.append(np.empty(size * max(1, held // (4 * max(1, size))), np.uint8))
        self._used = size
        return self._blocks[-1][:size]

    def clear(self) -> None:
        """Make all memory available again."""
        self._block = self._used = 0


def _members(
    source: BinaryIO, stream: Path, arena: _Arena
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield the names and payloads of a tar's members."""
    long_name = ""
    while True:
        header = _read_into(np.empty(_BLOCK, np.uint8), source).tobytes()
        if len(header) < _BLOCK:
            return
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise UnmaskError(
                f"{stream}: the frame stream is damaged ({error}); see the log of extract_frames"
            ) from None
        payload = _read_into(arena.take(member.size + -member.size % _BLOCK), source)
        if len(payload) < member.size:
            return
        payload = payload[: member.size]
        if member.type == tarfile.GNUTYPE_LONGNAME:
            long_name = payload.tobytes().rstrip(b"\0").decode("utf-8", "surrogateescape")
            continue
        yield long_name or member.name, payload
        long_name = ""


def _read_into(data: NDArray[np.uint8], source: BinaryIO) -> NDArray[np.uint8]:
    """Fill uint8 (n,) and return the part that was read, shorter only at the end of the stream."""
    view, filled = data.data, 0
    while filled < len(data):
        count = source.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            break
        filled += count
    return data[:filled]


def _frame(leaf: str, properties: Mapping[str, Any], data: NDArray[np.uint8]) -> Frame:
    index, _, pix_fmt = leaf.partition(".")
    planes, offset = [], 0
    for height, width in plane_shapes(properties["width"], properties["height"], pix_fmt):
        planes.append(data[offset : offset + height * width].reshape(height, width))
        offset += height * width
    return Frame(int(index), pix_fmt=pix_fmt, planes=tuple(planes), **properties)
