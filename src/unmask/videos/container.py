"""Containers: how a video file is opened, and what it says about itself, under ffprobe's names.

Runs in worker processes, which start faster without the configuration and numpy.
"""

from __future__ import annotations

import errno
import io
import re
import struct
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.logging
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from unmask.errors import UnmaskError, reason
from unmask.videos.images import image_files
from unmask.videos.isolation import with_attempts
from unmask.videos.source import METADATA, Entry, VideoFile
from unmask.vocabulary import Status

FileSource = str | BinaryIO  # a URL for `av.open`, or the bytes of the file
VideoSource = FileSource | Path  # what `VideoFile.opened` yields: a file, or a folder of images
# FFmpeg's names of video containers. Single pictures are left out. So are playlists, because they
# refer to other files and addresses.
_CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,ivf,h264,hevc,m4v,mpegvideo,obu,av1,gif,mxf,dv,nut,"
    "webm_dash_manifest,yuv4mpegpipe,rm,wtv,3gp"
)
_IMAGES = "png_pipe,jpeg_pipe,bmp_pipe,webp_pipe"
IMAGES = "images"  # `format` of a folder of images


# FFmpeg's names of what a stream declares, by number (ITU-T H.273 for colours); None is unknown.
_FIELD_ORDERS = (None, "progressive", "tt", "bb", "tb", "bt")
_RANGES = (None, "tv", "pc")
_PRIMARIES = (
    *("reserved", "bt709", None, "reserved", "bt470m", "bt470bg", "smpte170m", "smpte240m"),
    *("film", "bt2020", "smpte428", "smpte431", "smpte432"),
)
_TRANSFERS = (
    *("reserved", "bt709", None, "reserved", "bt470m", "bt470bg", "smpte170m", "smpte240m"),
    *("linear", "log100", "log316", "iec61966-2-4", "bt1361e", "iec61966-2-1"),
    *("bt2020-10", "bt2020-12", "smpte2084", "smpte428", "arib-std-b67"),
)
_MATRICES = (
    *("gbr", "bt709", None, "reserved", "fcc", "bt470bg", "smpte170m", "smpte240m", "ycgco"),
    *("bt2020nc", "bt2020c", "smpte2085", "chroma-derived-nc", "chroma-derived-c", "ictcp"),
)
# Pixels to cut off: left, right, top, bottom.
Margins = tuple[int, int, int, int]
# Where pixels are to go: the picture's pixel (x, y) is shown at (a x + c y, b x + d y).
Orientation = tuple[int, int, int, int]
UPRIGHT: Orientation = (1, 0, 0, 1)
# A ratio beyond it is damage: anamorphic lenses and pixels have at most 1:4 together.
_MAX_ASPECT = 16
# Encoders write 1280:1281 for 854 x 480 pixels as 16:9: not worth a picture that is resampled.
_LEAST_CHANGE = 0.01
# What FFmpeg prints about the cropping of a stream; PyAV has no other access to it.
_CROPPING = re.compile(r"^ +Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)$", re.MULTILINE)
_FIRST_LINE = re.compile(r"^  Stream #0:(\d+)", re.MULTILINE)


def open_container(source: FileSource) -> InputContainer:
    """Open a video file, but nothing that it refers to.

    Tags need not be UTF-8: a title in Latin-1 does not make a video unreadable.

    Raises:
        av.FFmpegError: no demuxer accepts it.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    return av.open(source, "r", metadata_errors="replace", options=options)


def read_image(path: Path) -> tuple[VideoFrame, Display]:
    """Decode an image file.

    Raises:
        av.FFmpegError: it is no image, or damaged.
    """
    # As bytes, because FFmpeg takes a percent sign in a file name as a pattern.
    data = io.BytesIO(path.read_bytes())
    with av.open(data, "r", options={"format_whitelist": _IMAGES}) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        display = Display(stream)
        frame = _first_frame(container, stream)
    if frame is None:
        raise av.error.InvalidDataError(errno.EINVAL, "no picture in the image")
    return frame, display


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Return the video streams that are not cover pictures."""
    return [
        stream
        for stream in container.streams.video
        if not stream.disposition & stream.disposition.attached_pic
    ]


