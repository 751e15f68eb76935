"""The page of the command `predict`: timelines, the frames that count most, and what it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from unmask.faces.crops import Crop
from unmask.faces.images import decode_jpeg, encode_jpeg
from unmask.inference.detector import DeepfakeDetector, Examined
from unmask.inference.meaning import (
    describe,
    explain_probability,
    frames_with_face,
    limits_of,
    warning_of,
)
from unmask.inference.predictor import join_crops, network_inputs
from unmask.inference.records import FaceScore, VideoPrediction
from unmask.inference.saliency import heat_maps
from unmask.report.pages import render_page
from unmask.report.style import GRAY, WIDTH, create_axes
from unmask.vocabulary import Label

PICTURE_SIDE = 480
"""Long side of the pictures of whole frames in pixels."""

_MOMENTS = 4  # of each track
_CROP_SIDE = 224
_QUALITY = 85
_OPACITY = 0.6
_BOX_BGR = (0, 94, 213)  # the colour of FAKE in figures
_COLORS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#D55E00")  # Okabe & Ito (2008)


@dataclass(frozen=True)
class Moment:
    """A face in one frame, as JPEGs."""

    time: float  # in seconds
    probability: float
    picture: bytes  # the whole frame with the face's box
    crop: bytes  # what the network sees
    heat: bytes  # the same under its heat map


@dataclass(frozen=True)
class Strip:
    """The frames of one track that count most."""

    number: int  # of the track, from 1
    probability: float
    moments: list[Moment]  # in order of time


@dataclass(frozen=True)
class Entry:
    """What the page shows of one video."""

    prediction: VideoPrediction
    meaning: str  # empty without a prediction
    seen: int  # number of frames with a face
    timeline: bytes  # SVG; empty without a prediction
    strips: list[Strip]
    towards: Label  # what the heat maps speak for


def create_entry(detector: DeepfakeDetector, examined: Examined) -> Entry:
    """Return what the page shows of a video.

    The frames that count most are those whose faces have the highest probabilities, or the lowest
    if the video's is below the prior. The heat maps are those of the heaviest member.
    """
    prediction, prior = examined.prediction, detector.bundle.config.kaggle.prior
    if prediction.probability is None:
        return Entry(prediction, "", 0, b"", [], Label.FAKE)
    towards = Label.FAKE if prediction.probability >= prior else Label.REAL
    strips, sign = [], 1 if towards == Label.FAKE else -1
    for one in prediction.tracks:
        crops = [crop for crop in examined.crops if crop.track == one.track]
        chosen = np.argsort([-sign * face.probability for face in one.faces], kind="stable")
        rows = sorted(chosen[:_MOMENTS].tolist())
        pairs = [(crops[row], one.faces[row]) for row in rows]
        moments = _moments(detector, examined, pairs, towards)
        strips.append(Strip(one.track + 1, one.probability, moments))
    return Entry(
        prediction,
        explain_probability(prediction.probability, prior),
        frames_with_face(prediction),
        draw_timeline(prediction),
        strips,
        towards,
    )


def render_prediction_page(detector: DeepfakeDetector, entries: Sequence[Entry]) -> str:
    """Return the page of some videos as HTML, with all pictures inside."""
    names = [Path(one.prediction.video).name for one in entries]
    return render_page(
        "prediction.html.j2",
        title=names[0] if len(names) == 1 else f"{len(names)} videos",
        entries=entries,
        lines=[describe(one.prediction) for one in entries],
        warning=warning_of(detector.manifest),
        limits=limits_of(detector.manifest),
        data=detector.manifest.data,
        members=len(detector.bundle.members),
    )


def draw_timeline(prediction: VideoPrediction) -> bytes:
    """Return an SVG of the probability of each track's faces over time."""
    figure, axes = create_axes("", "seconds", "probability of FAKE", (0.8 * WIDTH, 2.4))
    for number, track in enumerate(prediction.tracks):
        axes.plot(
            [face.time for face in track.faces],
            [face.probability for face in track.faces],
            *("o-",),
            color=_COLORS[number % len(_COLORS)],
            markersize=4,
            label=f"track {track.track + 1}",
        )
    axes.axhline(prediction.probability or 0, color=GRAY, linestyle="--", label="video")
    axes.set_ylim(-0.03, 1.03)
    figure.legend(loc="outside upper left", ncols=4)
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _moments(
    detector: DeepfakeDetector,
    examined: Examined,
    faces: Sequence[tuple[Crop, FaceScore]],
    towards: Label,
) -> list[Moment]:
    member, device = detector.bundle.members[0], detector.bundle.device
    joined = join_crops([[crop for crop, _ in faces]])
    images = torch.cat([*network_inputs(member.input, joined.pictures, joined.boxes, device)])
    maps = heat_maps(member.network, images, towards)
    moments = []
    for row, (crop, face) in enumerate(faces):
        seen = member.input.prepare(joined.pictures[row], joined.boxes[row])
        large = cv2.cvtColor(cv2.resize(seen, (_CROP_SIDE, _CROP_SIDE)), cv2.COLOR_RGB2BGR)
        heat = cv2.resize(maps[row], (_CROP_SIDE, _CROP_SIDE))
        pictures = (
            _with_box(examined.pictures[crop.frame], examined.width, face),
            np.asarray(large, np.uint8),
            _under_heat(np.asarray(large, np.uint8), np.asarray(heat, np.float32)),
        )
        encoded = (encode_jpeg(one, _QUALITY) for one in pictures)
        moments.append(Moment(face.time, face.probability, *encoded))
    return moments


def _with_box(picture: bytes, width: int, face: FaceScore) -> NDArray[np.uint8]:
    """Draw a face's box on the picture of a frame of some width; return BGR."""
    drawn = cv2.cvtColor(decode_jpeg(picture, f"frame {face.frame}"), cv2.COLOR_RGB2BGR)
    x0, y0, x1, y1 = (round(one * drawn.shape[1] / width) for one in face.box)
    return np.asarray(cv2.rectangle(drawn, (x0, y0), (x1, y1), _BOX_BGR, 3), np.uint8)


def _under_heat(picture: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    colors = cv2.applyColorMap((255 * heat).round().astype(np.uint8), cv2.COLORMAP_INFERNO)
    opacity = _OPACITY * heat[..., None]
    return np.asarray((1 - opacity) * picture + opacity * colors, np.uint8)
