"""Folds and roles: which videos train, which select, which report.

Whatever must not be on both sides, an original and all its fakes, is one group, and a group lies
in one fold. For the model of fold f, fold f reports, fold f + 1 selects, the others train: each
video is reported on exactly once over all folds, by a model that never saw its family.

The fold of a group is a hash of its name and a seed, and so depends on no other group: with the
seed kept, videos that are added move none that were there. Balance comes from the choice of the
seed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unmask.config import MIN_FOLDS, SplitConfig
from unmask.errors import UnmaskError
from unmask.files import write_json
from unmask.splits.checks import audit_splits, split_warnings
from unmask.splits.groups import group_by_identity, group_videos
from unmask.tables import IDENTITIES, SPLITS, VIDEOS, read_table, read_tables, write_table
from unmask.videos.ledger import with_file
from unmask.vocabulary import Label, Status

logger = logging.getLogger(__name__)

_SEEDS, _MOST_SEEDS = 1000, 20_000
_HASHES = 4_000_000  # about half a second
_LAST_HASHES = 20_000_000  # where no seed so far gives every fold both labels: some seconds
_CELLS_AT_ONCE = 500_000  # counts that are added up at once, in some tens of megabytes
_LABEL_WEIGHT = 4  # against 1 for the number of videos, for sizes of groups and for parts
# Families of 1, 2 to 4, 5 to 9, 10 to 19, 20 and more videos.
_SIZES = (2, 5, 10, 20)


def digests_of_groups(names: Sequence[str]) -> NDArray[np.uint64]:
    """Return 64 bits of BLAKE2b of each name."""
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    return np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)


def fold_of_groups(
    digests: NDArray[np.uint64], folds: int, seeds: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the fold of each group under each seed: the digest of its name, mixed with the seed.

    The mixture is SplitMix64 (Steele et al., 2014), by which a thousand seeds over 19,000 groups
    take less than a second.

    Args:
        digests: of n names.
        folds: number of folds.
        seeds: (s,).

    Returns:
        Folds, (s, n).
    """
    mixed = digests + seeds.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return np.asarray(mixed % np.uint64(folds), np.int64)


