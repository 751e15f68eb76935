"""Crops as tensors: the dataset and the sampler.

The sampler hands out (epoch, row) pairs, and a sample is a function of (seed, epoch, row): the
number of workers, which worker takes it and in which order cannot change it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from unmask.config import TrainingConfig
from unmask.faces.crops import decode_jpeg
from unmask.faces.shards import ShardReader
from unmask.tables import Label, Verdict
from unmask.training.augment import Augmentation, create_augmentation
from unmask.training.backbones import ModelInput

# From here on a soft target counts as FAKE where classes are balanced.
HALF = 0.5


class SampleId(NamedTuple):
    """Which sample: the row of the face index as the epoch sees it."""

    epoch: int
    row: int


class Batch(TypedDict):
    """A collated batch of n crops.

    Keys:
        image: float32 (n, 3, size, size), normalised.
        label: float32 (n,), 1 for FAKE; between where the target is soft.
        row: int64 (n,), row in the dataset's face index.
    """

    image: Tensor
    label: Tensor
    row: Tensor


class FaceDataset(Dataset[dict[str, Tensor]]):
    """Face crops with their labels, read from shards by offset."""

    def __init__(
        self,
        faces: pd.DataFrame,
        folder: Path,
        model_input: ModelInput,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        """Take the rows to read.

        Args:
            faces: face index with a `label` column, or with a `target` column of its own as
                `treat_label_noise` adds it.
            folder: the folder of shards.
            model_input: size and normalisation.
            augmentation: applied to each crop; None leaves crops as they are.
            seed: of the augmentation.
        """
        target = faces["target"] if "target" in faces else faces["label"] == Label.FAKE
        self.targets = target.to_numpy(np.float32)
        self._keys = faces["key"].to_list()
        self._shards = faces["shard"].to_list()
        self._offsets = faces["offset"].to_numpy()
        self._sizes = faces["size"].to_numpy()
        self._reader = ShardReader(folder)
        self._input = model_input
        self._augmentation = augmentation
        self._seed = seed

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, sample: SampleId) -> dict[str, Tensor]:
        epoch, row = sample
        data = self._reader.read(self._shards[row], int(self._offsets[row]), int(self._sizes[row]))
        crop = decode_jpeg(data, self._keys[row])
        if self._augmentation is not None:
            crop = self._augmentation(crop, sample_seed(self._seed, epoch, row))
        return {
            "image": self._input.prepare(crop),
            "label": torch.tensor(self.targets[row]),
            "row": torch.tensor(row),
        }


def sample_seed(seed: int, epoch: int, row: int) -> int:
    """Return a 32-bit seed that is a function of its arguments, equal on every machine."""
    return int(np.random.SeedSequence((seed, epoch, row)).generate_state(1)[0])


class EpochSampler(Sampler[SampleId]):
    """A new order each epoch; with `balance`, all of the rarer class and as many of the other.

    Of several devices each takes every so-manieth sample, so that their batches of one step
    together are the batch of one device. What does not fill a last batch waits for another epoch.
    """

    def __init__(
        self,
        labels: np.ndarray,
        seed: int,
        balance: bool,
        batch_size: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Take the labels.

        Args:
            labels: float (n,), 0 or 1.
            seed: of the order.
            balance: draw as many of the commoner class as there are of the rarer, anew each epoch.
            batch_size: samples per step of all devices together, a multiple of `world_size`.
            rank: which device.
            world_size: number of devices.
        """
        self._rows = [np.flatnonzero(labels == label) for label in (0, 1)]
        self._balance = balance
        self._seed = seed
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._epoch = 0
        self._start = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch comes next; Lightning calls it."""
        self._epoch = epoch

    def start_at(self, epoch: int, batch: int) -> None:
        """Go on in the middle: leave out the first batches of an epoch that were seen already."""
        self._epoch = epoch
        self._start = (epoch, batch)

    def __len__(self) -> int:
        """Return this device's samples of a whole epoch."""
        sizes = [len(rows) for rows in self._rows]
        total = 2 * min(sizes) if self._balance else sum(sizes)
        unit = self._batch_size if total >= self._batch_size else self._world_size
        return total // unit * unit // self._world_size

    def __iter__(self) -> Iterator[SampleId]:
        rng = np.random.default_rng((self._seed, self._epoch))
        count = min(len(rows) for rows in self._rows)
        chosen = [
            rng.choice(rows, count, replace=False) if self._balance else rows for rows in self._rows
        ]
        order = rng.permutation(np.concatenate(chosen))
        own = order[self._rank :: self._world_size][: len(self)]
        epoch, batch = self._start
        seen = batch * self._batch_size // self._world_size if epoch == self._epoch else 0
        for row in own[seen:]:
            yield SampleId(self._epoch, int(row))


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
    """Create the loader of training batches; see `FaceDataset` and `EpochSampler`."""
    dataset = FaceDataset(faces, folder, model_input, create_augmentation(config), seed)
    labels = (dataset.targets >= HALF).astype(float)
    sampler = EpochSampler(labels, seed, config.balance, config.batch_size, rank, world_size)
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=config.batch_size // world_size,
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=_use_one_thread,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def create_score_loader(
    faces: pd.DataFrame,
    folder: Path,
    model_input: ModelInput,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Batch]:
    """Create a loader that gives every row once, in order, without augmentation.

    Of several devices each has every so-manieth row, and none has one to fill up.
    """
    dataset = FaceDataset(faces, folder, model_input)
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=[SampleId(0, row) for row in range(rank, len(dataset), world_size)],
        num_workers=workers,
        worker_init_fn=_use_one_thread,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _use_one_thread(worker: int) -> None:
    """Keep OpenCV in a worker from starting a thread for every core of the machine."""
    cv2.setNumThreads(1)


def loader_workers(threads: int) -> int:
    """Return how many of a job's threads decode and augment crops; none where it has but one."""
    return threads // 2


def labelled_faces(index: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Join the face index with label, group, fold (and role where present) of each video."""
    columns = [c for c in ("label", "family", "group", "fold", "role") if c in splits]
    return index.merge(splits[["part", "video", *columns]], on=["part", "video"], how="inner")


def treat_label_noise(
    faces: pd.DataFrame,
    noise: pd.DataFrame,
    policy: Literal["drop", "soft", "keep"],
    soft_target: float,
) -> pd.DataFrame:
    """Return training faces without, or with other targets for, what looks like its original.

    Only for training: select and report figures hold all faces, with the labels of their videos.

    Args:
        faces: face index with a `label` column.
        noise: what the label audit says of FAKE tracks, see `unmask.tables.NOISE`; a track that it
            does not name is taken for what its label says.
        policy: `drop` leaves unswapped and uncertain faces out. `soft` gives an unswapped face the
            target 0, since it is a REAL one, and an uncertain face `soft_target`. `keep` keeps.
        soft_target: the probability of FAKE of an uncertain face.

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
