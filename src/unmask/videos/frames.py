"""Frames: which are sampled, how they are decoded, and the stream that carries them.

Only reference frames are decoded (`skip_frame=NONREF`): the ones left out are those that no other
frame is predicted from, so every decoded picture is bit-exact, at about 0.6 of a full decode's CPU.
Skipping every B-frame (`BIDIR`) is faster still but wrong: x264 predicts P-frames from B-frames of
a pyramid, and the error grows through the clip (docs/architecture.md has the figures).

The stream is a tar archive, written to a pipe that `crop_faces` reads, or to a file. Each frame is
a member `VIDEO/INDEX.PIXFMT` of raw planes with its properties as PAX headers; each video ends with
`VIDEO/end.json`, the stream with `end.json`, so that a producer that died is noticed.
"""

from __future__ import annotations

import io
import json
import logging
import math
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from unmask.config import FramesConfig
from unmask.errors import UnmaskError
from unmask.progress import track
from unmask.tables import PROBE, Status, read_table

logger = logging.getLogger(__name__)

# The two layouts a frame travels in; anything else is converted to the second without loss of size.
YUV420, YUV444 = "yuv420p", "yuv444p"
_FULL_RANGE = {"yuvj420p": YUV420, "yuvj444p": YUV444}
_JPEG_RANGE = 2  # AVCOL_RANGE_JPEG
_END = "end.json"
_BUFFER = 1 << 20


