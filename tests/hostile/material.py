"""The clips that the hostile files are made from: real encoders, one face that a detector finds."""

import functools
import io
import struct
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from clips import draw_people, encode_video
from hostile.edit import box, find, splice

# The same bytes on every run: no identifiers drawn by a muxer, no threads inside an encoder, and no
# macroblock tree in x264, whose assembly reads what lies beyond a picture of 160 columns.
_EXACT = {"fflags": "+bitexact"}
_X264 = "threads=1:mbtree=0"
CODECS: dict[str, dict[str, str]] = {
    "libx265": {"x265-params": "pools=1:frame-threads=1:log-level=none", "preset": "ultrafast"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
    "libx264rgb": {"preset": "fast", "crf": "18", "x264-params": _X264},
}


@functools.cache
def clip(suffix: str = ".mp4", **keywords: Any) -> bytes:
    """Return a clip as `encode_video` writes it; the keywords are its own."""
    container = dict(keywords.pop("container", ())) | _EXACT
    codec = keywords.get("codec", "libx264")
    options = dict(keywords.pop("tuned", ())) or CODECS.get(codec)
    if codec == "libx264" and not options:
        reference = f"bframes={keywords.get('b_frames', 3)}:b-adapt=0:b-pyramid=normal:ref=4"
        x264 = f"{reference}:keyint=48:{_X264}"
        options = {"crf": "18", "preset": "fast", "x264-params": x264}
    keywords["codec_options"] = options
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{suffix}"
        return encode_video(path, options=container, **keywords).read_bytes()


def faststart(**keywords: Any) -> bytes:
    """Return a clip with its moov in front."""
    return clip(container=(("movflags", "+faststart"),), **keywords)


def picture(people: int = 1, size: tuple[int, int] = (160, 120), suffix: str = ".jpg") -> bytes:
    """Return one picture as a file."""
    drawn = draw_people(size, people, (0.5, 0.5), 0)
    return cv2.imencode(suffix, drawn[:, :, ::-1])[1].tobytes()


def _muxed(suffix: str, write: Callable[[Any], None], **options: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{suffix}"
        with av.open(str(path), "w", options=options | _EXACT) as container:
            write(container)
        return path.read_bytes()


def _video(container: Any, size: tuple[int, int] = (160, 120), codec: str = "libx264") -> Any:
    stream = container.add_stream(codec, rate=24)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    if codec == "libx264":
        stream.options = {"crf": "18", "preset": "fast", "x264-params": _X264}
    return stream


def _frame(index: int, count: int, people: int = 1, size: tuple[int, int] = (160, 120)) -> Any:
    drawn = draw_people(size, people, (0.5, 0.5), index / max(1, count - 1))
    frame = av.VideoFrame.from_ndarray(drawn, format="rgb24").reformat(format="yuv420p")
    frame.pts, frame.time_base = index, Fraction(1, 24)
    return frame


@functools.cache
def two_videos(first_people: int, second_people: int) -> bytes:
    """Return an mp4 with two video streams."""

    def write(container: Any) -> None:
        streams = [(_video(container), first_people), (_video(container), second_people)]
        for index in range(12):
            for stream, people in streams:
                container.mux(stream.encode(_frame(index, 12, people)))
        for stream, _ in streams:
            container.mux(stream.encode())

    return _muxed(".mp4", write)


@functools.cache
def size_changes(suffix: str, codec: str) -> bytes:
    """Return a stream whose picture size changes in the middle: two clips laid end to end."""
    halves = [clip(suffix, codec=codec, size=size, frames=12) for size in ((160, 120), (320, 240))]
    return b"".join(halves)


@functools.cache
def with_subtitles() -> bytes:
    """Return an mp4 with a subtitle track in front of the video, as some recorders write it."""

    def write(container: Any) -> None:
        text = container.add_stream("mov_text")
        text.codec_context.subtitle_header = b"[Script Info]\n"
        stream = _video(container)
        packet = av.Packet(struct.pack(">H", 5) + b"hello")
        packet.stream, packet.pts, packet.dts, packet.duration = text, 0, 0, 500
        packet.time_base = Fraction(1, 1000)
        for index in range(12):
            container.mux(stream.encode(_frame(index, 12)))
        container.mux(stream.encode())
        container.mux(packet)

    return _muxed(".mp4", write)


@functools.cache
def with_data_stream() -> bytes:
    """Return a transport stream with a data stream beside the video."""

    def write(container: Any) -> None:
        stream, klv = _video(container), container.add_data_stream("klv")
        for index in range(12):
            container.mux(stream.encode(_frame(index, 12)))
            packet = av.Packet(bytes(range(64)))
            packet.stream, packet.time_base = klv, Fraction(1, 24)
            packet.pts = packet.dts = index
            container.mux(packet)
        container.mux(stream.encode())

    return _muxed(".ts", write)


@functools.cache
def sound(suffix: str, codec: str, seconds: float = 1.0) -> bytes:
    """Return a file of sound alone."""

    def write(container: Any) -> None:
        stream = container.add_stream(codec, rate=44100, layout="mono")
        if codec == "pcm_s16le":
            stream.codec_context.format = "s16"
        size = 1152 if "mp3" in codec else 1024
        for index in range(int(44100 * seconds / size)):
            tone = np.sin((index * size + np.arange(size)) / 20)[None] / 4
            kind, values = "fltp", tone.astype(np.float32)
            if codec == "pcm_s16le":
                kind, values = "s16", (tone * 32767).astype(np.int16)
            block = av.AudioFrame.from_ndarray(values, format=kind, layout="mono")
            block.sample_rate, block.pts = 44100, index * size
            container.mux(stream.encode(block))
        container.mux(stream.encode())

    return _muxed(suffix, write)


def cover_art_first() -> bytes:
    """Return an mp4 whose first stream is a cover picture without a face."""

    art = picture(people=0)
    data = box(b"data", struct.pack(">II", 13, 0) + art)
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    meta = box(b"meta", bytes(4) + handler + box(b"ilst", box(b"covr", data)))
    plain = clip()
    around = find(plain, "moov/trak")
    at = around[-1].start - around[0].start
    return splice(plain, "moov", at, at, box(b"udta", meta))


def gif(width: int, height: int, frames: int = 1) -> bytes:
    """Return a GIF that declares a screen and fills one pixel of it."""
    block = b"\x2c" + bytes(4) + struct.pack("<HHB", 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    control = b"\x21\xf9\x04\x00\x04\x00\x00\x00"
    header = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return header + (control + block) * frames + b"\x3b"


def archive(kind: str) -> bytes:
    """Return an archive ("zip", "gzip") of a clip."""
    import gzip
    import zipfile

    if kind == "gzip":
        return gzip.compress(clip(), mtime=0)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        target.writestr(zipfile.ZipInfo("clip.mp4"), clip())
    return buffer.getvalue()
