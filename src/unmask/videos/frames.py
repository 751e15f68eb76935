"""Frames: which are sampled, and how they are decoded.

A clip is decoded once, in order. Frames that no other frame is predicted from are left out
(`skip_frame=NONREF`), and so is everything from a group of pictures' last sampled frame to the next
key frame, so that every decoded picture is bit-exact at about half of a full decode's CPU. Where it
is known beforehand which frame that is, as in most H.264, the decoder is asked for it as soon as it
has it, instead of with the one or two after it that would tell that it is its turn. Skipping every
B-frame (`BIDIR`) is faster still but wrong: x264 predicts P-frames from B-frames of a pyramid, and
the error grows through the clip (docs/decisions, number 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, pairwise
from typing import BinaryIO, Literal, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from unmask.config import FramesConfig
from unmask.errors import UnmaskError

# The two layouts a frame travels in; anything else is converted to the second without loss of size.
YUV420, YUV444 = "yuv420p", "yuv444p"
_FULL_RANGE = {"yuvj420p": YUV420, "yuvj444p": YUV444}
# A picture of 8K has 50 MB, and no face in it loses by being halved; 4K stays as it is.
_MAX_PIXELS = 4096 * 2160
# Sampling at a rate ends here: 1,000 frames at 720p take 1.4 GB.
_MAX_FRAMES = 1000
# Bytes of packets that are kept while a video is decoded; a DFDC clip has 4 MB.
_MAX_HELD = 256_000_000
# Bytes of an AVCDecoderConfigurationRecord at least (ISO/IEC 14496-15, 5.3.3.1).
_MIN_AVCC = 7
# FFmpeg's AVFieldOrder: unknown, progressive, and what has fields.
_PROGRESSIVE = 1
# What containers of videos are called in FFmpeg. Not among them: playlists, which name other files
# and addresses, and single pictures.
_CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,ivf,h264,hevc,m4v,mpegvideo,obu,av1,gif,mxf,dv,nut,"
    "webm_dash_manifest,yuv4mpegpipe,rm,wtv,3gp"
)


@dataclass(frozen=True)
class Frame:
    """One sampled picture, upright, as 8-bit planar YUV.

    Attributes:
        index: position among the sampled frames, from 0.
        time: presentation time in seconds.
        width: pixels.
        height: pixels.
        pix_fmt: "yuv420p" (width and height even) or "yuv444p".
        colorspace: FFmpeg's AVColorSpace of the planes; 2, not said, counts as BT.601.
        full_range: whether luma spans 0–255 instead of 16–235.
        planes: Y, U and V, uint8 (h, w) each; in yuv420p, U and V are half as high and wide. They
            may be views of the decoder's memory.
    """

    index: int
    time: float
    width: int
    height: int
    pix_fmt: str
    colorspace: int
    full_range: bool
    planes: tuple[NDArray[np.uint8], ...]


def plane_shapes(width: int, height: int, pix_fmt: str) -> list[tuple[int, int]]:
    """Return height and width of Y, U and V."""
    chroma = (height // 2, width // 2) if pix_fmt == YUV420 else (height, width)
    return [(height, width), chroma, chroma]


class _Picture(NamedTuple):
    """What a packet says of its picture.

    Attributes:
        pts: presentation time in ticks; None where it has none, or is not to be shown.
        starts_anew: whether decoding can begin at it.
        is_reference: whether others are predicted from it; False also where nobody looked.
    """

    pts: int | None
    starts_anew: bool
    is_reference: bool = False


@dataclass(frozen=True)
class _Timeline:
    """What the packets say.

    Attributes:
        times: all presentation times in seconds, ascending.
        keys: those of pictures at which decoding can begin.
        has_clock: whether the times are the packets' own; else they are counted.
        pictures: in the order of decoding.
        base: seconds of a tick of theirs.
    """

    times: NDArray[np.float64]
    keys: NDArray[np.float64]
    has_clock: bool
    pictures: list[_Picture]
    base: Fraction


def open_container(source: str | BinaryIO) -> InputContainer:
    """Open a video and nothing that it refers to.

    Tags need not be UTF-8: a title in Latin-1 is no reason to lose a video.

    Raises:
        av.FFmpegError: no demuxer takes it.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    return av.open(source, "r", metadata_errors="replace", options=options)