@dataclass(frozen=True)
class Frame:
    """One sampled picture, upright, as 8-bit planar YUV.

    Attributes:
        index: position in the sampling plan, from 0.
        time: presentation time in seconds.
        width: pixels.
        height: pixels.
        pix_fmt: "yuv420p" (width and height even) or "yuv444p".
        colorspace: FFmpeg's AVColorSpace of the planes; 2, not said, counts as BT.601.
        full_range: whether luma spans 0–255 instead of 16–235.
        data: uint8; (height * 3 / 2, width) for yuv420p, (3, height, width) for yuv444p.
    """

    index: int
    time: float
    width: int
    height: int
    pix_fmt: str
    colorspace: int
    full_range: bool
    data: NDArray[np.uint8]

    def to_bgr(self, width: int | None = None, height: int | None = None) -> NDArray[np.uint8]:
        """Return the whole picture as BGR, uint8 (height, width, 3), scaled to a given size."""
        return _to_bgr(self, self.data, width or self.width, height or self.height)

    def region_to_bgr(self, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
        """Return a rectangle as BGR, uint8 (y1 - y0, x1 - x0, 3), converting nothing else.

        Args:
            x0: left edge in pixels, at least 0.
            y0: top edge, at least 0.
            x1: right edge, exclusive, at most the width.
            y1: bottom edge, exclusive, at most the height.
        """
        if self.pix_fmt == YUV444:
            region = np.ascontiguousarray(self.data[:, y0:y1, x0:x1])
            return _to_bgr(self, region, x1 - x0, y1 - y0)
        left, top = x0 & ~1, y0 & ~1
        right, bottom = x1 + (x1 & 1), y1 + (y1 & 1)
        luma, *chroma = _planes420(self.data, self.width, self.height)
        parts = [luma[top:bottom, left:right]]
        parts += [plane[top // 2 : bottom // 2, left // 2 : right // 2] for plane in chroma]
        region = np.concatenate([part.reshape(-1) for part in parts]).reshape(-1, right - left)
        picture = _to_bgr(self, region, right - left, bottom - top)
        return picture[y0 - top : y1 - top, x0 - left : x1 - left]


@dataclass(frozen=True)
class SampledVideo:
    """What became of one video's sampling: `ok`, or why there is no frame."""

    video: str
    status: Status
    detail: str


def plan_times(times: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the times to sample: `count` of them, even over the whole clip, ends included.

    Args:
        times: presentation times of all frames in seconds, ascending, at least one.
        count: number of frames wanted.

    Returns:
        float64 (count,), or every time of the clip where it has no more than `count` frames. The
        span is the clip's own: first frame to last.
    """
    if len(times) <= count:
        return times
    if count == 1:
        return np.array([(times[0] + times[-1]) / 2])
    return np.linspace(times[0], times[-1], count)


def sample_frames(path: Path, config: FramesConfig) -> Iterator[Frame]:
    """Decode a video once and yield the sampled frames, upright, in order of time.

    Raises:
        av.FFmpegError: the file cannot be opened or decoded.
        UnmaskError: the file holds no video stream or no frame.
    """
    with av.open(str(path), metadata_errors="replace") as container:
        if not container.streams.video:
            raise UnmaskError(f"{path.name}: no video stream")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.skip_frame = "NONREF"
        times = _presentation_times(container, stream)
        if not len(times):
            raise UnmaskError(f"{path.name}: no frame in the video stream")
        container.seek(0, backward=True, any_frame=False)
        wanted = plan_times(times, config.per_video)
        for index, frame in enumerate(_nearest(_decoded(container, stream), wanted)):
            yield _upright(index, frame)


def _presentation_times(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> NDArray[np.float64]:
    """Read all packets, decoding nothing, for the exact times even where the rate varies."""
    ticks = {packet.pts for packet in container.demux(stream) if packet.pts is not None}
    return np.array(sorted(ticks), dtype=np.float64) * float(stream.time_base or 1)


def _decoded(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> Iterator[VideoFrame]:
    for frame in container.decode(stream):
        if frame.time is not None:
            yield frame


def _nearest(frames: Iterator[VideoFrame], wanted: NDArray[np.float64]) -> Iterator[VideoFrame]:
    """Yield, for each wanted time, the nearest frame, and none twice."""
    targets = iter(wanted)
    target = next(targets, math.inf)
    previous: VideoFrame | None = None
    previous_is_out = False
    for frame in frames:
        is_out = False
        while target <= frame.time:
            if previous is not None and target - previous.time < frame.time - target:
                if not previous_is_out:
                    yield previous
                previous_is_out = True
            else:
                if not is_out:
                    yield frame
                is_out = True
            target = next(targets, math.inf)
        if target == math.inf:
            return
        previous, previous_is_out = frame, is_out
    if previous is not None and not previous_is_out:
        yield previous


def _upright(index: int, frame: VideoFrame) -> Frame:
    full_range = frame.color_range == _JPEG_RANGE or frame.format.name in _FULL_RANGE
    pix_fmt = _FULL_RANGE.get(frame.format.name, frame.format.name)
    # Display matrices that are no multiple of 90 degrees are taken as the nearest one.
    turns = round(frame.rotation / 90) % 4
    even = frame.width % 2 == 0 and frame.height % 2 == 0
    picture = frame
    if not (pix_fmt == YUV420 and even) and pix_fmt != YUV444:
        # Odd sizes, 4:2:2, 10 bits, RGB: to full-resolution chroma in 8 bits, colours unchanged.
        pix_fmt = YUV444
        picture = frame.reformat(format=YUV444)
    data = np.ascontiguousarray(picture.to_ndarray(), np.uint8)
    if turns:
        data = _rotate(data, pix_fmt, frame.width, frame.height, turns)
    lying = turns % 2 == 1
    width, height = (frame.height, frame.width) if lying else (frame.width, frame.height)
    return Frame(
        index=index,
        time=float(frame.time),
        width=width,
        height=height,
        pix_fmt=pix_fmt,
        colorspace=int(frame.colorspace),
        full_range=full_range,
        data=data,
    )


def _rotate(
    data: NDArray[np.uint8], pix_fmt: str, width: int, height: int, turns: int
) -> NDArray[np.uint8]:
    """Turn the planes counter-clockwise by quarter turns."""
    if pix_fmt == YUV444:
        return np.ascontiguousarray(np.rot90(data, turns, axes=(1, 2)))
    planes = [np.rot90(plane, turns) for plane in _planes420(data, width, height)]
    new_width = planes[0].shape[1]
    return np.concatenate([plane.reshape(-1) for plane in planes]).reshape(-1, new_width)


def _planes420(data: NDArray[np.uint8], width: int, height: int) -> list[NDArray[np.uint8]]:
    flat = data.reshape(-1)
    luma, quarter = width * height, width * height // 4
    chroma = (height // 2, width // 2)
    return [
        flat[:luma].reshape(height, width),
        flat[luma : luma + quarter].reshape(chroma),
        flat[luma + quarter : luma + 2 * quarter].reshape(chroma),
    ]


def _to_bgr(frame: Frame, data: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    picture = VideoFrame.from_ndarray(data, format=frame.pix_fmt)
    bgr = picture.reformat(
        width=width,
        height=height,
        format="bgr24",
        interpolation="AREA",
        src_colorspace=frame.colorspace,
        src_color_range=_JPEG_RANGE if frame.full_range else 1,
        dst_color_range=_JPEG_RANGE,
    )
    return np.asarray(bgr.to_ndarray(), np.uint8)


def write_stream(part: Path, probe: Path, config: FramesConfig, output: Path) -> None:
    """Sample every readable video of a shard and write the frame stream.

    Args:
        part: folder with the videos.
        probe: the shard's probe table; only its videos with status `ok` are opened.
        config: the sampling.
        output: a FIFO or a file.

    Raises:
        UnmaskError: the reader of the FIFO stopped.
    """
    cv2.setNumThreads(1)
    table = read_table(probe, PROBE)
    readable = list(table.loc[table["status"] == Status.OK, "video"])
    try:
        with (
            output.open("wb") as sink,
            tarfile.open(mode="w|", fileobj=sink, bufsize=_BUFFER) as tar,
        ):
            frames = sum(
                _write_video(tar, part / name, config) for name in track(readable, "videos")
            )
            _add(tar, _END, json.dumps({"videos": len(readable)}).encode())
    except BrokenPipeError:
        raise UnmaskError(f"{output}: its reader stopped; see the log of crop_faces") from None
    logger.info("%d frames of %d videos", frames, len(readable))


def _write_video(tar: tarfile.TarFile, path: Path, config: FramesConfig) -> int:
    """Write one video and return its number of frames; what is wrong with it goes along."""
    count, status, detail = 0, Status.OK, ""
    try:
        for frame in sample_frames(path, config):
            _add(
                tar,
                f"{path.name}/{frame.index:04d}.{frame.pix_fmt}",
                frame.data,
                {
                    "time": repr(frame.time),
                    "width": str(frame.width),
                    "height": str(frame.height),
                    "colorspace": str(frame.colorspace),
                    "full_range": str(int(frame.full_range)),
                },
            )
            count += 1
    except BrokenPipeError:
        raise
    except Exception as error:  # one odd video must not cost its whole shard
        if not isinstance(error, (av.FFmpegError, UnmaskError)):
            logger.exception("%s", path.name)
        status = Status.OK if count else Status.DECODE_ERROR
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        detail = f"decoding stopped after {count} frames: {reason}"
        logger.warning("%s: %s, %s", path.name, status, detail)
    end = {"status": status, "detail": detail}
    _add(tar, f"{path.name}/{_END}", json.dumps(end).encode())
    return count


def _add(
    tar: tarfile.TarFile,
    name: str,
    payload: bytes | NDArray[np.uint8],
    properties: dict[str, str] | None = None,
) -> None:
    member = tarfile.TarInfo(name)
    view = memoryview(payload).cast("B")  # type: ignore[arg-type]
    member.size = view.nbytes
    member.pax_headers = {f"UNMASK.{key}": value for key, value in (properties or {}).items()}
    tar.addfile(member, io.BytesIO(view))


def read_stream(stream: Path) -> Iterator[tuple[SampledVideo, list[Frame]]]:
    """Yield each video of a frame stream with its frames.

    Raises:
        UnmaskError: the stream ends early: the job that writes it died.
    """
    with stream.open("rb") as source:
        yield from _read_videos(source, stream)


def _read_videos(source: BinaryIO, stream: Path) -> Iterator[tuple[SampledVideo, list[Frame]]]:
    frames: list[Frame] = []
    videos = 0
    try:
        with tarfile.open(mode="r|", fileobj=source, bufsize=_BUFFER) as tar:
            for member in tar:
                payload = _payload(tar, member)
                if member.name == _END and json.loads(payload)["videos"] == videos:
                    # To the last byte: a pipe closed early would break the writer.
                    while source.read(_BUFFER):
                        pass
                    return
                video, _, leaf = member.name.rpartition("/")
                if leaf == _END:
                    end = json.loads(payload)
                    yield SampledVideo(video, Status(end["status"]), end["detail"]), frames
                    frames = []
                    videos += 1
                else:
                    frames.append(_parse_frame(leaf, member.pax_headers, payload))
    except (tarfile.TarError, EOFError) as error:
        raise UnmaskError(
            f"{stream}: the frame stream is damaged ({error}); see the log of extract_frames"
        ) from None
    raise UnmaskError(f"{stream}: the frame stream ended early; see the log of extract_frames")


def _payload(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    source = tar.extractfile(member)
    payload = source.read() if source is not None else b""
    if len(payload) != member.size:
        raise EOFError(f"{member.name} is cut short")
    return payload


def _parse_frame(leaf: str, headers: Mapping[str, str], payload: bytes) -> Frame:
    index, _, pix_fmt = leaf.partition(".")
    width, height = int(headers["UNMASK.width"]), int(headers["UNMASK.height"])
    shape = (3, height, width) if pix_fmt == YUV444 else (height * 3 // 2, width)
    return Frame(
        index=int(index),
        time=float(headers["UNMASK.time"]),
        width=width,
        height=height,
        pix_fmt=pix_fmt,
        colorspace=int(headers["UNMASK.colorspace"]),
        full_range=headers["UNMASK.full_range"] == "1",
        data=np.frombuffer(payload, dtype=np.uint8).reshape(shape),
    )
