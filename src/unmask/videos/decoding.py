"""Decoding: a video stream's packets, and the pictures that FFmpeg makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from unmask.errors import UnmaskError
from unmask.videos.container import Display, FileSource, open_container, video_stream
from unmask.videos.filters import deinterlaced

# Bytes of packets kept to decode from; a DFDC clip has 4 MB. A larger file is read twice.
_MAX_HELD = 256_000_000
# Least bytes of an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1).
_MIN_AVCC = 7
# FFmpeg's AVFieldOrder: 0 is unknown, 1 progressive, the others interlaced.
_PROGRESSIVE = 1


class Picture(NamedTuple):
    """What a packet says about its picture."""

    pts: int | None  # presentation time in ticks; None where it has none, or is not to be shown
    is_key: bool  # decoding can start at it
    is_reference: bool = False  # other pictures are predicted from it; False where unknown
    is_shown: bool = True


@dataclass(frozen=True)
class Timeline:
    """What the packets of a stream say about its pictures."""

    times: NDArray[np.float64]  # all presentation times in seconds, ascending
    keys: NDArray[np.float64]  # times of the pictures at which decoding can start
    has_clock: bool  # whether the packets' times are used; otherwise pictures are counted
    pictures: list[Picture]  # in decoding order
    base: Fraction  # seconds per tick

    def counted(self) -> Timeline:
        """Return a timeline of the same pictures at a constant rate, for a clock that jumps."""
        steps = np.diff(self.times)
        step = float(np.median(steps)) if len(steps) else 1 / 25
        times = step * np.arange(sum(one.is_shown for one in self.pictures), dtype=np.float64)
        return replace(self, times=times, keys=self.keys[:0], has_clock=False)


def read_packets(
    container: InputContainer,
) -> tuple[VideoStream, Timeline, list[Packet[VideoStream]] | None]:
    """Read all packets of the video stream: only they have exact times where the rate varies.

    Returns:
        The stream, its timeline, and its packets, or None if they are too large to be kept.

    Raises:
        av.FFmpegError: not one packet can be read.
        UnmaskError: the file holds no video stream or no frame.
    """
    stream = video_stream(container)
    if stream is None:
        raise UnmaskError("no video stream")
    packets: list[Packet[VideoStream]] = []
    pictures: list[Picture] = []
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
        # A truncated file: the packets before its end can be used.
        if not pictures:
            raise
    ticks = sorted({one.pts for one in pictures if one.pts is not None})
    keys = sorted({one.pts for one in pictures if one.pts is not None and one.is_key})
    base = stream.time_base or Fraction(1)
    times = np.array(ticks) * float(base)
    if not ticks:
        # A raw stream, such as .h264, has no times.
        times = np.arange(len(pictures)) / float(stream.average_rate or 25)
    if not len(times):
        raise UnmaskError("no frame in the video stream")
    timeline = Timeline(times, np.array(keys) * float(base), bool(ticks), pictures, base)
    return stream, timeline, packets if held <= _MAX_HELD else None


def _picture_of(packet: Packet[VideoStream]) -> Picture:
    """Return what a packet says about its picture; for H.264, its NAL units (ITU-T H.264, 7.3.1).

    Containers mark the start of an intra refresh as a key frame, although its picture is complete
    only some frames later. So only IDR pictures (slices of type 5) count as key frames of H.264.
    """
    context = packet.stream.codec_context
    # An edit list trims a clip by packets that are decoded and not shown.
    is_shown = not packet.is_discard
    pts = packet.pts if is_shown else None
    if context.name != "h264":
        return Picture(pts, bool(packet.is_keyframe), is_shown=is_shown)
    extradata = context.extradata or b""
    if extradata[:1] != b"\x01" or len(extradata) < _MIN_AVCC:
        # Start codes instead of lengths (annex B); searching all packets for them would be slow.
        units = bytes(packet).split(b"\0\0\1")[1:] if packet.is_keyframe else []
        is_key = any(unit[0] & 31 == 5 for unit in units if unit)
        return Picture(pts, is_key, is_shown=is_shown)
    headers = _unit_headers(memoryview(packet), (extradata[4] & 3) + 1)
    slices = [header for header in headers if header & 31 in (1, 5)]
    is_key = packet.is_keyframe and any(header & 31 == 5 for header in slices)
    # The first of two fields is not a whole picture.
    is_reference = context.field_order <= _PROGRESSIVE and any(header & 0x60 for header in slices)
    return Picture(pts, is_key, is_reference and pts is not None, is_shown)


def _unit_headers(data: memoryview, width: int) -> Iterator[int]:
    """Yield the first byte of each NAL unit; a length of `width` bytes precedes each."""
    start = width
    while start < len(data):
        yield data[start]
        length = int.from_bytes(data[start - width : start], "big")
        if not length:
            return
        start += length + width


@contextmanager
def restarted(
    source: FileSource,
    container: InputContainer,
    stream: VideoStream,
    packets: list[Packet[VideoStream]] | None,
) -> Iterator[tuple[VideoStream, Iterable[Packet[VideoStream]]]]:
    """Yield a stream and its packets from the start: those kept, or those of a new container.

    Opening a container costs as much as decoding two frames, and some cannot seek to their start.
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


