"""Valid clips that must be shown in a particular way: every one shows the same face, upright.

The kinds are pixels that are not square, mirrored and turned pictures, margins, fields, HDR, clocks
that jump, and files with several video streams.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from clips import draw_people, encoder_options
from hostile import edit

Picture = NDArray[np.uint8]

SIZE = (320, 240)
FRAMES, FPS = 24, 24
RATIOS = (
    *("1:3", "1:2", "3:5", "2:3", "3:4", "8:9", "10:11", "16:15", "59:54", "12:11", "32:27"),
    *("4:3", "64:45", "16:11", "3:2", "2:1", "5:2", "3:1"),
)
# The eight orientations as `a b c d`: the stored pixel (x, y) is shown at (a x + c y, b x + d y).
MATRICES = [(a, 0, 0, d) for a, d in product((1, -1), repeat=2)]
MATRICES += [(0, b, c, 0) for b, c in product((1, -1), repeat=2)]
INTERLACING: dict[str, dict[str, str]] = {
    "libx264": {"crf": "12", "x264-params": "{order}=1:threads=1"},
    "mpeg2video": {"flags": "+ilme+ildct", "qmin": "1", "qmax": "2"},
    "prores_ks": {"flags": "+ildct"},
}
# Numbers of ITU-T H.273: BT.2020's primaries and matrix, and the curves of PQ and HLG.
_BT2020, _BT2020_MATRIX, _PQ, _HLG = 9, 9, 16, 18


@dataclass(frozen=True)
class Shown:
    """One clip: how it is written, and how closely its first frame is `picture(first)`."""

    write: Callable[[Path], object]
    psnr: float = 30.0  # in dB, at least
    detail: str = ""  # a word of what the ledger says of it
    first: int = 0


@cache
def picture(index: int) -> Picture:
    """Return a picture as it is meant to be seen."""
    return draw_people(SIZE, 1, (0.5, 0.5), index / FRAMES)


def shown_clips() -> dict[str, Shown]:
    """Return all clips by file name."""
    return _aspects() | _matrices() | _margins() | _fields() | _hdr() | _clocks() | _streams()


def encode(
    path: Path | io.BytesIO,
    stored: Iterable[Picture | VideoFrame],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    *,
    format: str | None = None,
    fps: int = FPS,
    aspect: str = "0:1",
    matrix: Sequence[int] = (),
    fields: str = "",
    options: dict[str, str] | None = None,
    milliseconds: Sequence[int] | None = None,
    hdr: int | None = None,
) -> None:
    """Encode pictures as they are stored in the file.

    Args:
        path: the file; its suffix selects the container, or else `format` does.
        stored: pictures in RGB, or frames.
        codec: FFmpeg's name of the encoder.
        pix_fmt: pixel format of the encoded planes.
        format: of the container.
        fps: frames per second, unless `milliseconds` gives the times.
        aspect: width to height of a pixel.
        matrix: the nine numbers of the display matrix.
        fields: `tff` or `bff` marks the pictures as interlaced.
        options: of the encoder.
        milliseconds: presentation time of each picture.
        hdr: transfer curve of pictures of BT.2020.
    """
    target = path if isinstance(path, io.BytesIO) else str(path)
    with av.open(target, "w", format=format, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=fps)
        context = stream.codec_context
        context.options = encoder_options(codec) if options is None else options
        context.pix_fmt = pix_fmt
        context.sample_aspect_ratio = Fraction(*map(int, aspect.split(":")))
        if matrix:
            stream.set_display_matrix(matrix)
        if hdr is not None:
            context.color_trc, context.color_primaries = hdr, _BT2020
            context.colorspace = _BT2020_MATRIX
        base = Fraction(1, 1000) if milliseconds else Fraction(1, fps)
        if milliseconds:
            context.time_base = base
        for index, one in enumerate(stored):
            frame = one
            if not isinstance(frame, VideoFrame):
                frame = VideoFrame.from_ndarray(np.ascontiguousarray(one), format="rgb24")
                frame = frame.reformat(format=pix_fmt)
            if not index:
                context.width, context.height = frame.width, frame.height
            frame.pts, frame.time_base = milliseconds[index] if milliseconds else index, base
            container.mux(stream.encode(_marked(frame, fields) if fields else frame))
        container.mux(stream.encode())


def _marked(frame: VideoFrame, fields: str) -> VideoFrame:
    """Return a frame that is marked as interlaced."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    marks = graph.add("setfield", fields)
    graph.link_nodes(source, marks, graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.vpull()


def _pictures(count: int = FRAMES) -> list[Picture]:
    return [picture(index) for index in range(count)]


def _clip(**keywords: Any) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        encode(path, _pictures(), **keywords)

    return write


# --- geometry


def _squeezed(aspect: str, size: tuple[int, int] | None = None) -> list[Picture]:
    width, height = map(int, aspect.split(":"))
    size = size or (2 * round(SIZE[0] * height / width / 2), SIZE[1])
    return [cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in _pictures(3)]


def _aspects() -> dict[str, Shown]:
    def write(path: Path, aspect: str, **keywords: Any) -> None:
        encode(path, _squeezed(aspect), aspect=aspect, **keywords)

    def name(aspect: str, suffix: str) -> str:
        return f"aspect_{aspect.replace(':', '_')}{suffix}"

    def in_container(path: Path, aspect: str) -> None:
        """Write the ratio as a box of the container; the others have it in the codec."""
        memory = io.BytesIO()
        encode(memory, _squeezed(aspect), format="mp4")
        pasp = b"".join(int(side).to_bytes(4, "big") for side in aspect.split(":"))
        path.write_bytes(_with_box(memory.getvalue(), edit.box(b"pasp", pasp)))

    kinds: dict[str, dict[str, Any]] = {
        ".mkv": {},
        ".ts": {},
        ".avi": {"codec": "mpeg4", "options": {"qscale": "2"}},
    }
    clips = {
        name(aspect, suffix): Shown(partial(write, aspect=aspect, **keywords), 22)
        for aspect in RATIOS
        for suffix, keywords in kinds.items()
    }
    clips |= {
        name(aspect, ".mp4"): Shown(partial(in_container, aspect=aspect), 22) for aspect in RATIOS
    }
    # CIF of H.263 always has pixels of 12:11.
    cif = partial(_squeezed, "12:11", (352, 288))
    return clips | {
        "aspect_h263.avi": Shown(lambda path: encode(path, cif(), "h263", aspect="12:11"), 22),
        "aspect_damaged.mp4": Shown(partial(encode, stored=_pictures(3), aspect="1:9999")),
    }


def _stored(shown: Picture, a: int, b: int, c: int, d: int) -> Picture:
    """Return the picture of which a matrix makes `shown`: its inverse is its transpose."""
    flipped = shown[:: (c or d), :: (a or b)] if a else shown[:: (b or d), :: (a or c)]
    return np.ascontiguousarray(flipped if a else flipped.transpose(1, 0, 2))


def _matrices() -> dict[str, Shown]:
    one = 1 << 16

    def write(path: Path, matrix: tuple[int, int, int, int]) -> None:
        a, b, c, d = (value * one for value in matrix)
        stored = [_stored(shown, *matrix) for shown in _pictures(3)]
        encode(path, stored, matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30))

    return {
        "matrix{:+}{:+}{:+}{:+}.mp4".format(*matrix): Shown(partial(write, matrix=matrix))
        for matrix in MATRICES
    }


