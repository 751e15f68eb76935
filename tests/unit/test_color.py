"""Colours, scaling and squares are those of FFmpeg's own pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from unmask.videos.color import picture_bgr, square_bgr
from unmask.videos.frames import Frame
from unmask.videos.sampling import sample_frames

MakeVideo = Callable[..., Path]


def sample(path: Path, count: int) -> list[Frame]:
    return list(sample_frames(f"file:{path}", count))


def whole(frame: Frame) -> NDArray[np.uint8]:
    return picture_bgr(frame, frame.width, frame.height)


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.int16]:
    assert a.shape == b.shape
    return np.abs(np.subtract(a, b, dtype=np.int16))


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("a.mp4", {}),
        ("a.mp4", {"pix_fmt": "yuv444p"}),
        ("a.mp4", {"pix_fmt": "yuv422p"}),
        ("a.mp4", {"pix_fmt": "yuv420p10le"}),
        ("a.mp4", {"pix_fmt": "yuv420p10le", "full_range": True}),
        ("a.mp4", {"pix_fmt": "yuv420p", "full_range": True}),
        ("a.mp4", {"pix_fmt": "yuv422p", "full_range": True}),
        ("a.mp4", {"pix_fmt": "yuv444p", "full_range": True}),
        ("a.mp4", {"pix_fmt": "gray"}),
        ("a.mp4", {"colorspace": 1}),
        ("a.mp4", {"colorspace": 1, "pix_fmt": "yuv422p"}),
        ("a.mp4", {"size": (161, 121), "pix_fmt": "yuv444p"}),
        ("a.mkv", {"size": (161, 121), "codec": "ffv1"}),
        ("a.mkv", {"codec": "ffv1", "pix_fmt": "bgr0"}),
        ("a.avi", {"size": (161, 121), "codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    ],
)
def test_colours_are_those_of_ffmpeg(
    name: str, encoding: dict[str, Any], make_video: MakeVideo, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / name, frames=5, people=0, **encoding)
    with av.open(str(clip)) as container:
        every = {float(frame.time): frame for frame in container.decode(video=0)}
    for frame in sample(clip, 2):
        # FFmpeg's direct way from 4:2:2 and 10 bits rounds down; a wrong matrix or range would
        # be off by more than 6 levels on these saturated colours.
        converted = every[frame.time].to_ndarray(format="bgr24")
        assert difference(whole(frame), converted).mean() < 2.5


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
@pytest.mark.parametrize("square", [(0, 0, 48), (12, 6, 32), (62, 46, 2), (16, 0, 48)])
def test_a_square_equals_the_same_square_of_the_whole(
    square: tuple[int, int, int], pix_fmt: str, make_video: MakeVideo, tmp_path: Path
) -> None:
    frame = sample(make_video(tmp_path / "a.mp4", (64, 48), 2, pix_fmt=pix_fmt), 1)[0]
    x0, y0, side = square
    found = difference(
        square_bgr(frame, x0, y0, side, side), whole(frame)[y0 : y0 + side, x0 : x0 + side]
    )
    if pix_fmt == "yuv444p":
        assert found.max() == 0
    else:  # where it is cut, chroma lacks the neighbours that it is interpolated from
        assert found[2:-2, 2:-2].max(initial=0) <= 2
        assert found.mean() < 1


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
@pytest.mark.parametrize(
    ("x0", "y0", "side"),
    [(-20, 10, 40), (50, -6, 30), (-10, -10, 90), (40, 30, 60), (-60, 4, 40), (70, 60, 20)],
)
def test_outside_of_the_picture_a_square_repeats_its_edge(
    x0: int, y0: int, side: int, pix_fmt: str, make_video: MakeVideo, tmp_path: Path
) -> None:
    frame = sample(make_video(tmp_path / "a.mp4", (64, 48), 2, pix_fmt=pix_fmt), 1)[0]
    columns = np.clip(np.arange(x0, x0 + side), 0, 63)
    rows = np.clip(np.arange(y0, y0 + side), 0, 47)
    found = difference(square_bgr(frame, x0, y0, side, side), whole(frame)[rows][:, columns])
    assert found.mean() < (2 if pix_fmt == "yuv420p" else 1e-9)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
@pytest.mark.parametrize("size", [(80, 60), (40, 30), (100, 75), (53, 47)])
def test_a_picture_made_smaller_is_the_average_of_its_areas(
    size: tuple[int, int], pix_fmt: str, make_video: MakeVideo, tmp_path: Path
) -> None:
    frame = sample(make_video(tmp_path / "a.mp4", frames=1, pix_fmt=pix_fmt), 1)[0]
    small = picture_bgr(frame, *size)
    assert small.shape == (size[1], size[0], 3)
    averaged = cv2.resize(whole(frame), size, interpolation=cv2.INTER_AREA)
    assert difference(small, np.asarray(averaged, np.uint8)).mean() < 2.5


def test_a_square_is_scaled_without_a_shift(make_video: MakeVideo, tmp_path: Path) -> None:
    frame = sample(make_video(tmp_path / "a.mp4", (320, 240), 1), 1)[0]
    exact = whole(frame)[20:220, 60:260]
    for size in (64, 130, 256):
        scaled = square_bgr(frame, 60, 20, 200, size)
        assert scaled.shape == (size, size, 3)
        back = np.asarray(cv2.resize(scaled, (200, 200), interpolation=cv2.INTER_CUBIC), np.uint8)
        shifted = [
            difference(back[8:-8, 8:-8], exact[8 + y : 192 + y, 8 + x : 192 + x]).mean()
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
        ]
        assert int(np.argmin(shifted)) == 4, size  # not moved
