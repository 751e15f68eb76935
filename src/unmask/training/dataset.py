"""Crops as tensors: the dataset and its loaders.

A sample is a function of its `SampleId` and the seed, whatever the number of workers. Pictures stay
bytes until they are on the model's device (`ModelInput.normalize`), which takes a quarter of the
memory and of the traffic between processes.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing.sharedctypes
import multiprocessing.util
import os
import signal
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple, TypedDict

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unmask.config import BlendingConfig, TrainingConfig
from unmask.faces.boxes import in_crops
from unmask.faces.images import decode_jpeg, resize_crop
from unmask.faces.shards import ShardReader
from unmask.training.augmentation import Augmentation, create_augmentation
from unmask.training.backbones import ModelInput
from unmask.training.face_masks import Face
from unmask.training.recompress import Picture
from unmask.training.sampler import (
    ALONE,
    BLENDED,
    Crops,
    EpochSampler,
    SampleId,
    describe_epoch,
    explain_auto,
    sample_seed,
)
from unmask.training.self_blending import FaceCrop, Lookalikes, self_blend
from unmask.training.transforms import StoredCrop
from unmask.vocabulary import Label, Verdict

logger = logging.getLogger(__name__)

_BOX, _SQUARE = ["x0", "y0", "x1", "y1"], ["crop_x0", "crop_y0", "crop_side"]
# Columns of a face index that scoring needs, and those that pairs and augmentation need as well.
# Landmarks are most of an index.
SCORE_COLUMNS = ("part", "video", "track", "shard", "key", "offset", "size", *_BOX, *_SQUARE)
TRAIN_COLUMNS = (*SCORE_COLUMNS, "time", "landmarks", "landmarks_68")
# Times that differ by less than half a frame at 30 frames a second are the same moment.
_SAME_TIME_S = 1 / 60


class Batch(TypedDict):
    """A collated batch of n crops; the two of a pair are neighbours, the REAL one first."""

    image: Tensor  # uint8 (n, 3, size, size), RGB, not normalised; in memory, channels come last
    label: Tensor  # float32 (n,), 1 for FAKE; between where the target is soft
    # int64 (n,), row in the dataset's face index; of a blended crop, its REAL crop's row
    row: Tensor


class Sample(NamedTuple):
    """One crop, or a pair."""

    pictures: Sequence[Picture]  # RGB uint8 (size, size, 3) each
    targets: Sequence[float]  # probability of FAKE of each
    rows: Sequence[int]  # row of each in the face index


class FaceDataset(Dataset[Sample]):
    """Face crops with their labels, read from shards by offset.

    Columns are arrays. Python objects would be copied into each worker page by page, as their
    reference counts change, and memory would grow with every epoch.
    """

    def __init__(
        self,
        faces: pd.DataFrame,
        folder: Path,
        model_input: ModelInput,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        blending: BlendingConfig | None = None,
    ) -> None:
        """Keep the columns that samples are read with.

        Args:
            faces: rows of the face index with `SCORE_COLUMNS`, to augment with `TRAIN_COLUMNS` and
                `family`, sorted as its files are; with a `label`, or a `target` from
                `treat_label_noise`.
            folder: the folder of shards.
            model_input: size and normalisation.
            augmentation: of crops; None only resizes them.
            seed: of the augmentation.
            blending: how `BLENDED` samples are made; None for the defaults.
        """
        target = faces["target"] if "target" in faces else faces["label"] == Label.FAKE
        self.targets = np.asarray(target, np.float32)
        self._keys = pa.array(faces["key"])
        shard, names = pd.factorize(faces["shard"])
        self._shards, self._shard_names = shard.astype(np.int32), list(names)
        self._offsets = faces["offset"].to_numpy()
        self._sizes = faces["size"].to_numpy()
        self._people = faces.groupby(["part", "video", "track"], sort=False).ngroup().to_numpy()
        self._reader = ShardReader(folder)
        self._input = model_input
        self._augmentation = augmentation
        self._seed = seed
        self._boxes = face_boxes(faces)
        if augmentation is not None:
            self._families = pd.factorize(faces["family"])[0]
            self._times = faces["time"].to_numpy()
            self._squares = faces[_SQUARE].to_numpy(np.float32)
            five = _stacked(faces["landmarks"], 5)
            self._landmarks = np.full((len(faces), 5, 2), np.nan) if five is None else five
            self._landmarks_68 = _stacked(faces["landmarks_68"], 68)
            self._blending = blending or BlendingConfig()
            people = pd.factorize(faces["group" if "group" in faces else "family"])[0]
            real = faces["label"] == Label.REAL
            self._lookalikes = Lookalikes(self._landmarks, people, real.to_numpy())

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, sample: SampleId) -> Sample:
        epoch, row, partner, number = sample
        if partner == BLENDED:
            rows, targets = [row, row], [0.0, 1.0]
        else:
            rows = [row] if partner == ALONE else [row, partner]
            targets = self.targets[rows].tolist()
        if self._augmentation is None:
            pictures = [self._input.prepare(self.picture(one), self._boxes[one]) for one in rows]
            return Sample(pictures, targets, rows)
        seed = sample_seed(self._seed, epoch, row, number)
        if partner == BLENDED:
            pictures, crops = self._blended(row, seed)
        else:
            pictures, crops = self._stored(rows)
        is_aligned = len(rows) == 2 and self._are_aligned(*rows)
        pictures, share = self._augmentation(pictures, crops, seed, is_aligned)
        if share is not None:
            real, fake = targets
            targets = [(1 - t) * real + t * fake for t in (share, 1 - share)]
        return Sample(pictures, targets, rows)

    def _stored(self, rows: Sequence[int]) -> tuple[list[Picture], list[StoredCrop]]:
        """Return stored crops, and what transforms may ask of them."""

        def neighbours(row: int, reach: int) -> list[Picture]:
            return [self.picture(near) for near in self._around(row, reach)]

        pictures = [self.picture(row) for row in rows]
        if len(np.unique(self._families[rows])) > 1:
            pictures = _equally_sharp(pictures, round(float(self._squares[rows, 2].min())))
        faces = [self.face(row, len(picture)) for row, picture in zip(rows, pictures, strict=True)]
        return pictures, [
            StoredCrop(face, partial(neighbours, row))
            for row, face in zip(rows, faces, strict=True)
        ]

    def _blended(self, row: int, seed: int) -> tuple[list[Picture], list[StoredCrop]]:
        """Return a REAL crop and its blended copy, and what transforms may ask of them."""
        other = self._draw_other(row, np.random.default_rng((seed, 1)))
        source = None if other is None else self._face_crop(other)
        real = self._face_crop(row)

        @cache
        def blended(near: int) -> tuple[Picture, ...]:
            crop = real if near == row else FaceCrop(self.picture(near), real.face)
            return self_blend(crop, seed, self._blending, source)[:2]

        def neighbours(which: int, reach: int) -> list[Picture]:
            return [blended(int(near))[which] for near in self._around(row, reach)]

        pictures = [neighbours(which, 0)[0] for which in (0, 1)]
        return pictures, [StoredCrop(real.face, partial(neighbours, which)) for which in (0, 1)]

    def _draw_other(self, row: int, rng: np.random.Generator) -> int | None:
        """Return the row whose face is blended in; None for the crop's own face."""
        drawn = rng.random()
        if drawn < self._blending.other_person:
            return self._lookalikes.draw(row, rng)
        if drawn < self._blending.other_person + self._blending.other_moment:
            person = self._people[row]
            first, end = np.searchsorted(self._people, (person, person + 1))
            moment = int(rng.integers(first, end))
            return moment if np.isfinite(self._landmarks[[row, moment]]).all() else None
        return None

    def _face_crop(self, row: int) -> FaceCrop:
        picture = self.picture(row)
        return FaceCrop(picture, self.face(row, len(picture)))

    def picture(self, row: int) -> Picture:
        """Return a stored crop, RGB uint8 (h, w, 3).

        Raises:
            UnmaskError: it cannot be read; the message names the crop and the shard.
        """
        shard = self._shard_names[self._shards[row]]
        data = self._reader.read(shard, int(self._offsets[row]), int(self._sizes[row]))
        return decode_jpeg(data, f"{self._keys[row].as_py()} of {shard}")

    def face(self, row: int, side: int) -> Face:
        """Return the position of the face in a crop of `side` pixels."""
        more = None if self._landmarks_68 is None else self._landmarks_68[row]
        return Face(self._boxes[row] * side, self._landmarks[row], more)

    def _around(self, row: int, reach: int) -> NDArray[np.int64]:
        """Return a row and its neighbours in the track; at the ends of a track the last repeats."""
        if not reach:
            return np.array([row])
        rows = np.clip(np.arange(row - reach, row + reach + 1), 0, len(self) - 1)
        same = rows[self._people[rows] == self._people[row]]
        return np.clip(rows, same[0], same[-1])

    def _are_aligned(self, row: int, other: int) -> bool:
        """Return whether two crops can be mixed: same family, square and moment."""
        apart = abs(self._times[row] - self._times[other])
        same_square = (self._squares[row] == self._squares[other]).all()
        same_family = self._families[row] == self._families[other]
        return bool(same_family and same_square and apart < _SAME_TIME_S)


