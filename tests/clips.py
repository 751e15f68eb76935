"""Tiny real clips of moving people, for the fixtures and the hostile part."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange
from numpy.typing import NDArray
from skimage import data

PORTRAIT = data.astronaut()
FACE_CENTRE, FACE_HEIGHT = (223, 120), 114  # on the portrait, in pixels


def draw_people(
    size: tuple[int, int], count: int, at: tuple[float, float], phase: float
) -> NDArray[np.uint8]:
    """Draw `count` portraits side by side, shifted a little by `phase` in [0, 1]."""
    width, height = size
    if not count:
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        colours = np.stack([x, 1 - x, 0.9 * y + 0.1 * phase], axis=2)
        return (20 + 215 * colours).astype(np.uint8)
    panel = width // count
    scale = 0.55 * min(panel, height) / FACE_HEIGHT
    sway = 0.04 * np.sin(2 * np.pi * phase)
    x, y = panel * (at[0] + sway), height * (at[1] + sway / 2)
    matrix = np.array(
        [[scale, 0, x - scale * FACE_CENTRE[0]], [0, scale, y - scale * FACE_CENTRE[1]]]
    )
    picture = np.zeros((height, width, 3), np.uint8)
    for index in range(count):
        right = width if index == count - 1 else panel * (index + 1)
        target = (right - panel * index, height)
        drawn = cv2.warpAffine(PORTRAIT, matrix, target, borderMode=cv2.BORDER_REFLECT)
        picture[:, panel * index : right] = drawn
    return picture


# The same bytes on every run: no threads inside an encoder, and no macroblock tree in x264, whose
# assembly reads beyond a picture of 160 columns.
_X264 = "threads=1:mbtree=0"
_ENCODERS = {
    "libx264rgb": {"preset": "fast", "crf": "18", "x264-params": _X264},
    "libx265": {"x265-params": "pools=1:frame-threads=1:log-level=none", "preset": "ultrafast"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
}


def encoder_options(codec: str, b_frames: int = 3, keyint: int = 48) -> dict[str, str]:
    """Return options with which an encoder is fast and writes the same bytes on every run."""
    if codec != "libx264":
        return dict(_ENCODERS.get(codec, {}))
    structure = f"bframes={b_frames}:b-adapt=0:b-pyramid=normal:ref=4:keyint={keyint}"
    return {"crf": "18", "preset": "fast", "x264-params": f"{structure}:{_X264}"}


def encode_video(
    path: Path,
    size: tuple[int, int] = (160, 120),
    frames: int = 24,
    fps: int = 24,
    *,
    people: int = 1,
    at: tuple[float, float] = (0.5, 0.5),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    b_frames: int = 3,
    keyint: int = 48,
    encoder: Mapping[str, str] | None = None,
    rotation: int = 0,
    sound: bool = False,
    milliseconds: Sequence[int] | None = None,
    full_range: bool = False,
    colorspace: int = 2,
    options: Mapping[str, str] | None = None,
    change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
) -> Path:
    """Encode a clip of people who move smoothly.

    Args:
        path: the file; its suffix selects the container.
        size: width and height in pixels, upright.
        frames: number of frames.
        fps: frames per second, unless `milliseconds` gives the times.
        people: portraits side by side; 0 for saturated colours without a face.
        at: position of the face, relative to the size of the picture (or of its own panel).
        codec: FFmpeg's name of the encoder.
        pix_fmt: pixel format of the encoded planes.
        b_frames: at most so many between reference frames, as x264's pyramid.
        keyint: frames from one key frame to the next.
        encoder: options of the encoder that replace `encoder_options`.
        rotation: counter-clockwise degrees by which a player turns the stored picture.
        sound: add an AAC track.
        milliseconds: presentation time of each frame, for a variable rate.
        full_range: luma from 0 to 255, declared in the stream.
        colorspace: FFmpeg's AVColorSpace; 2 for BT.601 without declaring it.
        options: of the container.
        change: function applied to each drawn picture, uint8 (height, width, 3).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(
        str(path), "w", options={"fflags": "+bitexact"} | dict(options or {})
    ) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = size if rotation % 180 == 0 else size[::-1]
        stream.pix_fmt = pix_fmt
        defaults = encoder_options(codec, b_frames, keyint)
        stream.options = defaults if encoder is None else dict(encoder)
        if milliseconds:
            stream.codec_context.time_base = Fraction(1, 1000)
        if full_range:
            stream.codec_context.color_range = ColorRange.JPEG
        if colorspace != 2:
            stream.codec_context.colorspace = colorspace
        if rotation:
            stream.set_display_rotation(rotation)
        audio = container.add_stream("aac", rate=44100, layout="mono") if sound else None
        for index in range(frames):
            drawn = draw_people(size, people, at, index / max(1, frames - 1))
            if change is not None:
                drawn = change(drawn)
            stored = np.ascontiguousarray(np.rot90(drawn, -rotation // 90))
            frame = av.VideoFrame.from_ndarray(stored, format="rgb24").reformat(
                format=pix_fmt,
                dst_color_range=ColorRange.JPEG if full_range else None,
                dst_colorspace=None if colorspace == 2 else colorspace,
            )
            if milliseconds:
                frame.pts, frame.time_base = milliseconds[index], Fraction(1, 1000)
            else:
                frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            for index in range(int(44100 * frames / fps / 1024)):
                tone = np.sin(np.arange(1024) / 20).astype(np.float32)[None] / 4
                block = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                block.sample_rate, block.pts = 44100, index * 1024
                container.mux(audio.encode(block))
            container.mux(audio.encode())
    return path


def write_sound(path: Path, cover: bool = False) -> Path:
    """Write a file with an AAC track of silence and, if wanted, a cover picture."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=44100, layout="mono")
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width = picture.height = 32
            picture.pix_fmt = "yuvj420p"
            picture.disposition = Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame(32, 32, "yuvj420p")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 44100
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    return path
