"""The frame stream: sampled frames on their way from `extract_frames` to `crop_faces`.

It is a tar archive, written to a pipe that `crop_faces` reads, or to a file. A frame is a member
`PART/VIDEO/INDEX.PIXFMT` of raw planes; after a video's frames comes `PART/VIDEO/end.json` with
what became of the video and what its frames are; the stream ends with `end.json`, so that a
producer that died is noticed. Raw planes are many: nothing here copies them more often than once on
each side, and the memory that they lie in serves one video after the other, because getting memory
from the system costs as much as filling it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from unmask.config import Config, FramesConfig
from unmask.errors import UnmaskError
from unmask.files import naming_full_disk
from unmask.progress import track
from unmask.tables import PROBE, read_rows
from unmask.videos.frames import YUV420, Frame, plane_shapes, sample_frames
from unmask.videos.isolation import Lost, Task, run_isolated
from unmask.videos.source import VideoFile, video_files
from unmask.vocabulary import Label, Status

logger = logging.getLogger(__name__)

_END = "end.json"
_BLOCK = tarfile.BLOCKSIZE
# Frames of videos that are decoded but not taken yet; one 4K video holds 400 MB.
_BUFFER_MB = 500.0
# Room of a pipe: its two ends wake each other a quarter as often as with the usual 64 kB, and what
# is in it still lies in a core's cache when it is read.
_PIPE_BYTES = 1 << 18
# What a buffer keeps of its memory from one video to the next; a 720p video takes 45 MB.
_KEPT_BYTES = 128_000_000


@dataclass(frozen=True)
class SampledVideo:
    """What became of one video's sampling: `ok`, or why there is no frame."""

    part: str
    video: str
    status: Status
    detail: str


def write_stream(
    parts: Sequence[Path], probe: Path, config: Config, workers: int, output: Path
) -> None:
    """Sample every readable video of a shard and write the frame stream.

    A family's original comes first, so that its fakes can use what was found in it.

    Args:
        parts: folders or archives with the videos.
        probe: the shard's probe table; only its videos with status `ok` are opened.
        config: the sections `frames` and `limits`.
        workers: decoding processes.
        output: a FIFO or a file.

    Raises:
        UnmaskError: the reader of the FIFO stopped.
    """
    rows = [row for row in read_rows(probe, PROBE) if row["status"] == Status.OK]
    rows.sort(
        key=lambda row: (row["part"], row["family"], row["label"] != Label.REAL, row["video"])
    )
    members = [f"{row['part']}/{row['video']}" for row in rows]
    # One file in memory for each video on its way: it needs no room on a disk, and a pipe takes
    # its pages without copying them.
    buffers = [_memory_file() for _ in range(workers + 1)]
    tasks = [
        Task(
            _sample_into,
            (buffers[index % len(buffers)], members[index], video, config.frames),
            _megabytes(rows[index], config.frames),
        )
        for index, video in enumerate(video_files(parts, rows))
    ]
    outcomes = run_isolated(tasks, config.limits, workers, _BUFFER_MB)
    frames = 0
    try:
        with naming_full_disk(output), output.open("wb", buffering=0) as sink:
            _widen(sink)
            for index, outcome in enumerate(track(outcomes, "videos", len(rows))):
                if isinstance(outcome, Lost):
                    outcome = _Sampled(0, outcome.status, outcome.detail, [])
                if outcome.detail:
                    logger.warning("%r: %s, %s", members[index], outcome.status, outcome.detail)
                _forward(buffers[index % len(buffers)], outcome.size, sink)
                _write_member(sink, f"{members[index]}/{_END}", _json(outcome.end()))
                frames += len(outcome.frames)
            _write_member(sink, _END, _json({"videos": len(rows)}))
            sink.write(bytes(2 * _BLOCK))
    except BrokenPipeError:
        raise UnmaskError(f"{output}: its reader stopped; see the log of crop_faces") from None
    finally:
        for buffer in buffers:
            os.close(buffer)
    logger.info("%d frames of %d videos", frames, len(rows))


@dataclass(frozen=True)
class _Sampled:
    """One video in a buffer: its bytes, and its frames but for their planes."""

    size: int
    status: Status
    detail: str
    frames: list[dict[str, Any]]

    def end(self) -> dict[str, Any]:
        return {"status": self.status, "detail": self.detail, "frames": self.frames}


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("frames")
    descriptor, name = tempfile.mkstemp()
    Path(name).unlink()
    return descriptor


