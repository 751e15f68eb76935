"""Augmentations as a page: each of them on crops of the data, and the pairs that training shows."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unmask.config import TrainingConfig
from unmask.report.pages import Section, write_page
from unmask.tables import FACES, VIDEOS, read_table, read_tables
from unmask.training.augmentation import Augmentation, Transform, create_transforms
from unmask.training.backbones import ModelInput
from unmask.training.dataset import FaceDataset, labelled_faces
from unmask.training.recompress import Picture
from unmask.training.sampler import ALONE, BLENDED, SampleId, pair_faces
from unmask.training.transforms import PairMixup
from unmask.vocabulary import Label

logger = logging.getLogger(__name__)

_ROWS, _DRAWS = 4, 6
_CELL = 144
_GAP = 4
_QUALITY = 92

# Transforms that change at least this share of the values, by fewer levels of 255 than this on
# average, are hard to see in the whole crop: its middle is shown, this share of the side.
_CHANGED, _LEVELS, _MIDDLE = 0.3, 8, 0.4


def explore_augmentations(
    ledger: Path, shards: Path, indices: list[Path], config: TrainingConfig, output: Path
) -> None:
    """Write a page that shows every transform by itself, all together, and the kinds of pairs.

    Args:
        ledger: `results/videos.parquet`.
        shards: folder of face shards.
        indices: face indices of all shards.
        config: `augment` and `image_size`; probabilities count where all are shown together.
        output: the page; the pictures are in it.
    """
    faces, samples = _sample_faces(indices, read_table(ledger, VIDEOS))
    single = [SampleId(0, row) for row, _ in samples]
    fakes = [SampleId(0, row, fake) for row, fake in samples if fake != ALONE]
    blended = [SampleId(0, row, BLENDED) for row, _ in samples]
    model_input = ModelInput("shown", config.image_size, (0.5,) * 3, (0.5,) * 3)

    def draw(transforms: list[Transform], ids: list[SampleId]) -> bytes:
        augmentation = Augmentation(transforms, model_input)
        dataset = FaceDataset(faces, shards, model_input, augmentation, seed=0)
        return _grid([_strip(dataset, model_input, sample) for sample in ids])

    sections = []
    for transform in create_transforms(config.augment):
        transform.p = 1
        of_pairs = isinstance(transform, PairMixup)
        if fakes or not of_pairs:
            jpeg = draw([transform], fakes if of_pairs else single)
            sections.append(Section(_heading(transform), _first_sentence(transform), jpeg))
    text = "As configured in `training.augment`."
    jpeg = draw(create_transforms(config.augment), single)
    sections.append(Section("all together", text, jpeg))
    if fakes:
        text = "Originals, each above one of its fakes, as configured."
        jpeg = draw(create_transforms(config.augment), fakes)
        sections.append(Section("paired batches", text, jpeg))
    text = "REAL crops, each above itself blended, without any other augmentation."
    sections.append(Section("self-blended images", text, draw([], blended)))
    write_page(output, "sections.html.j2", title="Augmentations", sections=sections)
    logger.info("%d augmentations of %d crops", len(sections), len(samples))


def _heading(transform: Transform) -> str:
    name = type(transform).__name__
    parts = getattr(transform, "transforms", [])
    return f"{name}: {', '.join(map(_heading, parts))}" if parts else name


def _first_sentence(transform: Transform) -> str:
    line = next(iter((type(transform).__doc__ or "").strip().splitlines()), "")
    return line.partition(". ")[0]


def _sample_faces(
    indices: list[Path], videos: pd.DataFrame
) -> tuple[pd.DataFrame, list[tuple[int, int]]]:
    """Return the faces of some REAL videos and their fakes, and the rows to show.

    Returns:
        The faces, and rows of REAL crops, each with the row of one of its fakes or `ALONE`.
    """
    columns = ["part", "video", "track", "time", "crop_x0", "crop_y0", "crop_side"]
    index = labelled_faces(read_tables(indices, FACES, columns), videos)
    rows = _sample_rows(index)
    shown = index.loc[[row for pair in rows for row in pair if row != ALONE], ["part", "video"]]
    faces = labelled_faces(read_tables(indices, FACES, matching=shown), videos)
    return faces, _sample_rows(faces)


def _sample_rows(faces: pd.DataFrame) -> list[tuple[int, int]]:
    """Return REAL crops of some videos, each with one of its fakes, as far as there are any."""
    originals = pair_faces(faces)
    fakes = {int(real): int(fake) for fake, real in enumerate(originals) if real >= 0}
    real = np.flatnonzero(faces["label"] == Label.REAL)
    candidates = faces.loc[[row for row in real if row in fakes] or real]
    rows = candidates.drop_duplicates(["part", "video"]).index
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).astype(int))
    return [(int(row), fakes.get(int(row), ALONE)) for row in rows[chosen]]


def _strip(dataset: FaceDataset, model_input: ModelInput, sample: SampleId) -> list[list[Picture]]:
    """Return the crops of a sample as stored, and as drawn in some epochs."""
    stored = [
        model_input.resize(dataset.picture(row))
        for row in (sample.row, *([sample.partner] if sample.partner >= 0 else []))
    ]
    drawn = [list(dataset[sample._replace(epoch=epoch)].pictures) for epoch in range(_DRAWS)]
    return [stored * (len(drawn[0]) // len(stored)), *drawn]


def _grid(strips: list[list[list[Picture]]]) -> bytes:
    """Return a JPEG: a column for each draw, a row for each crop, pairs without a gap."""
    share = _share(strips)
    rows = []
    for strip in strips:
        cells = [
            np.concatenate([_cell(picture, share) for picture in pictures]) for pictures in strip
        ]
        rows.append(_joined(cells, axis=1))
    picture = cv2.cvtColor(_joined(rows, axis=0), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def _share(strips: list[list[list[Picture]]]) -> float:
    """Return how much of a crop's side to show: fine changes are seen only in a part of it."""
    changes = [
        np.abs(one.astype(int) - strip[0][number])
        for strip in strips
        for drawn in strip[1:]
        for number, one in enumerate(drawn)
    ]
    fine = np.mean([(one > 0).mean() for one in changes]) > _CHANGED
    return _MIDDLE if fine and np.mean(changes) < _LEVELS else 1.0


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