class Decoder:
    """Decodes a stream in order and skips what is not needed; interlaced video is decoded whole.

    `damaged` counts packets that could not be decoded, and frames that FFmpeg marks as corrupt.
    `display` says how the pictures are shown.
    """

    def __init__(
        self,
        packets: Iterable[Packet[VideoStream]],
        stream: VideoStream,
        timeline: Timeline,
        skipped: Literal["NONREF", "DEFAULT"],
        shortcuts: Mapping[int, int],
    ) -> None:
        """Prepare to decode all packets of a stream.

        FFmpeg decodes no picture of the kind `skipped`. `shortcuts` maps the number of a picture,
        after which the decoder is flushed, to the number of the next picture to decode.
        """
        self.damaged = 0
        self.display = Display(stream)
        self._packets = packets
        self._context = stream.codec_context
        self._context.skip_frame = skipped
        self._timeline = timeline
        self._shortcuts = dict(shortcuts)
        self._skips = True
        if self._context.field_order > _PROGRESSIVE:
            self._decode_all()
        self._next_needed: int | None = None
        self._base = float(timeline.base)
        self._resume = -math.inf
        self._read_to = -math.inf

    def _decode_all(self) -> None:
        """Skip nothing from now on: the two fields are told apart by the pictures around them."""
        self._skips = False
        self._context.skip_frame = "DEFAULT"
        self._shortcuts.clear()

    def frames(self) -> Iterator[tuple[float, VideoFrame]]:
        """Yield pairs of a presentation time (in seconds) and a picture without combs."""
        return deinterlaced(self._decoded())

    def _decoded(self) -> Iterator[tuple[float, VideoFrame]]:
        counted = iter(self._timeline.times)
        number = -1
        for packet in self._packets:
            number += packet.size > 0
            time = -math.inf if packet.pts is None else packet.pts * self._base
            if self._next_needed is not None or self._resume > self._read_to:
                is_early = number < (self._next_needed or 0) or time < self._resume
                if is_early or not packet.is_keyframe:
                    continue
                # The pictures that the decoder still holds precede this key frame: not needed.
                self._context.flush_buffers()
                self._next_needed = None
            self._read_to = max(self._read_to, time)
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:  # the next packets may be intact
                self.damaged += 1
                continue
            if packet.size and number in self._shortcuts:
                frames += self._flush(self._shortcuts[number])
                if all(frame.pts != packet.pts for frame in frames):
                    self.damaged += 1
            for frame in frames:
                self.damaged += frame.is_corrupt
                if frame.interlaced_frame and self._skips:  # its container did not say so
                    self._decode_all()
                if not self._timeline.has_clock:
                    yield float(next(counted, self._timeline.times[-1])), frame
                elif frame.time is not None:
                    yield frame.time, frame

    def _flush(self, next_needed: int) -> list[VideoFrame]:
        """Return the frames that the decoder still holds; skip to the picture `next_needed`."""
        self._next_needed = next_needed
        frames = self._context.decode(None)
        for frame in frames:
            frame.time_base = self._timeline.base  # PyAV takes it from the packet
        return frames

    def skip_to(self, time: float) -> None:
        """Skip what precedes the last key frame at or before `time`."""
        position = int(np.searchsorted(self._timeline.keys, time, side="right")) - 1
        if position >= 0 and self._skips:
            self._resume = float(self._timeline.keys[position])
