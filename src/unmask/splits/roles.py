"""Roles: how the model of one fold uses each video."""

from __future__ import annotations

import pandas as pd

from unmask.errors import UnmaskError
from unmask.vocabulary import Role

_SPLITS = {Role.TRAIN: "training", Role.VAL: "validation", Role.TEST: "test"}


def role_of(fold_of_video: int, fold: int, folds: int) -> Role:
    """Return the role of a video of fold `fold_of_video` for the model of `fold`."""
    if fold_of_video == fold:
        return Role.TEST
    return Role.VAL if fold_of_video == (fold + 1) % folds else Role.TRAIN


def with_roles(splits: pd.DataFrame, fold: int, folds: int) -> pd.DataFrame:
    """Return the split table with a `role` column for the model of `fold`.

    A role may lack a label: self-blended crops need no FAKE video, and a source may have none.

    Raises:
        UnmaskError: a role has no video.
    """
    roles = splits.assign(role=[str(role_of(f, fold, folds)) for f in splits["fold"]])
    for role, name in _SPLITS.items():
        if role not in set(roles["role"]):
            raise UnmaskError(
                f"no video in the {name} split of fold {fold}; "
                f"add videos or lower split.folds (now {folds})"
            )
    return roles


def rows_to_fit_on(table: pd.DataFrame, role: Role) -> pd.DataFrame:
    """Return the rows of the training or validation split, from a table with a `role` column.

    Whatever trains, stops early, calibrates or selects a model takes its rows from here.

    Raises:
        ValueError: the role is test, on which nothing may be fitted: a bug in the caller.
    """
    if role == Role.TEST:
        raise ValueError("nothing may be fitted or selected on the test split")
    return table[table["role"] == role]