def plan_times(times: NDArray[np.float64], config: FramesConfig) -> NDArray[np.float64]:
    """Return the times to sample, even over the whole clip.

    With `per_video`, the clip is divided into as many stretches and sampled at the start of each:
    the first frame to the last sampled one span (N - 1) / N of the duration. With `rate`, the
    distance is 1 / rate seconds, more in a clip that would have over 1,000 frames.

    Args:
        times: presentation times of all frames in seconds, ascending, at least one.
        config: the sampling.

    Returns:
        float64 (n,), or every time of the clip where it has no more frames.
    """
    duration = times[-1] - times[0] + (np.median(np.diff(times)) if len(times) > 1 else 0.0)
    wanted = config.per_video
    if config.rate is not None:
        wanted = min(_MAX_FRAMES, max(1, math.ceil(duration * config.rate - 1e-6)))
    if len(times) <= wanted:
        return times
    if wanted == 1:
        return np.array([(times[0] + times[-1]) / 2])
    step = duration / wanted
    if config.rate is not None:
        step = max(step, 1 / config.rate)
    return np.asarray(times[0] + step * np.arange(wanted), np.float64)


def sample_frames(
    source: str | BinaryIO, config: FramesConfig, problems: list[str] | None = None
) -> Iterator[Frame]:
    """Decode a video once and yield the sampled frames, upright, in order of time.

    Args:
        source: what `VideoFile.opened` yields.
        config: the sampling.
        problems: is told what of the video was damaged, where frames could be had all the same.

    Raises:
        av.FFmpegError: the file cannot be opened or decoded.
        UnmaskError: the file holds no video stream or no frame.
    """
    with open_container(source) as container:
        stream = video_stream(container)
        if stream is None:
            raise UnmaskError("no video stream")
        timeline, packets = _read_packets(container, stream)
        if not len(timeline.times):
            raise UnmaskError("no frame in the video stream")
        wanted = plan_times(timeline.times, config)
        index = -1
        # Where no frame comes that others are predicted from, those that none is will do.
        for skipped in ("NONREF", "DEFAULT") if timeline.has_clock else ("DEFAULT",):
            with _again(source, container, stream, packets) as (decoded_stream, every):
                shortcuts = _shortcuts(timeline, wanted) if skipped == "NONREF" else {}
                decoder = _Decoder(every, decoded_stream, timeline, skipped, shortcuts)
                for index, (time, frame) in enumerate(_nearest(decoder, wanted)):
                    yield _upright(index, time, frame)
            if index >= 0:
                if problems is not None and decoder.damaged:
                    problems.append(f"{decoder.damaged} packets or frames are damaged")
                return
    raise UnmaskError("no frame can be decoded")


def first_frames(source: str | BinaryIO, seconds: float) -> Iterator[Frame]:
    """Decode the beginning of a video and yield every frame of it, upright, in order of time.

    Args:
        source: what `VideoFile.opened` yields.
        seconds: from the first frame on.

    Raises:
        av.FFmpegError: the file cannot be opened or decoded.
        UnmaskError: the file holds no video stream or no frame.
    """
    index = -1
    with open_container(source) as container:
        stream = video_stream(container)
        if stream is None:
            raise UnmaskError("no video stream")
        timeline, packets = _read_packets(container, stream)
        if not len(timeline.times):
            raise UnmaskError("no frame in the video stream")
        with _again(source, container, stream, packets) as (decoded_stream, every):
            decoder = _Decoder(every, decoded_stream, timeline, "DEFAULT", {})
            for index, (time, frame) in enumerate(decoder.frames()):
                if time >= timeline.times[0] + seconds:
                    return
                yield _upright(index, time, frame)
    if index < 0:
        raise UnmaskError("no frame can be decoded")