def _with_box(data: bytes, payload: bytes) -> bytes:
    """Return an MP4 with a box at the end of its H.264 sample entry."""
    entry = "moov/trak/mdia/minf/stbl/stsd/avc1"
    found = edit.find(data, entry)[-1]
    size = found.end - found.start
    return edit.splice(data, entry, size, size, payload)


def _margins() -> dict[str, Shown]:
    """Clips with margins of noise: `clap` in MP4, `PixelCrop…` in Matroska."""
    left, right, top, bottom = 32, 16, 20, 12

    def clap(path: Path) -> None:
        memory = io.BytesIO()
        noise = np.random.default_rng(0)
        pictures = []
        for one in _pictures(3):
            size = (SIZE[1] + top + bottom, SIZE[0] + left + right, 3)
            wide = noise.integers(0, 255, size, np.uint8)
            wide[top:-bottom, left:-right] = one
            pictures.append(wide)
        encode(memory, pictures, format="mp4")
        values = (SIZE[0], 1, SIZE[1], 1, left - right, 2, top - bottom, 2)
        payload = b"".join(value.to_bytes(4, "big") for value in values)
        path.write_bytes(_with_box(memory.getvalue(), edit.box(b"clap", payload)))

    def pixel_crop(path: Path) -> None:
        clap(path.with_suffix(".mp4"))
        _remux(path, [av.open(str(path.with_suffix(".mp4"))).streams.video[0]])

    return {"margins_clap.mp4": Shown(clap), "margins_pixel_crop.mkv": Shown(pixel_crop)}


