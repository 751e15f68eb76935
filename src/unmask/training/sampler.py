"""What an epoch shows, in which order, and which crops are pairs.

An epoch is a function of the seed and its number; processes, workers and interruptions do not
change it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch.utils.data import Sampler

from unmask.config import TrainingConfig
from unmask.errors import UnmaskError
from unmask.faces.boxes import iou, squares
from unmask.vocabulary import Label

logger = logging.getLogger(__name__)

Rows = NDArray[np.int64]

# Soft targets of at least this count as FAKE where classes are balanced.
HALF = 0.5
# Partners that are not rows: of a crop without partner, and of one that is paired with itself,
# blended.
ALONE, BLENDED = -1, -2
# A fake as long as its original is sampled at the same times. If it was cut, its samples are at
# most half of the sampling interval of 0.3 to 0.6 s away from those of the original.
_NEAR_S = 0.5
# Crops show the same face when their squares overlap this much.
MIN_PAIR_IOU = 0.7


class SampleId(NamedTuple):
    """A sample of one epoch.

    Attributes:
        epoch: number of the epoch.
        row: row of the crop in the face index; of the REAL crop if it is a pair.
        partner: row of its fake, or `ALONE`, or `BLENDED`.
    """

    epoch: int
    row: int
    partner: int = ALONE


class Crops(NamedTuple):
    """What an epoch is drawn from.

    Attributes:
        targets: float32 (n,), probability of FAKE.
        real: bool (n,), whether the crop is from a REAL video.
        originals: int64 (n,), row of the crop's original, see `pair_faces`; -1 if it has none.
    """

    targets: NDArray[np.float32]
    real: NDArray[np.bool_]
    originals: Rows


def pair_faces(faces: pd.DataFrame) -> Rows:
    """Find, for each crop of a fake, the original's crop of the same face, place and moment.

    A fake with the length and the tracks of its original has the same times and squares. Otherwise
    the crop nearest in time is taken, from the track that overlaps most, if the IoU is at least
    `MIN_PAIR_IOU`.

    Args:
        faces: face index with `label` and `family`, the name of a fake's original.

    Returns:
        int64 (n,), row of the original; -1 for crops of REAL videos and for fakes without one.
    """
    columns = ["part", "family", "time", "track", "crop_x0", "crop_y0", "crop_side"]
    rows = faces[columns].assign(row=np.arange(len(faces))).sort_values("time", kind="stable")
    fake = (faces["label"] == Label.FAKE).to_numpy()[rows["row"]]
    fakes, reals = rows[fake], rows[~fake]
    originals = np.full(len(faces), -1, np.int64)
    best = np.full(len(faces), MIN_PAIR_IOU)
    for track in np.unique(reals["track"]):
        pairs = pd.merge_asof(
            fakes,
            reals[reals["track"] == track],
            on="time",
            by=["part", "family"],
            direction="nearest",
            tolerance=_NEAR_S,  # type: ignore[arg-type]
            suffixes=("", "_original"),
        ).dropna(subset="row_original")
        own, other = pairs["row"].to_numpy(), pairs["row_original"].to_numpy().astype(np.int64)
        fake_and_real = [
            squares(pairs[f"crop_x0{of}"], pairs[f"crop_y0{of}"], pairs[f"crop_side{of}"])
            for of in ("", "_original")
        ]
        overlap = iou(*fake_and_real)
        better = overlap >= best[own]
        originals[own[better]], best[own[better]] = other[better], overlap[better]
    return originals


def draw_epoch(
    crops: Crops, batches: str, blended: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw what one epoch shows.

    Args:
        crops: what to draw from.
        batches: kind of batches, see `TrainingConfig.batches`.
        blended: share of pairs whose fake is the REAL crop blended with itself. Above 0, REAL crops
            without a fake are shown too, always blended.
        rng: a new one for each epoch.

    Returns:
        int64 (n, 2), rows and partners in random order.
    """
    match batches:
        case "plain":
            units = _with_partner(np.arange(len(crops.targets)), ALONE)
        case "balanced":
            fake = crops.targets >= HALF
            classes = [np.flatnonzero(fake == value) for value in (False, True)]
            count = min(len(rows) for rows in classes)
            drawn = [rng.choice(rows, count, replace=False) for rows in classes]
            units = _with_partner(np.concatenate(drawn), ALONE)
        case "self_blended":
            units = _with_partner(np.flatnonzero(crops.real), BLENDED)
        case _:
            fakes = np.flatnonzero((crops.originals >= 0) & (crops.targets >= HALF))
            fakes = rng.permutation(fakes)
            reals, first = np.unique(crops.originals[fakes], return_index=True)
            units = np.stack([reals, fakes[first]], axis=1)
            if blended > 0:
                units[rng.random(len(units)) < blended, 1] = BLENDED
                unpaired = np.setdiff1d(np.flatnonzero(crops.real), reals)
                units = np.concatenate([units, _with_partner(unpaired, BLENDED)])
    return rng.permutation(units)


