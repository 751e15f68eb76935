"""The clips that the hostile files are made from: real encoders, one face that a detector finds."""

import functools
import io
import struct
import tempfile
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from clips import draw_people, encode_video
from hostile.edit import box, find, splice


@functools.cache
def clip(suffix: str = ".mp4", **keywords: Any) -> bytes:
    """Return a clip as `encode_video` writes it, and with its keywords.

    `encoder` and `options` are strings such as "preset=ultrafast threads=1", because a cache needs
    hashable arguments.
    """
    for name in ("encoder", "options"):
        if name in keywords:
            keywords[name] = dict(pair.split("=", 1) for pair in keywords[name].split())
    with tempfile.TemporaryDirectory() as folder:
        return encode_video(Path(folder) / f"clip{suffix}", **keywords).read_bytes()


def faststart(**keywords: Any) -> bytes:
    """Return a clip with its moov in front."""
    return clip(options="movflags=+faststart", **keywords)


def picture(people: int = 1, suffix: str = ".jpg") -> bytes:
    """Return a picture of 160 by 120 pixels as a file."""
    drawn = draw_people((160, 120), people, (0.5, 0.5), 0)
    return cv2.imencode(suffix, drawn[:, :, ::-1])[1].tobytes()


def _muxed(suffix: str, write: Callable[[Any], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{suffix}"
        with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
            write(container)
        return path.read_bytes()


def _copy(container: Any, *clips: bytes) -> None:
    """Add the video stream of each clip."""
    sources = [av.open(io.BytesIO(clip)).streams.video[0] for clip in clips]
    streams = [container.add_stream_from_template(source) for source in sources]
    for source, stream in zip(sources, streams, strict=True):
        for packet in source.container.demux(source):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)


@functools.cache
def two_videos() -> bytes:
    """Return an mp4 with two video streams, of which the second shows nobody."""
    return _muxed(".mp4", lambda container: _copy(container, clip(), clip(people=0)))


@functools.cache
def size_changes() -> bytes:
    """Return a stream whose picture size changes in the middle: two clips concatenated."""
    sizes = ((160, 120), (320, 240))
    return b"".join(clip(".ts", codec="mpeg2video", size=size, frames=12) for size in sizes)


@functools.cache
def with_subtitles() -> bytes:
    """Return an mp4 with a subtitle track in front of the video, as some recorders write it."""

    def write(container: Any) -> None:
        text = container.add_stream("mov_text")
        text.codec_context.subtitle_header = b"[Script Info]\n"
        _copy(container, clip())
        packet = av.Packet(struct.pack(">H", 5) + b"hello")
        packet.stream, packet.pts, packet.dts, packet.duration = text, 0, 0, 500
        packet.time_base = Fraction(1, 1000)
        container.mux(packet)

    return _muxed(".mp4", write)


@functools.cache
def with_data_stream() -> bytes:
    """Return a transport stream with a data stream next to the video."""

    def write(container: Any) -> None:
        klv = container.add_data_stream("klv")
        _copy(container, clip(".ts"))
        for index in range(12):
            packet = av.Packet(bytes(range(64)))
            packet.stream, packet.time_base = klv, Fraction(1, 24)
            packet.pts = packet.dts = index
            container.mux(packet)

    return _muxed(".ts", write)


@functools.cache
def sound(suffix: str, codec: str) -> bytes:
    """Return a second of sound without video."""

    def write(container: Any) -> None:
        stream = container.add_stream(codec, rate=44100, layout="mono")
        tone = np.sin(np.arange(44100) / 20).astype(np.float32)[None] / 4
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())

    return _muxed(suffix, write)


def cover_art_first() -> bytes:
    """Return an mp4 whose first stream is a cover picture without a face."""
    data = box(b"data", struct.pack(">II", 13, 0) + picture(people=0))
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    meta = box(b"meta", bytes(4) + handler + box(b"ilst", box(b"covr", data)))
    moov, track = find(clip(), "moov/trak")
    at = track.start - moov.start
    return splice(clip(), "moov", at, at, box(b"udta", meta))


def gif(width: int, height: int, frames: int = 1) -> bytes:
    """Return a GIF that declares a screen and fills one pixel of it."""
    block = b"\x2c" + bytes(4) + struct.pack("<HHB", 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    control = b"\x21\xf9\x04\x00\x04\x00\x00\x00"
    header = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return header + (control + block) * frames + b"\x3b"


def archive() -> bytes:
    """Return a .zip of a clip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        target.writestr(zipfile.ZipInfo("clip.mp4"), clip())
    return buffer.getvalue()
