"""The frame stream: sampled frames on their way from `extract_frames` to `crop_faces`.

The stream is a tar archive in a pipe or in a file. A frame is a member `PART/VIDEO/INDEX.PIXFMT` of
raw planes. After the frames of a video comes `PART/VIDEO/end.json` with its status and the
properties of its frames. The stream ends with `end.json`, so that the reader notices when the
writer died.

Raw planes are large. Each side copies them at most once, and reuses the same memory for one video
after another, because allocating memory costs as much as filling it.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask.errors import UnmaskError
from unmask.videos.frames import Frame, SampledVideo, plane_shapes
from unmask.vocabulary import Status

_END = "end.json"
_BLOCK = tarfile.BLOCKSIZE
# Attributes of a frame that end.json stores; the name of its member has the others.
_PROPERTIES = ("time", "width", "height", "colorspace", "full_range")


def write_frame(sink: FileIO, video: str, frame: Frame) -> dict[str, Any]:
    """Write the planes of a frame; return its properties, for `write_end`.

    Args:
        sink: an unbuffered file.
        video: PART/VIDEO.
        frame: the frame.
    """
    member = f"{video}/{frame.index:04d}.{frame.pix_fmt}"
    _write_member(sink, member, *map(np.ascontiguousarray, frame.planes))
    return {name: getattr(frame, name) for name in _PROPERTIES}


def write_end(
    sink: FileIO, video: str, status: Status, detail: str, frames: Sequence[Mapping[str, Any]]
) -> None:
    """Write what follows the frames of a video: its status, and the properties of its frames."""
    end = {"status": status, "detail": detail, "frames": frames}
    _write_member(sink, f"{video}/{_END}", json.dumps(end).encode())


def finish_stream(sink: FileIO, videos: int) -> None:
    """Write the end of a stream of that many videos."""
    _write_member(sink, _END, json.dumps({"videos": videos}).encode())
    write_all(sink, bytes(2 * _BLOCK))


def _write_member(sink: FileIO, name: str, *payload: bytes | NDArray[np.uint8]) -> None:
    views = [memoryview(part).cast("B") for part in payload]  # type: ignore[arg-type]
    member = tarfile.TarInfo(name)
    member.size = sum(view.nbytes for view in views)
    write_all(sink, member.tobuf(tarfile.GNU_FORMAT))
    for view in views:
        write_all(sink, view)
    write_all(sink, bytes(-member.size % _BLOCK))


def write_all(sink: FileIO, data: bytes | memoryview) -> None:
    """Write bytes to an unbuffered file, which may take only some of them at a time."""
    view = memoryview(data)
    while view.nbytes:
        view = view[sink.write(view) :]


def read_stream(stream: Path) -> Iterator[tuple[str, str, SampledVideo]]:
    """Yield part, name and frames of each video of a frame stream.

    Frames are valid until the next video is requested, because its planes take their memory.

    Raises:
        UnmaskError: the stream ends early, because the job that writes it died.
    """
    memory = _Memory()
    planes: list[tuple[str, NDArray[np.uint8]]] = []
    videos = 0
    with stream.open("rb", buffering=0) as source:
        for name, payload in _members(source, stream, memory):
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
            part, _, video = path.partition("/")
            yield part, video, SampledVideo(frames, Status(end["status"]), end["detail"])
            planes.clear()
            memory.used = 0
            videos += 1
    raise UnmaskError(f"{stream}: the frame stream ended early; see the log of extract_frames")


class _Memory:
    """Blocks for the members of one video; members of the next video reuse them in turn."""

    def __init__(self) -> None:
        self.used = 0
        self._blocks: list[NDArray[np.uint8]] = []

    def take(self, size: int) -> NDArray[np.uint8]:
        """Return uint8 (size,), valid until `used` is set to 0."""
        if self.used == len(self._blocks):
            self._blocks.append(np.empty(size, np.uint8))
        elif len(self._blocks[self.used]) < size:
            self._blocks[self.used] = np.empty(size, np.uint8)
        self.used += 1
        return self._blocks[self.used - 1][:size]


def _members(
    source: FileIO, stream: Path, memory: _Memory
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
        payload = _read_into(memory.take(member.size + -member.size % _BLOCK), source)
        if len(payload) < member.size:
            return
        payload = payload[: member.size]
        if member.type == tarfile.GNUTYPE_LONGNAME:
            long_name = payload.tobytes().rstrip(b"\0").decode("utf-8", "surrogateescape")
            continue
        yield long_name or member.name, payload
        long_name = ""


def _read_into(data: NDArray[np.uint8], source: FileIO) -> NDArray[np.uint8]:
    """Fill uint8 (n,) and return the part that was read, shorter only at the end of the stream."""
    view, filled = data.data, 0
    while filled < len(data) and (count := source.readinto(view[filled:])):
        filled += count
    return data[:filled]


def _frame(leaf: str, properties: Mapping[str, Any], data: NDArray[np.uint8]) -> Frame:
    index, _, pix_fmt = leaf.partition(".")
    planes, offset = [], 0
    for height, width in plane_shapes(properties["width"], properties["height"], pix_fmt):
        planes.append(data[offset : offset + height * width].reshape(height, width))
        offset += height * width
    return Frame(int(index), pix_fmt=pix_fmt, planes=tuple(planes), **properties)