def _with_partner(rows: Rows, partner: int) -> Rows:
    return np.stack([rows, np.full_like(rows, partner)], axis=1)


class EpochSampler(Sampler[SampleId]):
    """The samples of each epoch for one process.

    All processes share the `batch_size` crops of a step, so together they show what one process
    would show, in the same steps. The last crops of an epoch are left out if they do not fill a
    step; an epoch smaller than a step is one step.
    """

    def __init__(
        self,
        crops: Crops,
        config: TrainingConfig,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Count what an epoch shows.

        Args:
            crops: what an epoch is drawn from.
            config: kind and size of the batches.
            seed: of what is drawn, and of the order.
            rank: number of this process.
            world_size: number of processes.

        Raises:
            UnmaskError: epochs are empty, or the processes cannot share a step evenly.
        """
        self._crops = crops
        self._config = config
        self._seed = seed
        self._rank, self._world_size = rank, world_size
        self._epoch = self._start = 0
        self._count = len(self._units(0))
        if self._count == 0:
            raise UnmaskError(
                f"training.batches: {config.batches} batches would be empty; paired ones need "
                "fakes with their original in the training split, balanced ones crops of both "
                "labels; for fakes without originals set it to balanced"
            )
        paired = config.batches in ("paired", "self_blended")
        self._per_step = config.batch_size // (2 if paired else 1)
        if self._count < self._per_step:
            self._per_step = self._count // world_size * world_size
        if self._per_step == 0 or self._per_step % world_size:
            raise UnmaskError(
                f"training.batch_size: {world_size} processes cannot share the "
                f"{self._per_step} {'pairs' if paired else 'crops'} of a step evenly"
            )

    @property
    def batch_size(self) -> int:
        """Number of samples in a batch of this process."""
        return self._per_step // self._world_size

    @property
    def steps(self) -> int:
        """Number of steps of an epoch, the same for every process."""
        return self._count // self._per_step

    @property
    def share_of_fake(self) -> float:
        """Share of FAKE in the batches, the prior that a model learns from them."""
        return float(self._crops.targets.mean()) if self._config.batches == "plain" else 0.5

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch; Lightning calls it."""
        if epoch != self._epoch:
            self._epoch, self._start = epoch, 0

    def start_at(self, epoch: int, batch: int) -> None:
        """Start in the middle of an epoch, after its first `batch` batches."""
        self._epoch, self._start = epoch, batch

    def __len__(self) -> int:
        """Return the number of samples in a whole epoch of this process."""
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[SampleId]:
        units = self._units(self._epoch)
        first, last = self._start * self._per_step, self.steps * self._per_step
        for row, partner in units[first:last][self._rank :: self._world_size]:
            yield SampleId(self._epoch, int(row), int(partner))

    def _units(self, epoch: int) -> Rows:
        """Return rows and partners of a whole epoch in order, int64 (n, 2)."""
        rng = np.random.default_rng((self._seed, epoch))
        return draw_epoch(self._crops, self._config.batches, self._config.blended, rng)


def sample_seed(seed: int, epoch: int, row: int) -> int:
    """Return a 32-bit seed that depends on the arguments alone, equal on every machine."""
    return int(np.random.SeedSequence((seed, epoch, row)).generate_state(1)[0])
