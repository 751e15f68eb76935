"""Roles: what each video is to the model of one fold."""

from __future__ import annotations

import pandas as pd

from unmask.errors import UnmaskError
from unmask.vocabulary import Label, Role


def role_of(fold_of_video: int, fold: int, folds: int) -> Role:
    """Return what a video of fold `fold_of_video` is to the model of `fold`."""
    if fold_of_video == fold:
        return Role.TEST
    return Role.VAL if fold_of_video == (fold + 1) % folds else Role.TRAIN


def with_roles(splits: pd.DataFrame, fold: int, folds: int) -> pd.DataFrame:
    """Return the split table with a `role` column for the model of `fold`.

    The train role may lack FAKE videos: self-blended batches do without, and the fit knows what its
    batches need.

    Raises:
        UnmaskError: a role has no REAL or no FAKE, so the model cannot be trained or judged.
    """
    roles = splits.assign(role=[str(role_of(f, fold, folds)) for f in splits["fold"]])
    for role in Role:
        labels = set(roles.loc[roles["role"] == role, "label"])
        for label in Label:
            needed = (role, label) != (Role.TRAIN, Label.FAKE)
            if needed and label not in labels:
                raise UnmaskError(
                    f"fold {fold}: no {label} video to {role} on; "
                    f"add videos or lower split.folds (now {folds})"
                )
    return roles


def rows_to_choose_on(table: pd.DataFrame, role: Role) -> pd.DataFrame:
    """Return the rows that something may be fitted to or chosen on; never those of the report role.

    Whatever trains, stops, calibrates or compares takes its rows from here.

    Args:
        table: a table with a `role` column.
        role: train or select.

    Raises:
        ValueError: the report role is asked for: a bug in the stage that calls.
    """
    if role == Role.TEST:
        raise ValueError("the report role never trains or selects; take train or select")
    return table[table["role"] == role]
