"""What an epoch shows, in which order, and which crops are shown next to each other.

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

from unmask.config import Mixture, TrainingConfig
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
# `batches: auto`: the largest shares of pairs and of unpaired fakes, and the number of groups with
# which they reach half of it. The pairs of a dozen people did harm next to self-blended images.
_MOST_PAIRS, _MOST_UNPAIRED, _HALF_AT = 2 / 3, 1 / 5, 100
_SOURCES_NAMED = 8  # in the log


class SampleId(NamedTuple):
    """A sample of one epoch."""

    epoch: int  # number of the epoch
    row: int  # row of the crop in the face index; of the REAL crop if there are two
    partner: int = ALONE  # row of the FAKE crop next to it, or `ALONE`, or `BLENDED`
    number: int = 0  # of the sample in its epoch, which may show a row several times


class Crops(NamedTuple):
    """What an epoch is drawn from."""

    targets: NDArray[np.float32]  # float32 (n,), probability of FAKE
    real: NDArray[np.bool_]  # bool (n,), whether the crop is from a REAL video
    originals: Rows  # int64 (n,), row of the crop's original, see `pair_faces`; -1 if it has none
    sources: Rows  # int64 (n,), number of the source of the crop's video
    groups: Rows  # int64 (n,), number of its group: a family or a person

    @classmethod
    def of(cls, faces: pd.DataFrame, targets: NDArray[np.float32]) -> Crops:
        """Return the crops of a face index with label, family, source and group."""
        return cls(
            targets,
            (faces["label"] == Label.REAL).to_numpy(),
            pair_faces(faces),
            pd.factorize(faces["source"])[0],
            pd.factorize(faces["group"])[0],
        )

    @property
    def fakes(self) -> NDArray[np.bool_]:
        """Return whether each crop counts as FAKE, bool (n,)."""
        return np.asarray(self.targets >= HALF)

    @property
    def pairs(self) -> Rows:
        """Return the rows of fakes with an original."""
        return np.flatnonzero(self.fakes & (self.originals >= 0))

    @property
    def unpaired(self) -> Rows:
        """Return the rows of fakes without an original."""
        return np.flatnonzero(self.fakes & (self.originals < 0))


def pair_faces(faces: pd.DataFrame) -> Rows:
    """Find, for each crop of a fake, the original's crop of the same face, place and moment.

    A fake with the length and the tracks of its original has the same times and squares. Otherwise
    the crop nearest in time is taken, from the track that overlaps most, if the IoU is at least
    `MIN_PAIR_IOU`.

    Args:
        faces: face index with `label` and the `family` of the ledger.

    Returns:
        int64 (n,), row of the original; -1 for crops of REAL videos and for fakes without one.
    """
    columns = ["family", "time", "track", "crop_x0", "crop_y0", "crop_side"]
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
            by="family",
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


def choose_mixture(crops: Crops, batches: str | Mixture) -> Mixture:
    """Return the shares of the kinds of units in an epoch; kinds without a crop have none."""
    match batches:
        case Mixture():
            wanted = batches
        case "paired":
            wanted = Mixture(pairs=1)
        case "self_blended":
            wanted = Mixture(self_blended=1)
        case _:
            pairs, unpaired = (
                most * groups / (groups + _HALF_AT)
                for most, rows in ((_MOST_PAIRS, crops.pairs), (_MOST_UNPAIRED, crops.unpaired))
                for groups in [len(np.unique(crops.groups[rows]))]
            )
            wanted = Mixture(pairs=pairs, self_blended=1 - pairs - unpaired, unpaired=unpaired)
    anything = crops.real.any()
    shares = {
        "pairs": wanted.pairs * bool(len(crops.pairs)),
        "self_blended": wanted.self_blended * anything,
        "unpaired": wanted.unpaired * (anything and bool(len(crops.unpaired))),
    }
    total = sum(shares.values()) or 1.0
    return Mixture(**{kind: share / total for kind, share in shares.items()})


def explain_auto(crops: Crops) -> str:
    """Return what `batches: auto` chose and why, for the log."""
    chosen = choose_mixture(crops, "auto")
    pairs, unpaired = (len(np.unique(crops.groups[of])) for of in (crops.pairs, crops.unpaired))
    return (
        f"batches: auto is {{pairs: {chosen.pairs:.2f}, self_blended: {chosen.self_blended:.2f}, "
        f"unpaired: {chosen.unpaired:.2f}}}, because {pairs} families have fakes with their "
        f"original's crops and {unpaired} have other fakes; both shares grow with these numbers"
    )


def draw_epoch(crops: Crops, batches: str | Mixture, rng: np.random.Generator) -> Rows:
    """Draw what one epoch shows.

    Args:
        crops: what to draw from.
        batches: kind of batches, see `TrainingConfig.batches`.
        rng: a new one for each epoch.

    Returns:
        int64 (n, 2), rows and partners in random order.
    """
    if batches == "plain":
        units = _with_partner(np.arange(len(crops.targets)), ALONE)
    elif batches == "balanced":
        classes = [np.flatnonzero(crops.fakes == value) for value in (False, True)]
        count = min(len(rows) for rows in classes)
        drawn = [rng.choice(rows, count, replace=False) for rows in classes]
        units = _with_partner(np.concatenate(drawn), ALONE)
    else:
        units = _draw_mixture(crops, choose_mixture(crops, batches), rng)
    return rng.permutation(units)


def _draw_mixture(crops: Crops, mixture: Mixture, rng: np.random.Generator) -> Rows:
    """Draw as many units as there are REAL crops to show, int64 (n, 2)."""
    pairs, reals = crops.pairs, np.flatnonzero(crops.real)
    originals = np.unique(crops.originals[pairs])
    units = len(originals) if mixture.pairs == 1 else len(reals)

    def draw(rows: Rows, count: int) -> Rows:
        return rows[spread(crops.sources[rows], crops.groups[rows], count, rng)]

    # Originals, each next to one of its fakes
    shown = draw(originals, round(units * mixture.pairs))
    fakes = pairs[np.argsort(crops.originals[pairs], kind="stable")]
    of_fakes = crops.originals[fakes]
    first, last = np.searchsorted(of_fakes, shown), np.searchsorted(of_fakes, shown, "right")
    parts = [np.stack([shown, fakes[rng.integers(first, last)]], axis=1)]

    # REAL crops, each next to itself blended
    shown = draw(reals, round(units * mixture.self_blended))
    parts.append(_with_partner(shown, BLENDED))

    # Other fakes, each next to a REAL crop of its source if there is one
    shown = draw(crops.unpaired, round(units * mixture.unpaired))
    for source in np.unique(crops.sources[shown]):
        fakes = shown[crops.sources[shown] == source]
        alike = reals[crops.sources[reals] == source]
        partners = draw(alike if len(alike) else reals, len(fakes))
        parts.append(np.stack([rng.permutation(partners), fakes], axis=1))
    return np.concatenate(parts)


def spread(sources: Rows, groups: Rows, count: int, rng: np.random.Generator) -> Rows:
    """Draw `count` crops such that no source, and no group of a source, dominates.

    The share of a source, and that of a group in its source, grow with the square root of the
    number of their crops. Each source, group and crop is drawn as often as its share says, rounded
    up or down (systematic sampling), so with equal shares none is repeated before all are drawn.

    Args:
        sources: int64 (n,), number of the source of each crop.
        groups: int64 (n,), number of its group.
        count: how many to draw.
        rng: of the draw.

    Returns:
        int64 (count,), positions in `sources`.
    """
    if not count:
        return np.empty(0, np.int64)
    cells = sources * (groups.max() + 1) + groups
    size_of_source, size_of_cell = (np.bincount(of)[of] for of in (sources, cells))
    weight = size_of_cell**-0.5
    weight *= size_of_source**0.5 / np.bincount(sources, weight)[sources]
    shuffled = [rng.permutation(of.max() + 1)[of] for of in (groups, sources)]
    order = np.lexsort([rng.random(len(groups)), *shuffled])
    ends = np.cumsum(weight[order])
    places = (rng.random() + np.arange(count)) * ends[-1] / count
    return np.asarray(order[np.searchsorted(ends, places, "right").clip(max=len(order) - 1)])


def _with_partner(rows: Rows, partner: int) -> Rows:
    return np.stack([rows, np.full_like(rows, partner)], axis=1)


def describe_epoch(faces: pd.DataFrame, crops: Crops, units: Rows) -> str:
    """Return what an epoch consists of, for the log.

    Args:
        faces: the face index of `crops`, with source, group and video.
        crops: what the epoch was drawn from.
        units: from `draw_epoch`.
    """
    row, partner = units.T
    fakes = np.where(partner >= 0, partner, row)
    has_original = crops.originals[fakes] == row
    kinds = {
        "one crop": partner == ALONE,
        "a REAL crop and itself blended": partner == BLENDED,
        "an original and its fake": (partner >= 0) & has_original,
        "a fake and another REAL crop": (partner >= 0) & ~has_original,
    }
    parts = []
    for kind, of_kind in kinds.items():
        if of_kind.any():
            groups = len(np.unique(crops.groups[fakes[of_kind]]))
            parts.append(f"{of_kind.mean():.0%} {kind} ({groups} groups)")
    sources = faces["source"].iloc[row].value_counts(normalize=True)
    shares = [f"{name} {share:.0%}" for name, share in sources.head(_SOURCES_NAMED).items()]
    more = [f"{len(sources) - _SOURCES_NAMED} more"] if len(sources) > _SOURCES_NAMED else []
    unpaired = faces.iloc[crops.unpaired]
    videos = len(unpaired[["part", "video"]].drop_duplicates())
    return (
        f"an epoch: {len(units)} x {', '.join(parts)}; sources: {', '.join(shares + more)}; "
        f"{len(unpaired)} of {crops.fakes.sum()} FAKE crops ({videos} videos) have no original's "
        "crop of the same face and moment"
    )


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
        """Count what an epoch shows, for process `rank` of `world_size`.

        Raises:
            UnmaskError: epochs are empty, or the processes cannot share a step evenly.
        """
        self._crops = crops
        self._batches = config.batches
        self._seed = seed
        self._rank, self._world_size = rank, world_size
        self._epoch = self._start = 0
        self._count = len(self.units(0))
        if self._count == 0:
            raise UnmaskError(
                f"training.batches: {config.batches} batches would be empty; they need REAL crops, "
                "balanced ones both labels, and pairs fakes with their original, in the training "
                "split; auto takes whatever there is"
            )
        in_pairs = config.in_pairs
        self._per_step = config.batch_size // (2 if in_pairs else 1)
        if self._count < self._per_step:
            self._per_step = self._count // world_size * world_size
        if self._per_step == 0 or self._per_step % world_size:
            raise UnmaskError(
                f"training.batch_size: {world_size} processes cannot share the "
                f"{self._per_step} {'pairs' if in_pairs else 'crops'} of a step evenly"
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
        return float(self._crops.targets.mean()) if self._batches == "plain" else 0.5

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
        units = self.units(self._epoch)
        first, last = self._start * self._per_step, self.steps * self._per_step
        for number in range(first + self._rank, last, self._world_size):
            row, partner = units[number]
            yield SampleId(self._epoch, int(row), int(partner), number)

    def units(self, epoch: int) -> Rows:
        """Return rows and partners of a whole epoch in order, int64 (n, 2)."""
        rng = np.random.default_rng((self._seed, epoch))
        return draw_epoch(self._crops, self._batches, rng)


def sample_seed(*numbers: int) -> int:
    """Return a 32-bit seed that depends on the arguments alone, equal on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
