"""Tiny real videos and what the first stages make of them, for all tests."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from hypothesis import settings
from numpy.typing import NDArray
from skimage import data

from unmask.config import Config, FacesConfig, FramesConfig

REPOSITORY = Path(__file__).parents[1]
PORTRAIT = data.astronaut()
FACE_CENTRE, FACE_HEIGHT = (223, 120), 114  # on the portrait, in pixels

settings.register_profile("unmask", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("unmask")


def pytest_configure() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts: spinning threads are slow
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    cv2.setNumThreads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


def draw_people(
    size: tuple[int, int], count: int, at: tuple[float, float], phase: float
) -> NDArray[np.uint8]:
    """Draw `count` portraits side by side, moved a little by `phase` in [0, 1]."""
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
) -> Path:
    """Encode a clip of people who move smoothly.

    Args:
        path: the file; its suffix says the container.
        size: width and height in pixels, upright.
        frames: how many.
        fps: frames per second where `milliseconds` does not say the times.
        people: portraits side by side; 0 for saturated colours without a face.
        at: where the face is, as a share of the picture's (or its own panel's) size.
        codec: FFmpeg's name of the encoder.
        pix_fmt: of the encoded planes.
        b_frames: between reference frames at most, as x264's pyramid.
        keyint: frames from one key frame to the next.
        encoder: options of the encoder instead of the usual ones.
        rotation: counter-clockwise degrees that a player turns the stored picture by.
        sound: add an AAC track.
        milliseconds: presentation time of each frame, for a variable rate.
        full_range: luma from 0 to 255, and the stream says so.
        colorspace: FFmpeg's AVColorSpace; 2 for BT.601 without saying so.
        options: of the container.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=dict(options or {})) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = size if rotation % 180 == 0 else size[::-1]
        stream.pix_fmt = pix_fmt
        if codec == "libx264":
            x264 = f"bframes={b_frames}:b-adapt=0:b-pyramid=normal:ref=4:keyint={keyint}:threads=1"
            stream.options = {"crf": "18", "preset": "fast", "x264-params": x264}
        if encoder is not None:
            stream.options = dict(encoder)
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


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    return encode_video


def write_part(folder: Path, entries: Mapping[str, Any]) -> Path:
    """Write a part's metadata.json of `{name: label or original or a whole entry}`."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {name: complete_entry(value) for name, value in entries.items()}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def complete_entry(value: Any) -> Any:
    if value in ("REAL", "FAKE"):
        return {"label": value, "split": "train", "original": None}
    if isinstance(value, str):
        return {"label": "FAKE", "split": "train", "original": value}
    return value


@pytest.fixture(scope="session")
def make_part() -> Callable[..., Path]:
    return write_part


@pytest.fixture(scope="session")
def faces_config() -> FacesConfig:
    return FacesConfig(size=64)


@pytest.fixture(scope="session")
def worked_part(tmp_path_factory: pytest.TempPathFactory, faces_config: FacesConfig) -> Path:
    """A part of two REAL and two FAKE clips and an unreadable file, after the first three stages.

    Holds `part/`, `probe.parquet`, `frames.tar`, `faces/part-00.tar`, `faces/part-00.parquet` and
    `cropped.parquet`.
    """
    from unmask.faces.crops import crop_shard
    from unmask.videos.probe import probe_shard
    from unmask.videos.stream import write_stream

    root = tmp_path_factory.mktemp("worked")
    entries = {"a.mp4": "REAL", "b.mp4": "REAL", "c.mp4": "a.mp4", "d.mp4": "b.mp4"}
    part = write_part(root / "part", entries | {"broken.mp4": "a.mp4", "nobody.mp4": "REAL"})
    for index, name in enumerate(entries):
        encode_video(part / name, at=(0.45 + 0.03 * index, 0.5))
    encode_video(part / "nobody.mp4", people=0)
    (part / "broken.mp4").write_bytes(b"not a video")
    config = Config(frames=FramesConfig(per_video=4))
    probe_shard(part, 0, 1, config.limits, root / "probe.parquet")
    write_stream(part, root / "probe.parquet", config, 1, root / "frames.tar")
    crop_shard(
        root / "frames.tar",
        root / "probe.parquet",
        faces_config,
        root / "faces/part-00.tar",
        root / "faces/part-00.parquet",
        root / "cropped.parquet",
    )
    return root