def video_stream(container: InputContainer) -> VideoStream | None:
    """Return the first video stream that is no cover picture, to be decoded by one thread."""
    for stream in container.streams.video:
        if not stream.disposition & stream.disposition.attached_pic:
            if stream.codec_context is not None:  # FFmpeg may have no decoder for it
                stream.codec_context.thread_count = 1
            return stream
    return None


def _read_packets(
    container: InputContainer, stream: VideoStream
) -> tuple[_Timeline, list[Packet[VideoStream]] | None]:
    """Read all packets for the exact times, even where the rate varies, and keep them if few."""
    packets: list[Packet[VideoStream]] = []
    pictures: list[_Picture] = []
    held = 0
    try:
        for packet in container.demux(stream):
            if packet.size:
                pictures.append(_picture_of(packet))
            held += packet.size
            if held <= _MAX_HELD:
                packets.append(packet)
            else:
                packets.clear()
    except av.FFmpegError:
        # A file may be cut short; what came before can be used.
        if not pictures:
            raise
    ticks = sorted({one.pts for one in pictures if one.pts is not None})
    keys = sorted({one.pts for one in pictures if one.pts is not None and one.starts_anew})
    base = stream.time_base or Fraction(1)
    times = np.array(ticks) * float(base)
    if not ticks:
        # A bare stream of pictures, as .h264 is, carries no clock.
        times = np.arange(len(pictures)) / float(stream.average_rate or 25)
    timeline = _Timeline(times, np.array(keys) * float(base), bool(ticks), pictures, base)
    return timeline, packets if held <= _MAX_HELD else None


def _picture_of(packet: Packet[VideoStream]) -> _Picture:
    """Read what a packet says of its picture; of H.264, from its units (ITU-T H.264, 7.3.1).

    Containers also mark where an intra refresh begins, at whose end the picture is whole; only an
    IDR picture (slices of type 5) is at once.
    """
    context = packet.stream.codec_context
    # An edit list trims a clip by packets that are decoded and not shown.
    pts = None if packet.is_discard else packet.pts
    if context.name != "h264":
        return _Picture(pts, bool(packet.is_keyframe))
    extradata = context.extradata or b""
    if extradata[:1] != b"\x01" or len(extradata) < _MIN_AVCC:
        # Units after start codes instead of lengths (annex B); looking for all would take long.
        units = bytes(packet).split(b"\0\0\1")[1:] if packet.is_keyframe else []
        return _Picture(pts, any(unit[0] & 31 == 5 for unit in units if unit))
    headers = _unit_headers(memoryview(packet), (extradata[4] & 3) + 1)
    slices = [header for header in headers if header & 31 in (1, 5)]
    starts_anew = packet.is_keyframe and any(header & 31 == 5 for header in slices)
    # Of two fields, the first is no picture yet.
    is_reference = context.field_order <= _PROGRESSIVE and any(header & 0x60 for header in slices)
    return _Picture(pts, starts_anew, is_reference and pts is not None)


def _unit_headers(data: memoryview, width: int) -> Iterator[int]:
    """Yield the first byte of each unit, which stands behind its length of `width` bytes."""
    start = width
    while start < len(data):
        yield data[start]
        length = int.from_bytes(data[start - width : start], "big")
        if not length:
            return
        start += length + width


