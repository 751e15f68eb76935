"""Augmentations as a page: each one on crops of the data, and the pairs of training batches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unmask.config import TrainingConfig
from unmask.faces.images import encode_jpeg
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
_CELL = 144  # pixels
_GAP = 0.03  # of a cell
_QUALITY = 92

# A transform is hard to see in the whole crop if it changes more than this share of the values by
# fewer levels of 255 than this on average. The middle of the crop is shown then, this share of it.
_CHANGED, _LEVELS, _MIDDLE = 0.3, 8, 0.4


def explore_augmentations(
    ledger: Path, shards: Path, indices: list[Path], config: TrainingConfig, output: Path
) -> None:
    """Write a page that shows every transform by itself, all together, and the kinds of pairs.

    Args:
        ledger: `results/videos.parquet`.
        shards: folder of face shards.
        indices: face indices of all shards.
        config: `augment`, `blending` and `image_size`; probabilities of transforms count where all
            are shown together.
        output: the page; the pictures are in it.
    """
    faces, samples = _sample_faces(indices, read_table(ledger, VIDEOS))
    single = [SampleId(0, row) for row, _ in samples]
    fakes = [SampleId(0, row, fake) for row, fake in samples if fake != ALONE]
    blended = [SampleId(0, row, BLENDED) for row, _ in samples]
    model_input = ModelInput("shown", config.image_size, (0.5,) * 3, (0.5,) * 3)

    def draw(transforms: list[Transform], ids: list[SampleId]) -> bytes:
        augmentation = Augmentation(transforms, model_input)
        dataset = FaceDataset(faces, shards, model_input, augmentation, 0, config.blending)
        return _draw_grid(np.array([_strip(dataset, model_input, sample) for sample in ids]))

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
    text = "REAL crops, each above itself blended as configured, without any other augmentation."
    sections.append(Section("self-blended images", text, draw([], blended)))
    write_page(output, "sections.html.j2", title="Augmentations", sections=sections)
    logger.info("%d augmentations of %d crops", len(sections), len(samples))


def _heading(transform: Transform) -> str:
    name = type(transform).__name__
    parts = getattr(transform, "transforms", [])
    return f"{name}: {', '.join(map(_heading, parts))}" if parts else name


def _first_sentence(transform: Transform) -> str:
    return (type(transform).__doc__ or "").strip().partition("\n")[0].partition(". ")[0]


def _sample_faces(
    indices: list[Path], videos: pd.DataFrame
) -> tuple[pd.DataFrame, list[tuple[int, int]]]:
    """Return the faces of some REAL videos and their fakes, and the rows to show of them."""
    columns = ["part", "video", "track", "time", "crop_x0", "crop_y0", "crop_side"]
    index = labelled_faces(read_tables(indices, FACES, columns), videos)
    rows = _sample_rows(index)
    shown = index.loc[[row for pair in rows for row in pair if row != ALONE], ["part", "video"]]
    faces = labelled_faces(read_tables(indices, FACES, matching=shown), videos)
    return faces, _sample_rows(faces)


def _sample_rows(faces: pd.DataFrame) -> list[tuple[int, int]]:
    """Return rows of REAL crops, each with the row of one of its fakes or `ALONE`."""
    originals = pair_faces(faces)
    fakes = {int(real): int(fake) for fake, real in enumerate(originals) if real >= 0}
    real = np.flatnonzero(faces["label"] == Label.REAL)
    candidates = faces.loc[[row for row in real if row in fakes] or real]
    rows = candidates.drop_duplicates(["part", "video"]).index
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).astype(int))
    return [(int(row), fakes.get(int(row), ALONE)) for row in rows[chosen]]


def _strip(
    dataset: FaceDataset, model_input: ModelInput, sample: SampleId
) -> list[Sequence[Picture]]:
    """Return the crops of a sample as stored, and as drawn in some epochs."""
    rows = [row for row in (sample.row, sample.partner) if row >= 0]
    stored = [model_input.resize(dataset.picture(row)) for row in rows]
    drawn = [dataset[sample._replace(epoch=epoch)].pictures for epoch in range(_DRAWS)]
    return [stored * (len(drawn[0]) // len(stored)), *drawn]


def _draw_grid(strips: NDArray[np.uint8]) -> bytes:
    """Return a JPEG: a row per sample, a column per draw, no gap between the crops of a pair.

    Args:
        strips: RGB (samples, 1 + draws, crops of a sample, size, size, 3), stored crops first.
    """
    changes = np.abs(strips[:, 1:].astype(np.int16) - strips[:, :1])
    is_fine = (changes > 0).mean() > _CHANGED and changes.mean() < _LEVELS
    size = strips.shape[3]
    edge = round(size * (1 - _MIDDLE) / 2) if is_fine else 0
    shown = strips[:, :, :, edge : size - edge, edge : size - edge]
    samples, draws, crops, side = shown.shape[:4]
    rows = shown.transpose(0, 2, 3, 1, 4, 5).reshape(samples, crops * side, draws, side, 3)
    gap = (0, max(1, round(_GAP * side)))
    padded = np.pad(rows, ((0, 0), gap, (0, 0), gap, (0, 0)), constant_values=255)
    height, width = padded.shape[1], padded.shape[3]
    sheet = padded.reshape(samples * height, draws * width, 3)
    interpolation = cv2.INTER_AREA if side > _CELL else cv2.INTER_NEAREST
    scaled = cv2.resize(sheet, None, fx=_CELL / side, fy=_CELL / side, interpolation=interpolation)
    return encode_jpeg(np.asarray(scaled[:, :, ::-1]), _QUALITY)
