"""What an epoch shows, in which order, and which crops come together.

An epoch is a function of the seed and its number: processes, workers and interruptions change
nothing in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
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

# From here on a soft target counts as FAKE where classes are balanced.
HALF = 0.5
# Partners that are no row: a crop by itself, and one that is paired with itself, blended.
ALONE, BLENDED = -1, -2
# A fake as long as its original is sampled at the same times. Of one that was cut, samples lie
# beside the original's, within half of the 0.3 to 0.6 s from one to the next.
_NEAR_S = 0.5
# Crops show the same face when their squares overlap so much.
MIN_PAIR_IOU = 0.7


class SampleId(NamedTuple):
    """Which sample: rows of the face index as the epoch sees them.

    Attributes:
        epoch: its number.
        row: the crop; of a pair, the REAL one.
        partner: the row of its fake, or `ALONE`, or `BLENDED`.
    """

    epoch: int
    row: int
    partner: int = ALONE


class Crops(NamedTuple):
    """What an epoch is drawn from.

    Attributes:
        targets: float32 (n,), probability of FAKE.
        real: bool (n,), whether the crop is of a REAL video.
        originals: int64 (n,), the row of a fake's original, see `pair_faces`; -1 without.
    """

    targets: NDArray[np.float32]
    real: NDArray[np.bool_]
    originals: Rows


def pair_faces(faces: pd.DataFrame) -> Rows:
    """Find the crop of its original for each crop of a fake: same person, same place and moment.

    A fake of its original's length that took over its tracks has the same times and squares.
    Otherwise the crop nearest in time is taken, of the track that overlaps most, where the IoU is
    at least `MIN_PAIR_IOU`.

    Args:
        faces: face index with `label` and `family`, the name of a fake's original.

    Returns:
        int64 (n,), the row of the original; -1 for crops of REAL videos and fakes without one.
    """
    columns = ["part", "family", "time", "track", "crop_x0", "crop_y0", "crop_side"]
    rows = faces[columns].assign(row=np.arange(len(faces))).sort_values("time", kind="stable")
    fake = (faces["label"] == Label.FAKE).to_numpy()[rows["row"]]
    fakes, reals = rows[fake], rows[~fake]
    originals = np.full(len(faces), -1, np.int64)
    best = np.full(len(faces), MIN_PAIR_IOU)
    for track in np.unique(reals["track"]):
        of_track = reals[reals["track"] == track]
        pairs = pd.merge_asof(
            fakes,
            of_track,
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


def _plain(crops: Crops, blended: float, rng: np.random.Generator) -> Rows:
    return _with_partner(np.arange(len(crops.targets)), ALONE)


def _balanced(crops: Crops, blended: float, rng: np.random.Generator) -> Rows:
    fake = crops.targets >= HALF
    classes = [np.flatnonzero(fake == value) for value in (False, True)]
    count = min(len(rows) for rows in classes)
    drawn = [rng.choice(rows, count, replace=False) for rows in classes]
    return _with_partner(np.concatenate(drawn), ALONE)


def _with_partner(rows: Rows, partner: int) -> Rows:
    return np.stack([rows, np.full_like(rows, partner)], axis=1)


def _paired(crops: Crops, blended: float, rng: np.random.Generator) -> Rows:
    """Return REAL crops with one of their fakes, drawn anew each epoch.

    Where some are to be blended, REAL crops without a fake are there as well, and always blended.
    """
    fakes = np.flatnonzero((crops.originals >= 0) & (crops.targets >= HALF))
    fakes = rng.permutation(fakes)
    reals, first = np.unique(crops.originals[fakes], return_index=True)
    units = np.stack([reals, fakes[first]], axis=1)
    if blended == 0:
        return units
    units[rng.random(len(units)) < blended, 1] = BLENDED
    unpaired = np.setdiff1d(np.flatnonzero(crops.real), reals)
    return np.concatenate([units, _with_partner(unpaired, BLENDED)])


def _self_blended(crops: Crops, blended: float, rng: np.random.Generator) -> Rows:
    return _with_partner(np.flatnonzero(crops.real), BLENDED)


EPOCHS: dict[str, Callable[[Crops, float, np.random.Generator], Rows]] = {
    "plain": _plain,
    "balanced": _balanced,
    "paired": _paired,
    "self_blended": _self_blended,
}


class EpochSampler(Sampler[SampleId]):
    """The samples of each epoch for one process.

    A step takes `batch_size` crops over all processes, whatever their number: they share each
    step, so that they show together what one process would show, in the same steps. Crops that fill
    no whole step at the end of an epoch are left out (another order brings others next time), but
    an epoch of less than one step is one step.
    """

    def __init__(
        self,
        crops: Crops,
        config: TrainingConfig,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Take what there is to show.

        Args:
            crops: what an epoch is drawn from.
            config: kind and size of the batches.
            seed: of what is drawn, and of the order.
            rank: number of this process.
            world_size: number of processes.

        Raises:
            UnmaskError: there is nothing to show, or the processes cannot share a step evenly.
        """
        self._crops = crops
        self._config = config
        self._seed = seed
        self._rank, self._world_size = rank, world_size
        self._epoch = self._start = 0
        self._count = len(self._units(0))
        if self._count == 0:
            raise UnmaskError(
                f"training.batches: there is nothing to show in {config.batches} batches; "
                "a fake needs its own original among the training videos, a class its crops; "
                "data without originals takes balanced"
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
        """How many samples of this process make one of its batches."""
        return self._per_step // self._world_size

    @property
    def steps(self) -> int:
        """How many steps an epoch has, for every process."""
        return self._count // self._per_step

    @property
    def share_of_fake(self) -> float:
        """The share of FAKE among what is shown, the prior that a model learns from it."""
        return float(self._crops.targets.mean()) if self._config.batches == "plain" else 0.5

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch comes next; Lightning calls it."""
        if epoch != self._epoch:
            self._epoch, self._start = epoch, 0

    def start_at(self, epoch: int, batch: int) -> None:
        """Go on in the middle of an epoch: leave out its first batches, which were seen already."""
        self._epoch, self._start = epoch, batch

    def __len__(self) -> int:
        """Return the samples of a whole epoch for this process."""
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[SampleId]:
        units = self._units(self._epoch)
        first, last = self._start * self._per_step, self.steps * self._per_step
        for row, partner in units[first:last][self._rank :: self._world_size]:
            yield SampleId(self._epoch, int(row), int(partner))

    def _units(self, epoch: int) -> Rows:
        """Return rows and partners of a whole epoch in its order, int64 (n, 2)."""
        rng = np.random.default_rng((self._seed, epoch))
        return rng.permutation(EPOCHS[self._config.batches](self._crops, self._config.blended, rng))


def sample_seed(seed: int, epoch: int, row: int) -> int:
    """Return a 32-bit seed that is a function of its arguments, equal on every machine."""
    return int(np.random.SeedSequence((seed, epoch, row)).generate_state(1)[0])
