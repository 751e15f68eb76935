"""Given splits: those that a collection's authors published, or that a file lists."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from unmask.config import OFFICIAL, SplitConfig
from unmask.errors import UnmaskError
from unmask.vocabulary import Role

logger = logging.getLogger(__name__)

_TEST, _VAL = 0, 1  # the folds of these roles, for the model of fold 0
_NAMED = 3  # videos that a message names


def given_roles(videos: pd.DataFrame, config: SplitConfig, file: Path | None) -> pd.Series:
    """Return the role that a given split has for each video, None where it has none.

    Args:
        videos: columns `part`, `video` and `given_split`.
        config: the `split` section, for messages.
        file: a CSV file with the columns `video` and `split`, and `part` if names recur; None takes
            `given_split`.

    Raises:
        UnmaskError: the file cannot be used, a name of a set is not known, or no video is for
            training or for testing.
    """
    if file is None:
        roles = videos["given_split"]
    else:
        listed = _read(file)
        keys = [key for key in ("part", "video") if key in listed]
        roles = videos[keys].merge(listed, on=keys, how="left")["split"].set_axis(videos.index)
    unknown = sorted(set(roles.dropna()) - set(Role))
    if unknown:
        raise UnmaskError(f"split.file: '{unknown[0]}' is none of {', '.join(Role)}")
    counts = roles.value_counts()
    for role in (Role.TRAIN, Role.TEST):
        if role not in counts:
            source = "metadata.json" if config.file == OFFICIAL else str(file)
            raise UnmaskError(
                f"split.file: {source} has no {role} video of data_root ({dict(counts) or 'none'});"
                " set it to null, or import the collection with its official split"
            )
    without = videos.loc[roles.isna(), "video"]
    if len(without):
        some = ", ".join(without[:_NAMED])
        logger.warning("split.file: left out %d videos without a set: %s …", len(without), some)
    return roles


def _read(file: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype=str, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise UnmaskError(f"split.file: {file}: cannot be read as CSV ({error})") from None
    for column in ("video", "split"):
        if column not in table:
            raise UnmaskError(f"split.file: {file}: has no column {column}")
    keys = [key for key in ("part", "video") if key in table]
    if (repeated := table.duplicated(keys)).any():
        name = table.loc[repeated, "video"].iloc[0]
        raise UnmaskError(f"split.file: {file}: names {name} twice; add a column part")
    return table[[*keys, "split"]]


def pool_and_folds(roles: pd.Series, folds: int) -> tuple[pd.Series, int]:
    """Return the folds that roles determine, and the first of those that are left for training.

    Fold 0 is the test split, fold 1 validation. Where the split has no validation videos, training
    videos also fill fold 1.

    Args:
        roles: of the videos, from `given_roles`.
        folds: number of folds.

    Returns:
        Folds, missing for videos that are still to be divided, and the first fold they may have.
    """
    has_validation = (roles == Role.VAL).any()
    return roles.map({Role.TEST: _TEST, Role.VAL: _VAL}), _VAL + 1 if has_validation else _VAL