def _equally_sharp(pictures: Sequence[Picture], side: int) -> list[Picture]:
    """Return crops of different videos at the resolution of the coarser one, in their own size.

    Otherwise the resolution of a source could reveal the label.

    Args:
        pictures: RGB uint8 (h, h, 3) each.
        side: of the smaller square that they were cut from, in pixels of its video.
    """
    side = min(side, len(pictures[0]))
    return [resize_crop(resize_crop(one, side), len(one)) for one in pictures]


def _stacked(column: pd.Series, points: int) -> NDArray[np.float32] | None:
    """Return a column of flat lists of landmarks as float32 (n, points, 2), NaN where missing."""
    missing = column.isna().to_numpy()
    if missing.all():
        return None
    stacked = np.full((len(column), points, 2), np.nan, np.float32)
    stacked[~missing] = np.stack(column[~missing].to_list()).reshape(-1, points, 2)
    return stacked


def face_boxes(faces: pd.DataFrame) -> NDArray[np.float32]:
    """Return the boxes of the faces of an index in units of their crop's side, float32 (n, 4)."""
    return in_crops(faces[_BOX], faces[_SQUARE])


def collate(samples: Sequence[Sample]) -> Batch:
    """Return samples as one batch, in which the crops of a pair are neighbours."""
    pictures = np.stack([picture for sample in samples for picture in sample.pictures])
    targets = [target for sample in samples for target in sample.targets]
    rows = [int(row) for sample in samples for row in sample.rows]
    return {
        "image": torch.from_numpy(pictures).permute(0, 3, 1, 2),
        "label": torch.tensor(targets, dtype=torch.float32),
        "row": torch.tensor(rows),
    }