@dataclass(frozen=True)
class _Tally:
    """What is to be spread evenly: sparse counts of groups by property.

    Attributes:
        digests: of the names of n groups.
        group: int (m,), the group of each count.
        column: int (m,), the property: FAKE, REAL, all videos, then sizes of groups, then parts.
        count: (m,).
        weights: of each property in the imbalance.
    """

    digests: NDArray[np.uint64]
    group: NDArray[np.int64]
    column: NDArray[np.int64]
    count: NDArray[np.float64]
    weights: NDArray[np.float64]

    def costs(
        self, folds_of_groups: NDArray[np.int64], folds: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return, per seed, how many folds lack a label or the other, and how uneven they are.

        The imbalance is the weighted sum, over properties, of the squared differences between each
        fold's share of it and 1 / folds, and of those between each fold's share of FAKE and that
        of all.

        Args:
            folds_of_groups: from `fold_of_groups`, (s, n).
            folds: number of folds.
        """
        seeds, columns = len(folds_of_groups), len(self.weights)
        row = folds_of_groups[:, self.group] + folds * np.arange(seeds)[:, None]
        cells = (row * columns + self.column).ravel()
        counted = np.bincount(cells, np.tile(self.count, seeds), seeds * folds * columns)
        table = counted.reshape(seeds, folds, columns)
        total = table.sum(axis=1, keepdims=True).clip(min=1)
        uneven = ((table / total - 1 / folds) ** 2).sum(axis=1) @ self.weights
        fake = table[..., 0] / table[..., :2].sum(axis=2).clip(min=1)
        overall = total[..., 0] / total[..., :2].sum(axis=2)
        uneven += _LABEL_WEIGHT * ((fake - overall) ** 2).sum(axis=1)
        return (table[..., :2] == 0).sum(axis=(1, 2)), uneven


def _tally(videos: pd.DataFrame) -> _Tally:
    group, names = pd.factorize(videos["group"], sort=True)
    label = (videos["label"] == Label.REAL).to_numpy(np.int64)
    part, parts = pd.factorize(videos["part"], sort=True)
    size = np.searchsorted(_SIZES, np.bincount(group), side="right")
    first_size = 3
    first_part = first_size + len(_SIZES) + 1
    columns = first_part + len(parts)
    cells = np.concatenate(
        [
            group * columns + label,
            group * columns + 2,
            np.arange(len(names)) * columns + first_size + size,
            group * columns + first_part + part,
        ]
    )
    cell, count = np.unique(cells, return_counts=True)
    by_size = np.bincount(size, minlength=len(_SIZES) + 1) / len(names)
    by_part = np.bincount(part) / len(part)
    return _Tally(
        digests=digests_of_groups(list(names)),
        group=cell // columns,
        column=cell % columns,
        count=count.astype(np.float64),
        # A part or a size that is rare counts little: it cannot be even.
        weights=np.concatenate([[_LABEL_WEIGHT, _LABEL_WEIGHT, 1], by_size, by_part]),
    )


def choose_seed(videos: pd.DataFrame, folds: int) -> int:
    """Return the seed that spreads labels, group sizes and parts most evenly.

    Of many groups 1,000 seeds are tried, of few up to 20,000, and further ones only while none
    gives every fold both labels. The first of the best is taken.

    Args:
        videos: columns `part`, `label` and `group`, of the videos that have a face.
        folds: number of folds.
    """
    tally = _tally(videos)
    at_once = max(1, _CELLS_AT_ONCE // len(tally.group))
    enough = min(_MOST_SEEDS, max(_SEEDS, _HASHES // len(tally.digests)))
    best, chosen = (2 * folds + 1, np.inf), 0
    for start in range(0, max(enough, _LAST_HASHES // len(tally.digests)), at_once):
        seeds = np.arange(start, start + at_once)
        lacking, uneven = tally.costs(fold_of_groups(tally.digests, folds, seeds), folds)
        first = np.lexsort((seeds, uneven, lacking))[0]
        cost = (int(lacking[first]), float(uneven[first]))
        if cost < best:
            best, chosen = cost, int(seeds[first])
        if best[0] == 0 and start + at_once >= enough:
            break
    return chosen


def assign_folds(videos: pd.DataFrame, folds: int, seed: int) -> dict[str, int]:
    """Return the fold of each group: a function of its name, the seed and the number of folds.

    Args:
        videos: column `group`.
        folds: number of folds.
        seed: from the configuration or from `choose_seed`.
    """
    names = sorted(videos["group"].unique())
    (fold,) = fold_of_groups(digests_of_groups(names), folds, np.array([seed]))
    return dict(zip(names, fold.tolist(), strict=True))


def write_splits(
    ledger: Path, identities: Sequence[Path], config: SplitConfig, output: Path, audit: Path
) -> None:
    """Write the fold of every video, and an audit that proves no family straddles.

    Args:
        ledger: `results/videos.parquet`. Faceless and unreadable videos get a fold too: they are
            answered with the prior and count in every figure. Entries without a file do not.
        identities: tables of the people in each shard's videos, for `group_by: identity`.
        config: the `split` section.
        output: the split table, see `unmask.tables.SPLITS`.
        audit: JSON of the seed, counts per fold, warnings, and straddling families (0, or this
            raises).

    Raises:
        UnmaskError: fewer groups than folds, a label without a face, or one group that is most of
            the data.
    """
    videos = read_table(ledger, VIDEOS)
    present = with_file(videos)
    usable = present[present["status"] == Status.OK]
    _check_labels(videos, usable)
    if config.group_by == "identity":
        groups = group_by_identity(present, read_tables(list(identities), IDENTITIES), config)
    else:
        groups = group_videos(present)
    splits = present.assign(group=groups)
    _check_groups(splits, config)
    chosen = isinstance(config.seed, str)
    seed = choose_seed(splits.loc[usable.index], config.folds) if chosen else int(config.seed)
    splits = splits.assign(fold=splits["group"].map(assign_folds(splits, config.folds, seed)))
    report = {"group_by": config.group_by, "seed": seed} | audit_splits(splits, videos)
    if report["straddling_families"]:
        raise AssertionError(f"families in two folds: {report['straddling_families']}")
    report["warnings"] = split_warnings(splits, report, config)
    if chosen:
        report["advice"] = f"set split.seed: {seed} to keep these folds when videos are added"
        logger.info("split.seed: auto chose %d; %s", seed, report["advice"])
    write_table(splits, SPLITS, output)
    write_json(report, audit)
    logger.info("%d videos, %d groups: %s", len(splits), report["groups"], report["folds"])
    for warning in report["warnings"]:
        logger.warning("%s", warning)


def _check_labels(videos: pd.DataFrame, usable: pd.DataFrame) -> None:
    for label in Label:
        if not (usable["label"] == label).any():
            named = int((videos["label"] == label).sum())
            found = f"none of {named} {label} videos has a face" if named else f"no {label} video"
            raise UnmaskError(
                f"{found}, so there is nothing to train or judge with; results/ledger.json counts "
                "what became of each video, add parts to data_root"
            )


def _check_groups(splits: pd.DataFrame, config: SplitConfig) -> None:
    usable = splits[splits["status"] == Status.OK]
    kind = "groups of people" if config.group_by == "identity" else "families"
    count = usable["group"].nunique()
    if count < config.folds:
        lower = f"set split.folds: {count} or " if count >= MIN_FOLDS else ""
        raise UnmaskError(
            f"split.folds: {config.folds} folds need as many {kind}, the ledger has {count} "
            f"with a face; {lower}add videos"
        )