def _shortcuts(timeline: _Timeline, wanted: NDArray[np.float64]) -> dict[int, int]:
    """Return after which picture, by number in the order of decoding, which is the next needed.

    Of a group of pictures, the references nearest to wanted times are needed, as `_nearest` will
    choose them. After the last of them to be decoded, the decoder can be asked for what it holds,
    to go on with the next group of which anything is wanted. Groups have no such picture where
    references are not known, or none comes after the group's last wanted time.
    """
    ticks = [math.nan if one.pts is None else one.pts for one in timeline.pictures]
    # To the last bit what PyAV says of frames.
    times = np.array(ticks) * timeline.base.numerator / timeline.base.denominator
    is_reference = np.array([one.is_reference for one in timeline.pictures])
    if not is_reference.any():
        return {}
    starts = [number for number, one in enumerate(timeline.pictures) if one.starts_anew]
    if not (np.diff(times[starts]) > 0).all():  # nor where one has no time
        return {}
    shortcuts = {}
    following = len(times)
    for start, end in reversed([*pairwise([*starts, len(times)])]):
        until = times[end] if end < len(times) else math.inf
        own = wanted[(wanted >= times[start]) & (wanted < until)]
        if not len(own):
            continue
        references = start + np.flatnonzero(is_reference[start:end])
        references = references[np.argsort(times[references], kind="stable")]
        after = np.searchsorted(times[references], own)
        if np.nanmax(times[start:end]) < until and after[-1] < len(references):
            around = references[[np.maximum(after - 1, 0), after]]
            distances = np.abs(times[around] - own)
            # Of two that are equally near, both.
            is_needed = distances < distances.min(axis=0) + float(timeline.base) / 2
            is_needed[:, own == wanted[-1]] = [[False], [True]]
            shortcuts[int(around[is_needed].max())] = following
        following = start
    return shortcuts


@contextmanager
def _again(
    source: str | BinaryIO,
    container: InputContainer,
    stream: VideoStream,
    packets: list[Packet[VideoStream]] | None,
) -> Iterator[tuple[VideoStream, Iterable[Packet[VideoStream]]]]:
    """Yield a stream and its packets from the start: those kept, or those of a new container.

    Not every container can be wound back, and opening one costs two frames' decoding.
    """
    if packets is not None:
        stream.codec_context.flush_buffers()
        yield stream, packets
        return
    position = container.streams.video.index(stream)
    if not isinstance(source, str):
        source.seek(0)
    with open_container(source) as fresh:
        other = fresh.streams.video[position]
        other.codec_context.thread_count = 1
        yield other, fresh.demux(other)


class _Decoder:
    """Decodes a stream forwards, leaving out what it is told is not wanted.

    Args:
        packets: of the stream, all from the start.
        stream: which they are of.
        timeline: of the stream.
        skipped: which pictures are not decoded.
        shortcuts: after which pictures, by number, which is the next that is needed.

    Attributes:
        damaged: packets that could not be decoded, and frames that the decoder says are broken.
    """

    def __init__(
        self,
        packets: Iterable[Packet[VideoStream]],
        stream: VideoStream,
        timeline: _Timeline,
        skipped: Literal["NONREF", "DEFAULT"],
        shortcuts: Mapping[int, int],
    ) -> None:
        self.damaged = 0
        self._packets = packets
        self._context = stream.codec_context
        self._context.skip_frame = skipped
        self._timeline = timeline
        self._shortcuts = shortcuts
        self._next_needed: int | None = None
        self._base = float(timeline.base)
        self._resume = -math.inf
        self._read_to = -math.inf

    def frames(self) -> Iterator[tuple[float, VideoFrame]]:
        """Yield presentation times in seconds and pictures."""
        position = count()
        number = -1
        for packet in self._packets:
            number += packet.size > 0
            time = -math.inf if packet.pts is None else packet.pts * self._base
            if self._next_needed is not None or self._resume > self._read_to:
                is_early = number < (self._next_needed or 0) or time < self._resume
                if is_early or not packet.is_keyframe:
                    continue
                # What is still in the decoder is before this key frame, so nobody wants it.
                self._context.flush_buffers()
                self._next_needed = None
            self._read_to = max(self._read_to, time)
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:  # the next packets may be whole
                self.damaged += 1
                continue
            if packet.size and number in self._shortcuts:
                frames += self._rest_before(self._shortcuts[number])
                if all(frame.pts != packet.pts for frame in frames):
                    self.damaged += 1
            for frame in frames:
                self.damaged += frame.is_corrupt
                if not self._timeline.has_clock:
                    yield float(self._timeline.times[min(next(position), self._last)]), frame
                elif frame.time is not None:
                    yield frame.time, frame

    def _rest_before(self, next_needed: int) -> list[VideoFrame]:
        """Return what the decoder still holds, which is to go on with a later picture."""
        self._next_needed = next_needed
        frames = self._context.decode(None)
        for frame in frames:
            frame.time_base = self._timeline.base  # which is a packet's to say
        return frames

    @property
    def _last(self) -> int:
        return len(self._timeline.times) - 1

    def skip_to(self, time: float) -> None:
        """Leave out what is before the last key frame that is not after `time`."""
        position = int(np.searchsorted(self._timeline.keys, time, side="right")) - 1
        if position >= 0:
            self._resume = float(self._timeline.keys[position])


