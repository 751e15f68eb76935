"""Properties of a video, and how they differ from those of the videos a bundle was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmask.faces.crops import Crop


@dataclass(frozen=True)
class Properties:
    """Properties of a video; None where they are unknown."""

    width: float | None  # of the picture in pixels
    height: float | None
    frame_rate: float | None  # frames per second
    bits_per_pixel: float | None  # of the compressed pictures
    face_width: float | None  # median over its faces, in pixels of the picture
    brightness: float | None  # mean luma of its face crops, 0 to 255
    codec: str | None  # FFmpeg's name


@dataclass(frozen=True)
class TrainingData:
    """What a bundle's models were trained and tested on."""

    labels: dict[str, int]  # label to number of videos
    methods: dict[str, int]  # how the FAKE ones were made, where that is known
    sources: dict[str, int]  # collection to number of videos
    codecs: dict[str, int]  # FFmpeg's name to number of videos
    ranges: dict[str, tuple[float, float]]  # 5th and 95th percentile of a field of `Properties`


@dataclass(frozen=True)
class _Words:
    what: str  # the property and its verb
    low: str  # what a video below the range is
    high: str
    unit: str
    digits: int = 0


_WORDS = {
    "width": _Words("picture is", "narrower", "wider", "pixels wide"),
    "height": _Words("picture is", "lower", "higher", "pixels high"),
    "frame_rate": _Words("frame rate is", "lower", "higher", "frames per second"),
    "bits_per_pixel": _Words(
        "compression is", "stronger", "weaker", "bits per pixel and frame", digits=3
    ),
    "face_width": _Words("faces are", "smaller", "larger", "pixels wide"),
    "brightness": _Words("faces are", "darker", "brighter", "of 255 in mean brightness"),
}
RANGES = tuple(_WORDS)
"""The fields of `Properties` that have ranges."""


def properties_of(container: Mapping[str, Any], crops: Sequence[Crop]) -> Properties:
    """Return the properties of a video.

    Args:
        container: its columns of `unmask.tables.PROBE`; may lack any.
        crops: of its faces.
    """
    width, height, rate = (container.get(f"video_{name}") for name in ("width", "height", "fps"))
    widths = [float(crop.box[2] - crop.box[0]) for crop in crops]
    return Properties(
        width=width,
        height=height,
        frame_rate=rate,
        bits_per_pixel=bits_per_pixel(container.get("video_bit_rate"), width, height, rate),
        face_width=float(np.median(widths)) if crops else None,
        brightness=float(np.mean([crop.brightness for crop in crops])) if crops else None,
        codec=container.get("video_codec_name"),
    )


def bits_per_pixel(bits: Any, width: Any, height: Any, rate: Any) -> Any:
    """Return the bits per pixel of each frame, of numbers or of arrays; None where one is absent.

    `bits` are per second, `rate` are frames per second.
    """
    known = [one is not None for one in (bits, width, height, rate)]
    return bits / (width * height * rate) if all(known) else None


def differences(video: Properties, data: TrainingData) -> list[str]:
    """Return a sentence for each property that few of the training videos have."""
    return list(_differences(video, data))


def _differences(video: Properties, data: TrainingData) -> Iterator[str]:
    for name, (low, high) in data.ranges.items():
        value, words = getattr(video, name, None), _WORDS.get(name)
        if value is None or words is None or low <= value <= high:
            continue
        than = words.low if value < low else words.high
        ends = " to ".join(f"{one:,.{words.digits}f}" for one in (low, high))
        yield (
            f"Its {words.what} {than} than in 95 % of the training videos: "
            f"{value:,.{words.digits}f} {words.unit}; nine in ten of them have {ends}."
        )
    if video.codec is not None and video.codec not in data.codecs:
        known = ", ".join(data.codecs)
        yield f"It is encoded with {video.codec}; the training videos are encoded with {known}."