def create_train_loader(
    faces: pd.DataFrame,
    folder: Path,
    model_input: ModelInput,
    config: TrainingConfig,
    seed: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Batch]:
    """Create the loader of training batches, whose `sampler` is an `EpochSampler`.

    Args:
        faces: see `FaceDataset`; with `family`, `source` and `group`.
        folder: the folder of shards.
        model_input: size of the pictures.
        config: the experiment.
        seed: of order and augmentation.
        workers: processes that prepare batches; with 0 the training process does it.
        rank: number of this training process.
        world_size: number of training processes.

    Raises:
        UnmaskError: an augmentation is wrong, epochs are empty, or the processes cannot share a
            step evenly.
    """
    augmentation = create_augmentation(config.augment, model_input)
    dataset = FaceDataset(faces, folder, model_input, augmentation, seed, config.blending)
    crops = Crops.of(faces, dataset.targets)
    sampler = EpochSampler(crops, config, seed, rank, world_size)
    if rank == 0:
        if config.batches == "auto":
            logger.info("%s", explain_auto(crops))
        logger.info("%s", describe_epoch(faces, crops, sampler.units(0)))
    return _create_loader(dataset, sampler, sampler.batch_size, workers)


def create_score_loader(
    faces: pd.DataFrame,
    folder: Path,
    model_input: ModelInput,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Batch]:
    """Create a loader of every row once, in order, without augmentation.

    Each of `world_size` processes loads every `world_size`-th row; no row is padded or repeated.
    """
    dataset = FaceDataset(faces, folder, model_input)
    rows = [SampleId(0, row) for row in range(rank, len(dataset), world_size)]
    return _create_loader(dataset, rows, batch_size, workers)