def _nearest(decoder: _Decoder, wanted: NDArray[np.float64]) -> Iterator[tuple[float, VideoFrame]]:
    """Yield, for each wanted time, the nearest decoded frame and its time, and none twice.

    For the last wanted time it is the first frame not before, so that the span is never short.
    """
    targets = iter(wanted)
    target = next(targets)
    previous: tuple[float, VideoFrame] | None = None
    previous_is_out = False
    for time, frame in decoder.frames():
        is_out = False
        while target <= time:
            nearer = previous is not None and target - previous[0] < time - target
            if previous is not None and nearer and target < wanted[-1]:
                if not previous_is_out:
                    yield previous
                previous_is_out = True
            else:
                if not is_out:
                    yield time, frame
                is_out = True
            target = next(targets, math.inf)
        if target == math.inf:
            return
        decoder.skip_to(target)
        previous, previous_is_out = (time, frame), is_out
    if previous is not None and not previous_is_out:
        yield previous


def _upright(index: int, time: float, frame: VideoFrame) -> Frame:
    picture = _as_planes(frame)
    name = picture.format.name
    pix_fmt = _FULL_RANGE.get(name, name)
    shapes = plane_shapes(picture.width, picture.height, pix_fmt)
    planes = [
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[
            : shape[0], : shape[1]
        ]
        for plane, shape in zip(picture.planes, shapes, strict=True)
    ]
    # Display matrices that are no multiple of 90 degrees are taken as the nearest one.
    if turns := round(frame.rotation / 90) % 4:
        planes = [np.ascontiguousarray(np.rot90(plane, turns)) for plane in planes]
    height, width = planes[0].shape
    return Frame(
        index=index,
        time=time,
        width=width,
        height=height,
        pix_fmt=pix_fmt,
        colorspace=int(picture.colorspace),
        full_range=picture.color_range == ColorRange.JPEG or name in _FULL_RANGE,
        planes=tuple(planes),
    )


def _as_planes(frame: VideoFrame) -> VideoFrame:
    """Return a picture in one of the two layouts, colours unchanged, of no more than 4K."""
    shrink = min(1.0, math.sqrt(_MAX_PIXELS / (frame.width * frame.height)))
    width, height = max(1, round(frame.width * shrink)), max(1, round(frame.height * shrink))
    pix_fmt = _FULL_RANGE.get(frame.format.name, frame.format.name)
    even = frame.width % 2 == 0 and frame.height % 2 == 0
    if shrink == 1.0 and (pix_fmt == YUV444 or (pix_fmt == YUV420 and even)):
        return frame
    # Odd sizes, 4:2:2, 10 bits, grey, RGB: to 4:4:4 in 8 bits.
    if frame.format.is_rgb:
        return frame.reformat(
            width,
            height,
            YUV444,
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.JPEG,
            interpolation="AREA",
        )
    return frame.reformat(width, height, YUV444, interpolation="AREA")