def _remux(
    path: Path, sources: Sequence[VideoStream], dispositions: Sequence[Disposition] = ()
) -> None:
    """Copy streams into one file."""
    with av.open(str(path), "w") as container:
        copies = [container.add_stream_from_template(source) for source in sources]
        for copy, disposition in zip(copies, dispositions, strict=False):
            copy.disposition = disposition
        for source, copy in zip(sources, copies, strict=True):
            for packet in source.container.demux(source):
                if packet.dts is not None:
                    packet.stream = copy
                    container.mux(packet)


# --- fields and HDR


def _fields() -> dict[str, Shown]:
    def write(path: Path, codec: str, order: str, pix_fmt: str) -> None:
        options = {key: text.format(order=order) for key, text in INTERLACING[codec].items()}
        first = int(order == "bff")
        woven = []
        for index in range(12):
            fast = [np.roll(picture(0), 8 * (2 * index + late), axis=1) for late in (0, 1)]
            one = fast[1].copy()
            one[first::2] = fast[0][first::2]
            woven.append(_planes(one, pix_fmt))
        encode(path, woven, codec, pix_fmt, fields=order, options=options)

    formats = {"libx264": ".mp4", "mpeg2video": ".ts", "prores_ks": ".mov"}
    return {
        f"fields_{order}_{codec}{suffix}": Shown(
            partial(
                write,
                codec=codec,
                order=order,
                pix_fmt="yuv422p10le" if codec == "prores_ks" else "yuv420p",
            ),
            26,
        )
        for (codec, suffix), order in product(formats.items(), ("tff", "bff"))
    }