def create_blended_loader(
    faces: pd.DataFrame,
    folder: Path,
    model_input: ModelInput,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Batch]:
    """Create a loader of REAL crops, each next to itself blended, the same in each epoch and run.

    Half of them are compressed, as in the preset `sbi`; then they are cut as for scoring.
    """
    margin = model_input.margin
    transforms: list[dict[str, Any]] = [
        {"ImageCompression": {"quality_range": [40, 100], "p": 0.5}}
    ]
    if margin is not None:
        transforms.append({"TightCrop": {"margin": [margin, margin]}})
    dataset = FaceDataset(faces, folder, model_input, create_augmentation(transforms, model_input))
    rows = [SampleId(0, row, BLENDED) for row in range(rank, len(dataset), world_size)]
    return _create_loader(dataset, rows, max(1, batch_size // 2), workers)


def _create_loader(
    dataset: FaceDataset,
    sampler: EpochSampler | Sequence[SampleId],
    batch_size: int,
    workers: int,
) -> DataLoader[Batch]:
    # In the parent too: a forked worker would wait forever for OpenCV threads that only the parent
    # has.
    _use_one_thread()
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=partial(_start_worker, _exiting_flag(os.getpid())),
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        # Its own generator: the one of training must not depend on how often a loader starts.
        generator=torch.Generator(),
    )


def _use_one_thread() -> None:
    """Keep OpenCV from starting a thread for every core in each process."""
    cv2.setNumThreads(1)


@cache
def _exiting_flag(process: int) -> ctypes.c_bool:
    """Return a flag shared with workers, set when this process exits, before it terminates them.

    Args:
        process: PID of this process; a fork needs a flag of its own.
    """
    exiting = multiprocessing.sharedctypes.RawValue(ctypes.c_bool, False)
    multiprocessing.util.Finalize(None, setattr, (exiting, "value", True), exitpriority=0)
    return exiting


def _start_worker(exiting: ctypes.c_bool, worker: int) -> None:
    """Prepare a worker: it uses one thread, and ignores SIGTERM until its parent exits.

    A cluster that takes a node away sends SIGTERM to all processes of a job, and the parent needs
    its workers to finish the step after which it writes a checkpoint. A worker that loses its
    parent exits by itself.
    """
    _use_one_thread()

    def exit_with_parent(number: int, frame: FrameType | None) -> None:
        if exiting.value:
            os._exit(0)

    signal.signal(signal.SIGTERM, exit_with_parent)


def loader_workers(threads: int) -> int:
    """Return how many of a job's threads decode and augment crops; 0 if it has one thread.

    It is half of them, or all but one if the network runs on a GPU: an H100 takes 3,000 crops a
    second, of which a core prepares a few hundred.
    """
    return threads - 1 if torch.cuda.is_available() else threads // 2


def labelled_faces(index: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Join the face index with label, family, source, group, fold and role, where present."""
    known = ("label", "family", "source", "group", "fold", "role")
    columns = [name for name in known if name in splits]
    return index.merge(splits[["part", "video", *columns]], on=["part", "video"], how="inner")


def treat_label_noise(
    faces: pd.DataFrame,
    noise: pd.DataFrame,
    policy: Literal["drop", "soft", "keep"],
    soft_target: float,
) -> pd.DataFrame:
    """Return training faces without those that look like their original, or with other targets.

    This is for training alone: validation and test use all faces, with the labels of their videos.

    Args:
        faces: face index with a `label` column.
        noise: verdicts of the label audit on FAKE tracks, see `unmask.tables.NOISE`; a track
            without a verdict keeps its label.
        policy: `drop` leaves unswapped and uncertain faces out. `soft` gives an unswapped face the
            target 0, since it is REAL, and an uncertain face `soft_target`. `keep` changes nothing.
        soft_target: probability of FAKE of an uncertain face.

    Returns:
        The faces with a `target` column, 1 for FAKE.
    """
    target = (faces["label"] == Label.FAKE).astype(np.float32)
    if policy == "keep":
        return faces.assign(target=target)
    key = ["part", "video", "track"]
    verdict = faces[key].merge(noise[[*key, "verdict"]], on=key, how="left")["verdict"].to_numpy()
    fake = faces["label"] == Label.FAKE
    unswapped = fake & (verdict == Verdict.UNSWAPPED)
    uncertain = fake & (verdict == Verdict.UNCERTAIN)
    if policy == "drop":
        kept: pd.DataFrame = faces.assign(target=target).loc[~(unswapped | uncertain)]
        return kept
    return faces.assign(target=target.mask(unswapped, 0.0).mask(uncertain, soft_target))
