"""Folds and roles: which videos train, which select, which report.

Whatever must not be on both sides, an original and all its fakes, is one group, and a group lies
in one fold. For the model of fold f, fold f reports, fold f + 1 selects, the others train: each
video is reported on exactly once over all folds, by a model that never saw its family.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pandas as pd

from unmask.config import SplitConfig
from unmask.errors import UnmaskError
from unmask.splits.audits import audit_splits
from unmask.splits.groups import group_videos
from unmask.tables import SPLITS, VIDEOS, Label, Status, read_table, write_json, write_table

logger = logging.getLogger(__name__)

_WITHOUT_FILE = (Status.BAD_METADATA, Status.UNSAFE_NAME, Status.DUPLICATE, Status.MISSING)


def assign_folds(groups: pd.DataFrame, folds: int, seed: int) -> dict[str, int]:
    """Deal groups to folds so that REAL and FAKE counts both come out even.

    Groups are dealt largest first, in an order among equals that is a hash of name and seed, each
    to the fold where it adds least to the sum of squared loads, loads being shares of all FAKE and
    of all REAL videos.

    Args:
        groups: one row per video, columns `group` and `label`.
        folds: number of folds.
        seed: of the order among groups of equal size.

    Returns:
        Fold of each group.
    """
    counts = groups.groupby(["group", "label"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=[Label.FAKE, Label.REAL], fill_value=0)
    shares = counts / counts.sum().clip(lower=1)
    sizes = [(fake, real, str(group)) for group, fake, real in shares.itertuples()]
    sizes.sort(key=lambda one: (-one[0] - one[1], _stable_hash(one[2], seed)))
    load = [(0.0, 0.0)] * folds
    assigned = {}
    for fake, real, group in sizes:
        added = [fake * of_fake + real * of_real for of_fake, of_real in load]
        fold = min(range(folds), key=lambda f: (added[f], load[f], (f + seed) % folds))
        load[fold] = (load[fold][0] + fake, load[fold][1] + real)
        assigned[group] = fold
    return assigned


def _stable_hash(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()


def write_splits(ledger: Path, config: SplitConfig, seed: int, output: Path, audit: Path) -> None:
    """Write the fold of every video, and an audit that proves no family straddles.

    Args:
        ledger: `results/videos.parquet`. Faceless and unreadable videos get a fold too: they are
            answered with the prior and count in every figure. Entries without a file do not.
        config: the `split` section.
        seed: the configuration's seed.
        output: the split table, see `unmask.tables.SPLITS`.
        audit: JSON of counts per fold and of straddling families (0, or this raises).

    Raises:
        UnmaskError: fewer groups than folds.
    """
    videos = read_table(ledger, VIDEOS)
    present = videos[~videos["status"].isin(_WITHOUT_FILE)]
    splits = present.assign(group=group_videos(present))
    if splits["group"].nunique() < config.folds:
        raise UnmaskError(
            f"split.folds: {config.folds} folds need as many families, the ledger has "
            f"{splits['group'].nunique()}; lower split.folds or add videos"
        )
    usable = splits[splits["status"] == Status.OK]
    folds = assign_folds(usable, config.folds, seed)
    folds |= assign_folds(splits[~splits["group"].isin(folds)], config.folds, seed)
    splits = splits.assign(fold=splits["group"].map(folds))
    report = audit_splits(splits, set(videos["video"]))
    if report["straddling_families"]:
        raise AssertionError(f"families in two folds: {report['straddling_families']}")
    write_table(splits, SPLITS, output)
    write_json(report, audit)
    logger.info("%d videos, %d groups: %s", len(splits), report["groups"], report["folds"])
    if report["absent_originals"]:
        logger.warning("originals without a row: %s", ", ".join(report["absent_originals"]))