def video_stream(container: InputContainer) -> VideoStream | None:
    """Return the stream that FFmpeg chooses, set to decode in one thread.

    That is the default stream; of several, or of none, the one with the largest picture. A stream
    without a decoder is the last choice.
    """
    stream = max(video_streams(container), key=_preference, default=None)
    if stream is not None and stream.codec_context is not None:
        stream.codec_context.thread_count = 1
    return stream


def _preference(stream: VideoStream) -> tuple[bool, bool, int]:
    context = stream.codec_context
    if context is None:
        return False, False, 0
    is_default = bool(stream.disposition & stream.disposition.default)
    return True, is_default, context.width * context.height


class Display:
    """What a container says about showing the pictures of a stream."""

    def __init__(self, stream: VideoStream) -> None:
        """Read it, before the first picture is decoded."""
        self.margins = _margins(stream)
        self._context = stream.codec_context
        # The container's ratio overrides the codec's, which may change from picture to picture.
        ratio = stream.sample_aspect_ratio
        self._container_ratio = None if ratio == self._context.sample_aspect_ratio else ratio

    def pixel_aspect(self) -> Fraction:
        """Return the width of a pixel divided by its height, as of the last decoded picture."""
        ratio = self._container_ratio or self._context.sample_aspect_ratio or Fraction(1)
        is_meant = 1 / _MAX_ASPECT <= ratio <= _MAX_ASPECT and abs(ratio - 1) > _LEAST_CHANGE
        return ratio if is_meant else Fraction(1)


def _margins(stream: VideoStream) -> Margins:
    """Return the cropping that the container demands: `clap` in MP4, `PixelCrop…` in Matroska."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        printed: str = stream.container.dumps_format()  # type: ignore[attr-defined]
    finally:
        av.logging.set_level(level)
    starts = {int(line[1]): line.start() for line in _FIRST_LINE.finditer(printed)}
    end = starts.get(stream.index + 1, len(printed))
    found = _CROPPING.search(printed, starts.get(stream.index, end), end)
    if found is None:
        return 0, 0, 0, 0
    left, right, top, bottom = map(int, found.groups())
    return left, right, top, bottom


def orientation(frame: VideoFrame) -> Orientation:
    """Return the nearest of the eight orientations to a picture's display matrix."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
    return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0


def probe_entry(part: Path, entry: Entry) -> dict[str, Any]:
    """Return status, detail and metadata of one entry's file. This runs in a worker process."""
    values = _probe(part, entry)
    return values | {"detail": with_attempts(values["detail"])}


def _probe(part: Path, entry: Entry) -> dict[str, Any]:
    values: dict[str, Any] = {"status": entry.status, "detail": entry.detail}
    if entry.status != Status.OK:
        return values
    video = VideoFile(part, entry.name)
    size = video.size()
    if size is None:
        return {
            "status": Status.MISSING,
            "detail": f"no file, or folder of images, of this name in the part ({METADATA})",
        }
    values["file_size"] = size
    try:
        values["fingerprint"] = video.fingerprint()
        with video.opened() as source:
            if isinstance(source, Path):
                return values | _image_values(source)
            with open_container(source) as container:
                return values | _container_values(container)
    except MemoryError:
        raise
    except (av.FFmpegError, UnmaskError, OSError) as error:
        return values | {"status": Status.UNREADABLE, "detail": reason(error)}


