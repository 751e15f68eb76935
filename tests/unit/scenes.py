"""Scenes composed of the one portrait: people who live, and faces that only look like people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

from unmask.videos.frames import YUV444, Frame

Picture = NDArray[np.uint8]

SIZE = (640, 360)
SECONDS = 10.0
# Head and neck on the portrait, around the face's middle at (223, 120); its face is 92 high.
_TOP, _BOTTOM, _LEFT, _RIGHT = 18, 222, 121, 325
FACE_HEIGHT = 92
_MOUTH, _EYES = (220, 143), ((200, 102), (247, 102))
_PORTRAIT = data.astronaut()
_RNG = np.random.default_rng(0)
_WALL = cv2.GaussianBlur(_RNG.integers(60, 180, (720, 1280, 3)).astype(np.float32), (0, 0), 7)
_WALL = _WALL.astype(np.uint8)
_GRAIN = _RNG.normal(0, 1, (720, 1280, 3)).astype(np.float32)


_MASK = np.zeros((_BOTTOM - _TOP, _RIGHT - _LEFT), np.float32)
_MASK = cv2.ellipse(_MASK, (102, 102), (78, 96), 0, 0, 360, 1.0, -1)
_MASK = cv2.GaussianBlur(_MASK, (0, 0), 3)


@dataclass(frozen=True)
class Head:
    """A head in a scene.

    Attributes:
        x: of the face's middle in pixels.
        y: of the face's middle in pixels.
        height: of the face in pixels.
        mood: how the features are moved, in pixels of the portrait; 0 for the portrait's own.
    """

    x: float
    y: float
    height: float = 90
    mood: float = 0.0


def draw_head(mood: float) -> Picture:
    """Return head and neck with the mouth opened and the eyes narrowed, RGB uint8 (204, 204, 3)."""
    y, x = np.mgrid[_TOP:_BOTTOM, _LEFT:_RIGHT].astype(np.float32)

    def near(point: tuple[int, int], radius: float) -> NDArray[np.float32]:
        return np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * radius**2))

    down = 1.6 * mood * near(_MOUTH, 14) - mood * sum(near(eye, 9) for eye in _EYES)
    aside = 0.5 * mood * near((222, 130), 30)
    moved = cv2.remap(_PORTRAIT, x - aside, y - down, cv2.INTER_LINEAR)
    shade = 1 - 0.05 * abs(mood) * near(_MOUTH, 8)[..., None]
    return np.clip(moved * shade, 0, 255).astype(np.uint8)


def paste(picture: Picture, head: Head) -> None:
    """Draw a head into a picture, softly cut out."""
    scale = head.height / FACE_HEIGHT
    left, top = head.x - scale * (223 - _LEFT), head.y - scale * (120 - _TOP)
    side = int(scale * (_RIGHT - _LEFT)) + 2
    x0, y0 = int(np.floor(left)), int(np.floor(top))
    matrix = np.array([[scale, 0, left - x0], [0, scale, top - y0]])
    drawn = draw_head(head.mood)
    # What bilinear sampling would pass over is averaged before.
    drawn = cv2.GaussianBlur(drawn, (0, 0), 0.4 / scale) if scale < 1 else drawn
    there = cv2.warpAffine(drawn, matrix, (side, side)).astype(np.float32)
    mask = cv2.warpAffine(_MASK, matrix, (side, side))[..., None]
    height, width = picture.shape[:2]
    rows = slice(max(y0, 0), min(y0 + side, height))
    columns = slice(max(x0, 0), min(x0 + side, width))
    inside = (slice(rows.start - y0, rows.stop - y0), slice(columns.start - x0, columns.stop - x0))
    behind = picture[rows, columns]
    picture[rows, columns] = behind * (1 - mask[inside]) + there[inside] * mask[inside]


def film(
    scene: Callable[[float], Sequence[Head]],
    frames: int = 32,
    *,
    size: tuple[int, int] = SIZE,
    noise: float = 2.0,
    start: float = 0.0,
    seconds: float = SECONDS,
    alter: Callable[[Picture, float], Picture] | None = None,
) -> list[Frame]:
    """Film a scene.

    Args:
        scene: time in seconds to the heads, the nearest to the camera last.
        frames: how many, evenly over the film.
        size: width and height in pixels.
        noise: standard deviation of the camera's, in grey levels.
        start: of the film in the scene, seconds; the frames' own times start at 0.
        seconds: of the film.
        alter: what is done to each picture at the end, with its time in the scene.
    """
    shot = []
    for index in range(frames):
        own = index * seconds / frames
        picture = _WALL[: size[1], : size[0]].copy()
        for head in scene(start + own):
            paste(picture, head)
        if alter is not None:
            picture = alter(picture, start + own)
        grain = np.roll(_GRAIN[: picture.shape[0], : picture.shape[1]], 7 * index, (0, 1))
        noisy = cv2.add(picture, noise * grain, dtype=cv2.CV_8U)
        shot.append(to_frame(np.asarray(noisy, np.uint8), index, own))
    return shot


def to_frame(picture: Picture, index: int, time: float) -> Frame:
    """Return an RGB picture as a frame, full range BT.601."""
    height, width = picture.shape[:2]
    luma, red, blue = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb))
    planes = tuple(np.asarray(plane, np.uint8) for plane in (luma, blue, red))
    return Frame(index, time, width, height, YUV444, 2, full_range=True, planes=planes)


def mood_at(time: float) -> float:
    """How someone who talks moves the face."""
    return float(2.5 * np.sin(4.1 * time) + 1.5 * np.sin(9.7 * time + 1))


def sway(time: float, reach: float) -> float:
    """How far a head that is held still by nobody is off its place, in pixels."""
    return float(reach * (np.sin(0.9 * time) + 0.4 * np.sin(2.3 * time + 0.5)))
