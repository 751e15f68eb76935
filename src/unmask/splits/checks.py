"""Checks of a split that do not depend on how it was made."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import pandas as pd

from unmask.config import MIN_FOLDS, SplitConfig
from unmask.vocabulary import Label, Status

# Difference in the share of FAKE between a fold and all videos that is worth a warning.
_UNEVEN = 0.1
_NAMED = 5  # names listed in a message


def audit_splits(splits: pd.DataFrame, videos: pd.DataFrame) -> dict[str, Any]:
    """Return counts per fold and label, and the families that are in several folds.

    Families are read from the `original` column, not from the groups.

    Args:
        splits: columns `video`, `original`, `label`, `group`, `fold`.
        videos: the ledger, which has all videos and parts.
    """
    named = splits["original"].notna()
    absent = splits[named & ~splits["original"].isin(videos["video"])]
    counts = splits.groupby(["fold", "label"]).size().unstack(fill_value=0)
    sizes = splits["group"].value_counts()
    return {
        "groups": int(splits["group"].nunique()),
        "largest_group": int(sizes.max()),
        "straddling_families": straddling_families(splits),
        "originals": int(splits.loc[named, "original"].nunique()),
        "absent_originals": sorted(absent["original"].unique()),
        "fakes_of_absent_originals": len(absent),
        "absent_parts": absent_parts(videos["part"].unique().tolist()),
        "folds": {
            str(fold): {label: int(count) for label, count in row.items()}
            for fold, row in counts.iterrows()
        },
    }


def straddling_families(splits: pd.DataFrame) -> list[str]:
    """Return the originals that are not in the same fold as all of their fakes.

    Args:
        splits: columns `video`, `original` and `fold`.
    """
    fakes = splits.loc[splits["original"].notna(), ["original", "fold"]]
    sources = splits.loc[splits["video"].isin(fakes["original"]), ["video", "fold"]]
    families = pd.concat([fakes, sources.set_axis(["original", "fold"], axis=1)])
    folds = families.groupby("original")["fold"].nunique()
    return sorted(folds.index[folds > 1])


def absent_parts(parts: list[str]) -> list[str]:
    """Return the names that numbered parts skip: part_1 for part_0 and part_2."""
    numbers = defaultdict(set)
    for part in parts:
        found = re.fullmatch(r"(.*?)(\d+)", part)
        if found:
            numbers[found[1]].add(int(found[2]))
    return [
        f"{prefix}{number}"
        for prefix, seen in sorted(numbers.items())
        for number in range(min(seen), max(seen))
        # Numbers that do not count parts, such as dates, have large gaps.
        if number not in seen and max(seen) - min(seen) < 10 * len(seen)
    ]


def split_warnings(splits: pd.DataFrame, report: dict[str, Any], config: SplitConfig) -> list[str]:
    """Return warnings about a split that a user should know before training on it.

    Args:
        splits: columns `label`, `status`, `part`, `group` and `fold`.
        report: from `audit_splits`.
        config: the `split` section.
    """
    return [
        *_absent(report, len(splits)),
        *_parts_without_face(splits),
        *_uneven_folds(splits[splits["status"] == Status.OK], config),
    ]


def _absent(report: dict[str, Any], videos: int) -> list[str]:
    warnings = []
    missing, originals = report["absent_originals"], report["originals"]
    if missing:
        fakes = report["fakes_of_absent_originals"]
        text = (
            f"{len(missing)} of {originals} originals are absent ({fakes} of {videos} videos are "
            f"their fakes): {_some(missing)}"
        )
        if 2 * len(missing) > originals:
            text += (
                "; as MOST are absent, REAL and FAKE show different people and rooms, which a "
                "model learns instead of the manipulation: add the parts that have them"
            )
        warnings.append(text)
    if report["absent_parts"]:
        warnings.append(f"parts missing from the numbering: {_some(report['absent_parts'])}")
    return warnings


def _parts_without_face(splits: pd.DataFrame) -> list[str]:
    usable = splits[splits["status"] == Status.OK]
    empty = sorted(set(splits["part"]) - set(usable["part"]))
    return [f"parts without a single face: {_some(empty)}"] if empty else []


def _uneven_folds(usable: pd.DataFrame, config: SplitConfig) -> list[str]:
    counts = usable.groupby(["fold", "label"]).size().unstack(fill_value=0)
    counts = counts.reindex(index=range(config.folds), columns=list(Label), fill_value=0)
    warnings = []
    overall = float((usable["label"] == Label.FAKE).mean())
    for fold, real, fake in counts.itertuples():
        lacking = [label for label, n in ((Label.REAL, real), (Label.FAKE, fake)) if not n]
        if lacking:
            warnings.append(
                f"fold {fold} has no {' and no '.join(lacking)} video with a face, so results on "
                f"it say nothing about that label; {_remedy(usable, lacking, config)}"
            )
        elif abs(fake / (fake + real) - overall) > _UNEVEN:
            warnings.append(
                f"fold {fold} is {fake / (fake + real):.0%} FAKE ({fake} FAKE, {real} REAL), all "
                f"videos are {overall:.0%}"
            )
    return warnings


def _remedy(usable: pd.DataFrame, lacking: list[Label], config: SplitConfig) -> str:
    """Return how to give every fold the labels that one of them lacks."""
    groups = min(usable.loc[usable["label"] == label, "group"].nunique() for label in lacking)
    if groups < MIN_FOLDS:
        few = "1 group has" if groups == 1 else f"{groups} groups have"
        return f"add videos: only {few} {' or '.join(lacking)}, and {MIN_FOLDS} are needed"
    if groups < config.folds:
        return f"set split.folds: {groups} or add videos"
    if config.seed != "auto":
        return "set split.seed: auto, lower split.folds or add videos"
    return "lower split.folds or add videos"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