def _container_values(container: InputContainer) -> dict[str, Any]:
    values: dict[str, Any] = {"format": container.format.name}
    # A stream whose codec FFmpeg does not know has no context.
    if container.streams.audio and container.streams.audio[0].codec_context is not None:
        values |= _audio_values(container.streams.audio[0])
    stream = video_stream(container)
    if stream is None:
        detail = "the file holds no video stream"
        return values | {"status": Status.NO_VIDEO_STREAM, "detail": detail}
    values |= {
        "video_streams": len(video_streams(container)),
        "video_stream_index": stream.index,
    }
    if stream.codec_context is None:
        return values | {"status": Status.DECODE_ERROR, "detail": "no decoder for its video codec"}
    values |= {
        "video_codec_name": stream.codec_context.codec.canonical_name,
        "video_height": stream.codec_context.height,
        "video_width": stream.codec_context.width,
        "video_sample_aspect_ratio": _ratio(stream.sample_aspect_ratio),
        "video_nb_frames": stream.frames or None,
        "video_bit_rate": stream.bit_rate,
        "video_duration": _seconds(stream.duration, stream),
        "video_start_time": _seconds(stream.start_time, stream),
        "video_fps": float(stream.average_rate) if stream.average_rate else None,
        "video_pix_fmt": stream.codec_context.pix_fmt,
        "video_keyframes": sum(entry.is_keyframe for entry in stream.index_entries),
        "video_has_b_frames": stream.codec_context.has_b_frames,
    }
    try:
        frame = _first_frame(container, stream)
    except MemoryError:
        raise
    except av.FFmpegError as error:
        return values | {"status": Status.DECODE_ERROR, "detail": reason(error)}
    if frame is None:
        detail = "no frame in the video stream can be decoded"
        return values | {"status": Status.DECODE_ERROR, "detail": detail}
    return values | {
        "video_rotation": frame.rotation % 360,
        "video_display_matrix": "{} {} {} {}".format(*orientation(frame)),
        "video_field_order": _field_order(stream, frame),
        "video_color_range": _name(_RANGES, frame.color_range),
        "video_color_space": _name(_MATRICES, frame.colorspace),
        "video_color_transfer": _name(_TRANSFERS, frame.color_trc),
        "video_color_primaries": _name(_PRIMARIES, frame.color_primaries),
    }


def _image_values(folder: Path) -> dict[str, Any]:
    files = image_files(folder)
    values: dict[str, Any] = {"format": IMAGES, "video_nb_frames": len(files)}
    for file in files:
        with suppress(av.FFmpegError):
            frame, _ = read_image(file)
            return values | {
                "video_codec_name": file.suffix.lower().lstrip("."),
                "video_height": frame.height,
                "video_width": frame.width,
                "video_pix_fmt": frame.format.name,
            }
    return values | {"status": Status.DECODE_ERROR, "detail": "no image can be decoded"}


def _ratio(ratio: Fraction | None) -> str | None:
    return f"{ratio.numerator}:{ratio.denominator}" if ratio else None


def _name(names: Sequence[str | None], number: int) -> str | None:
    return names[number] if 0 <= number < len(names) else str(number)


def _field_order(stream: VideoStream, frame: VideoFrame) -> str | None:
    declared = _name(_FIELD_ORDERS, stream.codec_context.field_order)
    if frame.interlaced_frame and declared in (None, "progressive"):
        return "interlaced"  # only the pictures say so, and PyAV does not tell which field is first
    return declared


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    """Return the first frame that can be decoded; None where none can."""
    damage: av.FFmpegError | None = None
    packets = container.demux(stream)
    first = next(packets)
    # Flushed at once, because a decoder that reorders frames would need three more packets.
    with suppress(av.error.InvalidDataError):
        frames = first.decode() or (stream.codec_context.decode(None) if first.size else [])
        if frames:
            return frames[0]
    stream.codec_context.flush_buffers()
    # The first picture may be damaged, or cut off by an edit list. Later ones may be intact.
    for packet in chain([first], packets):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError as error:
            damage = error
            frames = []
        if frames:
            return frames[0]
    if damage is not None:
        raise damage
    return None


def _audio_values(stream: av.audio.stream.AudioStream) -> dict[str, Any]:
    return {
        "audio_codec_name": stream.codec_context.codec.canonical_name,
        "audio_channels": stream.codec_context.channels,
        "audio_sample_rate": stream.codec_context.sample_rate,
        "audio_nb_frames": stream.frames or None,
        "audio_bit_rate": stream.bit_rate,
        "audio_duration": _seconds(stream.duration, stream),
        "audio_start_time": _seconds(stream.start_time, stream),
    }


def _seconds(ticks: int | None, stream: av.stream.Stream) -> float | None:
    return None if ticks is None or stream.time_base is None else float(ticks * stream.time_base)