def _megabytes(row: Mapping[str, Any], config: FramesConfig) -> float:
    pixels = (row["video_width"] or 0) * (row["video_height"] or 0)
    bytes_per_pixel = 1.5 if row["video_pix_fmt"] == YUV420 else 3
    frames = config.per_video
    if config.rate is not None:
        frames = round((row["video_duration"] or 60.0) * config.rate) + 1
    return float(pixels * bytes_per_pixel * frames / 1e6)


def _sample_into(buffer: int, name: str, video: VideoFile, config: FramesConfig) -> _Sampled:
    """Write a video's frames into a file in memory; whatever is wrong becomes its status.

    Args:
        buffer: descriptor of the file.
        name: of the video in the stream.
        video: the video.
        config: the section `frames`.
    """
    os.lseek(buffer, 0, os.SEEK_SET)
    frames: list[dict[str, Any]] = []
    status = Status.OK
    problems: list[str] = []
    with open(buffer, "wb", buffering=0, closefd=False) as sink:
        try:
            with video.opened() as source:
                for frame in sample_frames(source, config, problems):
                    member = f"{name}/{frame.index:04d}.{frame.pix_fmt}"
                    _write_member(sink, member, *map(np.ascontiguousarray, frame.planes))
                    frames.append(_properties(frame))
        except MemoryError:
            raise
        except Exception as error:  # one odd video must not cost its whole shard
            if not isinstance(error, (av.FFmpegError, UnmaskError)):
                logger.exception("%r", name)
            status = Status.OK if frames else Status.DECODE_ERROR
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            problems.append(f"decoding stopped after {len(frames)} frames: {reason}")
        return _Sampled(sink.tell(), status, "; ".join(problems), frames)


def _properties(frame: Frame) -> dict[str, Any]:
    return {
        "time": frame.time,
        "width": frame.width,
        "height": frame.height,
        "colorspace": frame.colorspace,
        "full_range": frame.full_range,
    }


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


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


def _forward(buffer: int, size: int, sink: FileIO) -> None:
    """Send what a buffer holds, which may be overwritten as soon as this returns.

    A pipe holds pages of the buffer that its reader has not come to. So the end is copied into it,
    as much as the pipe has room for: by then it holds none of them.
    """
    copied = min(size, _pipe_size(sink))
    sent = 0
    while sent < size - copied:
        sent += os.sendfile(sink.fileno(), buffer, sent, size - copied - sent)
    _write_all(sink, os.pread(buffer, copied, sent))
    if size > _KEPT_BYTES:
        os.ftruncate(buffer, _KEPT_BYTES)


def _widen(sink: FileIO) -> None:
    if _is_pipe(sink):
        # A user who has a thousand pipes gets no more memory for them: it is slower then, no worse.
        with suppress(PermissionError):
            fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _pipe_size(sink: FileIO) -> int:
    return fcntl.fcntl(sink, fcntl.F_GETPIPE_SZ) if _is_pipe(sink) else 0


def _is_pipe(sink: FileIO) -> bool:
    return stat.S_ISFIFO(os.fstat(sink.fileno()).st_mode)


def read_stream(stream: Path) -> Iterator[tuple[SampledVideo, list[Frame]]]:
    """Yield each video of a frame stream with its frames.

    Frames are good until the next video is asked for: its planes take the place of theirs.

    Raises:
        UnmaskError: the stream ends early: the job that writes it died.
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
                # To the last byte: a pipe closed early would break the writer.
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
            yield SampledVideo(part, video, Status(end["status"]), end["detail"]), frames
            arena.clear()
    raise UnmaskError(f"{stream}: the frame stream ended early; see the log of extract_frames")


class _Arena:
    """Memory for the planes of one video at a time, in pieces that the next video uses again."""

    def __init__(self) -> None:
        self._pieces: list[NDArray[np.uint8]] = []
        self._piece = self._used = 0

    def take(self, size: int) -> NDArray[np.uint8]:
        """Return uint8 (size,) of memory, good until `clear`."""
        while self._piece < len(self._pieces):
            rest = self._pieces[self._piece][self._used :]
            if len(rest) >= size:
                self._used += size
                return rest[:size]
            self._piece += 1
            self._used = 0
        # Room for several of this size, but no more than a quarter above what is needed.
        held = sum(map(len, self._pieces))
        self._pieces.append(np.empty(size * max(1, held // (4 * max(1, size))), np.uint8))
        self._used = size
        return self._pieces[-1][:size]

    def clear(self) -> None:
        """Let all of it be taken again."""
        self._piece = self._used = 0


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
    """Fill uint8 (n,) and return what was read: less of it only where the stream ends."""
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
