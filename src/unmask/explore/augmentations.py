"""Augmentations as a page: each of them on crops of the data, and the pairs that training shows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unmask.config import AugmentConfig, TrainingConfig
from unmask.report.pages import PictureSection, write_page
from unmask.tables import FACES, VIDEOS, read_table, read_tables
from unmask.training.augmentation import NAMES, Augmentation, Picture
from unmask.training.backbones import ModelInput
from unmask.training.dataset import FaceDataset, labelled_faces
from unmask.training.sampler import ALONE, BLENDED, SampleId, pair_faces
from unmask.vocabulary import Label

logger = logging.getLogger(__name__)

_ROWS, _DRAWS = 4, 6
_CELL = 144
_GAP = 4
_QUALITY = 92

# Of these the middle of the crop is shown, large: what they do is too fine to be seen in all of it.
_FINE = ("codec", "downscale", "jpeg", "noise", "blur", "interpolation")
_SAID = {
    "codec": "Encoded with its neighbours in time by x264, and decoded again.",
    "cutout": "Eyes, mouth, nose or half of the face blackened.",
    "downscale": "Made small and large again.",
    "jpeg": "Saved as JPEG.",
    "noise": "Gaussian noise.",
    "blur": "Gaussian blur.",
    "flip": "Mirrored.",
    "interpolation": "Brought to the model's size with another interpolation.",
    "brightness_contrast": "Other brightness and contrast.",
    "rgb_shift": "A constant added to each channel.",
    "color": "Brightness and contrast, or colour noise, or hue and saturation.",
    "gray": "Without colour.",
    "affine": "Moved, turned and scaled.",
}


def explore_augmentations(
    ledger: Path, shards: Path, indices: list[Path], config: TrainingConfig, output: Path
) -> None:
    """Write a page that shows every augmentation by itself, all together, and the kinds of pairs.

    Args:
        ledger: `results/videos.parquet`.
        shards: folder of face shards.
        indices: face indices of all shards.
        config: `augment` and `image_size`; probabilities count where all are shown together.
        output: the page; the pictures are in it.
    """
    faces = labelled_faces(read_tables(indices, FACES), read_table(ledger, VIDEOS))
    samples = _samples(faces)
    single = [SampleId(0, row) for row, _ in samples]
    fakes = [SampleId(0, row, fake) for row, fake in samples if fake != ALONE]
    blended = [SampleId(0, row, BLENDED) for row, _ in samples]
    none = config.augment.model_copy(update={"preset": "none"} | dict.fromkeys(NAMES))

    def only(name: str) -> AugmentConfig:
        return none.model_copy(update={name: 1.0})

    def shown(augment: AugmentConfig, ids: list[SampleId], share: float = 1.0) -> bytes:
        return _grid(_strips(faces, shards, config.image_size, augment, ids), share)

    sections = [
        (name, text, shown(only(name), single, 0.4 if name in _FINE else 1.0))
        for name, text in _SAID.items()
    ]
    together = f"As configured in `training.augment` (preset {config.augment.preset})."
    sections.append(("all together", together, shown(config.augment, single)))
    if fakes:
        text = "Originals, each above one of its fakes, as configured."
        sections.append(("paired batches", text, shown(config.augment, fakes)))
        text = "The same pairs, each picture a mixture of both."
        sections.append(("mixup", text, shown(only("mixup"), fakes)))
    text = "REAL crops above themselves, blended; nothing else is done to them."
    sections.append(("self-blended images", text, shown(none, blended)))
    write_page(
        output,
        "pictures.html.j2",
        title="Augmentations",
        sections=[PictureSection(*section) for section in sections],
    )
    logger.info("%d augmentations of %d crops", len(sections), len(samples))


def _samples(faces: pd.DataFrame) -> list[tuple[int, int]]:
    """Return REAL crops of some videos, each with one of its fakes, as far as there are any."""
    originals = pair_faces(faces)
    fakes = {int(real): int(fake) for fake, real in enumerate(originals) if real >= 0}
    real = np.flatnonzero(faces["label"] == Label.REAL)
    candidates = faces.loc[[row for row in real if row in fakes] or real]
    rows = candidates.drop_duplicates(["part", "video"]).index
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).astype(int))
    return [(int(row), fakes.get(int(row), ALONE)) for row in rows[chosen]]


def _strips(
    faces: pd.DataFrame, shards: Path, size: int, augment: AugmentConfig, ids: list[SampleId]
) -> Iterator[list[list[Picture]]]:
    """Yield, for each sample, its crops as stored and as drawn anew each epoch."""
    model_input = ModelInput("shown", size, (0.5,) * 3, (0.5,) * 3)
    dataset = FaceDataset(faces, shards, model_input, Augmentation(augment, size), seed=0)
    for sample in ids:
        stored = [
            model_input.resize(dataset.picture(row))
            for row in (sample.row, *([sample.partner] if sample.partner >= 0 else []))
        ]
        drawn = [dataset[sample._replace(epoch=draw)].pictures for draw in range(_DRAWS)]
        yield [stored * (len(drawn[0]) // len(stored)), *map(list, drawn)]


def _grid(strips: Iterator[list[list[Picture]]], share: float) -> bytes:
    """Return a JPEG: a column for each draw, a row for each crop, pairs without a gap.

    Args:
        strips: of each sample its crops as stored and as drawn.
        share: how much of a crop's side is shown, around its middle.
    """
    rows = []
    for strip in strips:
        cells = [
            np.concatenate([_cell(picture, share) for picture in pictures]) for pictures in strip
        ]
        rows.append(_joined(cells, axis=1))
    picture = cv2.cvtColor(_joined(rows, axis=0), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def _cell(picture: Picture, share: float) -> Picture:
    edge = round(len(picture) * (1 - share) / 2)
    middle = picture[edge : len(picture) - edge, edge : len(picture) - edge]
    interpolation = cv2.INTER_AREA if len(middle) > _CELL else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(middle, (_CELL, _CELL), interpolation=interpolation), np.uint8)


def _joined(pictures: list[NDArray[np.uint8]], axis: int) -> NDArray[np.uint8]:
    """Join pictures with white gaps."""
    shape = list(pictures[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=axis)
