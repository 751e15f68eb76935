"""Audits: what is proven of a split, independently of how it was made."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pandas as pd


def audit_splits(splits: pd.DataFrame, known: set[str]) -> dict[str, Any]:
    """Return counts per fold and label, and the families that straddle folds.

    The check reads the `original` column itself, not the groups.

    Args:
        splits: columns `video`, `original`, `label`, `group`, `fold`.
        known: names of all videos of the ledger.
    """
    folds_of_family = defaultdict(set)
    for video, original, fold in zip(
        splits["video"], splits["original"], splits["fold"], strict=True
    ):
        folds_of_family[original if isinstance(original, str) else video].add(fold)
    originals = {name for name in splits["original"] if isinstance(name, str)}
    counts = splits.groupby(["fold", "label"]).size().unstack(fill_value=0)
    return {
        "groups": int(splits["group"].nunique()),
        "largest_group": int(splits["group"].value_counts().max()),
        "straddling_families": sorted(f for f, folds in folds_of_family.items() if len(folds) > 1),
        "absent_originals": sorted(originals - known),
        "folds": {
            str(fold): {label: int(count) for label, count in row.items()}
            for fold, row in counts.iterrows()
        },
    }
