"""Folds: groups of videos are divided into folds, and each fold is the test split of one model.

An original and all its fakes form a group, and all videos of a group are in one fold. For the model
of fold f, fold f is the test split, fold f + 1 the validation split, and the others are for
training. So each video is tested exactly once over all folds, by a model that never saw its family.

The fold of a group is a hash of its name and a seed. It does not depend on other groups, so with
the same seed, adding videos moves none of the old ones. The seed is chosen such that folds are
balanced.
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
from unmask.splits.given import given_roles, pool_and_folds
from unmask.splits.groups import group_by_identity, group_videos, pairs_with_same
from unmask.tables import IDENTITIES, SPLITS, VIDEOS, read_table, read_tables, write_table
from unmask.videos.ledger import with_file
from unmask.vocabulary import Label, Status

logger = logging.getLogger(__name__)

# Seeds that are tried: as many as give _HASHES hashes (half a second), within these limits.
_SEEDS, _MOST_SEEDS = 1000, 20_000
_HASHES = 4_000_000
_LAST_HASHES = 20_000_000  # while no seed gives every fold both labels (some seconds)
_CELLS_AT_ONCE = 500_000  # counts that are summed at once, in some tens of megabytes
_LABEL_WEIGHT = 4  # relative to the number of videos, to sizes of groups and to parts
# Bounds of the sizes of groups: 1, 2 to 4, 5 to 9, 10 to 19, and 20 videos or more.
_SIZES = (2, 5, 10, 20)


def digests_of_groups(names: Sequence[str]) -> NDArray[np.uint64]:
    """Return 64 bits of BLAKE2b of each name."""
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    return np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)


def fold_of_groups(
    digests: NDArray[np.uint64], folds: int, seeds: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the fold of each group under each seed.

    The digest of the name and the seed are mixed by SplitMix64 (Steele et al., 2014): 1,000 seeds
    for 19,000 groups take less than a second.

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
    """Sparse counts of the properties that folds should share evenly."""

    digests: NDArray[np.uint64]  # of the names of n groups
    group: NDArray[np.int64]  # int (m,), the group of each count
    # int (m,), the property: FAKE, REAL, videos, then sizes of groups, then parts
    column: NDArray[np.int64]
    count: NDArray[np.float64]  # (m,)
    weights: NDArray[np.float64]  # of each property in the imbalance

    def costs(
        self, folds_of_groups: NDArray[np.int64], folds: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return for each seed the number of labels that folds lack, and the folds' imbalance.

        The imbalance is a weighted sum over properties: of the squared differences between each
        fold's share of the property and 1 / folds, and between the fold's and the overall share of
        FAKE.

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
        # Rare parts and sizes have a low weight, because they cannot be spread evenly.
        weights=np.concatenate([[_LABEL_WEIGHT, _LABEL_WEIGHT, 1], by_size, by_part]),
    )


def choose_seed(videos: pd.DataFrame, folds: int) -> int:
    """Return the seed that spreads labels, group sizes and parts most evenly over the folds.

    1,000 seeds are tried with many groups, up to 20,000 with few, and more only while none gives
    every fold both labels. Of several that are equally good, it is the first.

    Args:
        videos: columns `part`, `label` and `group`; only videos with a face.
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
    ledger: Path,
    identities: Sequence[Path],
    given: Sequence[Path],
    config: SplitConfig,
    output: Path,
    audit: Path,
) -> None:
    """Write the fold of every video, and a report that checks that no family is in two.

    Args:
        ledger: `results/videos.parquet`. Videos without a face or a decodable frame have a fold as
            well: their prediction is the prior, which counts in every metric. Videos without a file
            have none.
        identities: tables of the people in each shard's videos, for `group_by: identity`.
        given: the file of `split.file`, if it is one.
        config: the `split` section.
        output: the split table, see `unmask.tables.SPLITS`.
        audit: JSON of the seed, counts per fold, warnings, and families in several folds: none, or
            this raises, unless the split is given.

    Raises:
        UnmaskError: there are fewer groups than folds, no face in a REAL video, a group with most
            of the data, or the given split cannot be used.
    """
    videos = read_table(ledger, VIDEOS)
    present = with_file(videos)
    usable = present[present["status"] == Status.OK]
    _check_reals(videos, usable)
    same = pairs_with_same(present, "given_group")
    if config.group_by == "identity":
        people = read_tables(list(identities), IDENTITIES)
        groups = group_by_identity(present, people, config, same)
    else:
        groups = group_videos(present, same)
    splits = whole = present.assign(group=groups)
    if config.group_by == "source":
        # Groups remain families, by which results are resampled, where whole sources share a fold.
        same_source = pairs_with_same(present, "source")
        whole = splits.assign(group=group_videos(present, [*same, *same_source]))
    if config.file is None:
        check_group_count(whole.loc[usable.index, "group"].nunique(), config)
        fold, seed = _hashed(whole, config.folds, config)
    else:
        roles = given_roles(present, config, next(iter(given), None)).dropna()
        fold, first = pool_and_folds(roles, config.folds)
        pool = whole.loc[fold.index[fold.isna()]]
        hashed, seed = _hashed(pool, config.folds - first, config)
        fold = fold.fillna(first + hashed).astype(int)
    splits = splits.loc[fold.index].assign(fold=fold)
    report = {"group_by": config.group_by, "seed": seed} | audit_splits(splits, videos)
    report["warnings"] = split_warnings(splits, report, config)
    if straddling := report["straddling_families"]:
        if config.file is None:
            raise AssertionError(f"families in two folds: {straddling}")
        report["warnings"].append(
            f"the given split divides {len(straddling)} families between folds, for example that "
            f"of {straddling[0]}: results flatter"
        )
    if isinstance(config.seed, str):
        report["advice"] = f"set split.seed: {seed} to keep these folds when videos are added"
        logger.info("split.seed: auto is %d; %s", seed, report["advice"])
    write_table(splits, SPLITS, output)
    write_json(report, audit)
    logger.info("%d videos, %d groups: %s", len(splits), report["groups"], report["folds"])
    for warning in report["warnings"]:
        logger.warning("%s", warning)


def _hashed(videos: pd.DataFrame, folds: int, config: SplitConfig) -> tuple[pd.Series, int]:
    """Return the fold of each video by the hash of its group, and the seed."""
    usable = videos[videos["status"] == Status.OK]
    seed = choose_seed(usable, folds) if isinstance(config.seed, str) else int(config.seed)
    return videos["group"].map(assign_folds(videos, folds, seed)), seed


def _check_reals(videos: pd.DataFrame, usable: pd.DataFrame) -> None:
    if not (usable["label"] == Label.REAL).any():
        named = int((videos["label"] == Label.REAL).sum())
        found = f"none of {named} REAL videos has a face" if named else "no REAL video"
        raise UnmaskError(
            f"{found}, so no model can be trained or tested; add parts to data_root "
            "(results/ledger.json counts the statuses of videos)"
        )


def check_group_count(count: int, config: SplitConfig) -> None:
    """Raise if there are fewer groups than folds.

    Raises:
        UnmaskError: there are.
    """
    if count >= config.folds:
        return
    kinds = {"original": "families", "identity": "groups of people", "source": "sources"}
    lower = f"set split.folds: {count} or " if count >= MIN_FOLDS else ""
    raise UnmaskError(
        f"split.folds: {config.folds} folds need as many {kinds[config.group_by]} with a face, and "
        f"there are {count}; {lower}add videos"
    )