def _planes(woven: Picture, pix_fmt: str) -> VideoFrame:
    """Return a frame whose chroma is that of its own field."""
    fields = [
        VideoFrame.from_ndarray(np.ascontiguousarray(woven[start::2]), format="rgb24")
        .reformat(format="yuv444p")
        .to_ndarray()
        for start in (0, 1)
    ]
    whole = np.empty((3, *woven.shape[:2]), np.uint8)
    for start, planes in enumerate(fields):
        whole[:, start::2] = planes
    full = VideoFrame.from_ndarray(whole, format="yuv444p")
    if pix_fmt != "yuv420p":
        return full.reformat(format=pix_fmt)
    # Two lines of chroma of one field become one.
    small = whole[1:].reshape(2, -1, 4, woven.shape[1] // 2, 2)
    top, bottom = small[:, :, 0::2].mean((2, 4)), small[:, :, 1::2].mean((2, 4))
    chroma = np.stack([top, bottom], axis=2).reshape(2, -1).round().astype(np.uint8)
    packed = np.concatenate([whole[0].reshape(-1), chroma.reshape(-1)])
    return VideoFrame.from_ndarray(packed.reshape(-1, woven.shape[1]), format="yuv420p")


def _hdr() -> dict[str, Shown]:
    def write(path: Path, curve: int, codec: str) -> None:
        frames = []
        for one in _pictures(3):
            codes = np.rint(65535 * _hdr_signal(one, curve)).astype(np.uint16)
            rgb = VideoFrame.from_ndarray(codes, format="rgb48le")
            frames.append(rgb.reformat(format="yuv420p10le", dst_colorspace=_BT2020_MATRIX))
        encode(path, frames, codec, "yuv420p10le", hdr=curve)

    curves = {"pq": _PQ, "hlg": _HLG}
    return {
        f"{name}_{codec}.mp4": Shown(partial(write, curve=curve, codec=codec), 20)
        for (name, curve), codec in product(curves.items(), ("libx265", "libsvtav1"))
    }


def _hdr_signal(shown: Picture, curve: int) -> NDArray[np.float64]:
    """Return an SDR picture as HDR with white at 203 cd/m² (ITU-R BT.2100-2, tables 4 and 5)."""
    to_bt2020 = np.array(
        [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    )
    light = 203 * (shown / 255) ** 2.4 @ to_bt2020.T
    if curve == _PQ:
        power = (light / 10_000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    luma = np.maximum(light @ [0.2627, 0.6780, 0.0593], 1e-6) / 1000
    scene = light / 1000 * luma[..., np.newaxis] ** (1 / 1.2 - 1)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-6)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


# --- clocks and streams


def _clocks() -> dict[str, Shown]:
    regular = [40 * index for index in range(FRAMES)]
    hour = 3_600_000
    pause = [time + (hour if time >= 480 else 0) for time in regular]
    late = [*regular[:-2], hour, hour + 40]
    early = [time - 400 for time in regular]

    def appended(path: Path) -> None:
        memory = [io.BytesIO(), io.BytesIO()]
        for one in memory:
            encode(one, _pictures(FRAMES // 2), "mpeg2video", format="mpegts", options={"g": "6"})
        path.write_bytes(b"".join(one.getvalue() for one in memory))

    without_b = {"x264-params": "bframes=0:threads=1", "crf": "18"}
    # Packets of B-frames in AVI have no times.
    absent = _clip(codec="mpeg4", options={"bf": "2", "qscale": "2"})
    return {
        "clock_pause.mp4": Shown(_clip(milliseconds=pause), detail="jumps"),
        "clock_pause.flv": Shown(_clip(milliseconds=pause, options=without_b), detail="jumps"),
        "clock_bogus_last.mkv": Shown(_clip(milliseconds=late), detail="jumps"),
        "clock_negative.mp4": Shown(_clip(milliseconds=early, options=without_b), first=10),
        "clock_starts_over.ts": Shown(appended, detail="goes back"),
        "clock_absent.avi": Shown(absent),
        "clock_absent.h264": Shown(_clip()),
    }


def _streams() -> dict[str, Shown]:
    nobody = draw_people((160, 120), 0, (0.5, 0.5), 0)

    def write(path: Path, *streams: tuple[bool, bool]) -> None:
        """Write streams, each with a face or without, and with disposition default or without."""
        sources = []
        for with_face, _ in streams:
            memory = io.BytesIO()
            encode(memory, _pictures() if with_face else [nobody] * FRAMES, format="mp4")
            memory.seek(0)
            sources.append(av.open(memory).streams.video[0])
        dispositions = (Disposition(0), Disposition.default)
        _remux(path, sources, [dispositions[is_default] for _, is_default in streams])

    face, none, default, other = True, False, True, False
    orders = {
        "second_default.mkv": [(none, other), (face, default)],
        "second_larger.mp4": [(none, default), (face, default)],
        "third_default.mkv": [(none, other), (none, other), (face, default)],
        "first_default.mkv": [(face, default), (none, other)],
        "none_default_second_larger.ts": [(none, other), (face, other)],
    }
    return {
        f"streams_{name}": Shown(lambda path, order=order: write(path, *order))
        for name, order in orders.items()
    }
