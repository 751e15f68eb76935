"""Duplicates: videos with equal files, nearly equal pictures or equal names."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unmask.vocabulary import Status

MAX_PAIRS = 1000  # of each kind, the closest
# Of 192 bits. A re-encoded or scaled copy differs in a few; two clips of one room in dozens.
_NEAR_DUPLICATE_BITS = 12
_BLOCK = 512


def join_pairs(kind: str, first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return pairs of videos or tracks, row by row, as rows of `unmask.tables.LEAKS`."""
    columns = ["part", "video", "track", "label", "group", "fold"]
    sides = [
        rows.reindex(columns=columns).reset_index(drop=True).add_suffix(suffix)
        for rows, suffix in ((first, "_a"), (second, "_b"))
    ]
    return pd.concat(sides, axis=1).assign(kind=kind, similarity=np.nan, distance=None)


def find_same_files(videos: pd.DataFrame) -> pd.DataFrame:
    """Return pairs of videos from different groups with the same `fingerprint`."""
    pairs = _pairs_of_equals(videos[videos["fingerprint"].notna()], "fingerprint", "same_file")
    return pairs[pairs["group_a"] != pairs["group_b"]]


def find_same_names(videos: pd.DataFrame) -> pd.DataFrame:
    """Return pairs of videos with the same name in different parts."""
    return _pairs_of_equals(videos, "video", "same_name")


def _pairs_of_equals(videos: pd.DataFrame, column: str, kind: str) -> pd.DataFrame:
    """Pair each video with the first one that has the same value."""
    ordered = videos.sort_values([column, "part", "video"])
    positions = pd.Series(np.arange(len(ordered)), index=ordered.index)
    first = positions.groupby(ordered[column]).transform("min")
    later = first[first != positions]
    return join_pairs(kind, ordered.iloc[later], ordered.loc[later.index]).assign(distance=0)


def find_near_duplicates(videos: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return pairs of videos from different groups with nearly the same pictures, by `phash`.

    Only original footage is compared: REAL videos, and FAKE videos whose original has no row. Other
    fakes show the footage of their original and are in its group.

    Returns:
        The closest pairs, and the counts of all pairs.
    """
    is_footage = videos["original"].isna() | ~videos["original"].isin(videos["video"])
    rows = videos[is_footage & (videos["phash"].str.len() == 48) & (videos["status"] == Status.OK)]
    words = np.array([list(bytes.fromhex(one)) for one in rows["phash"]], np.uint8)
    hashes = words.reshape(-1, 24).view(np.uint64)
    group, fold = pd.factorize(rows["group"])[0], rows["fold"].to_numpy()
    counts = {"pairs": 0, "pairs_in_two_folds": 0}
    closest = np.zeros((0, 3), np.int64)  # row, other row, distance
    for start in range(0, len(hashes), _BLOCK):
        distances = _hamming_distances(hashes[start : start + _BLOCK], hashes[start:])
        near = distances <= _NEAR_DUPLICATE_BITS
        near &= group[start : start + _BLOCK, None] != group[None, start:]
        near[:, : len(near)] &= ~np.tri(len(near), dtype=np.bool_)  # each pair once
        one, other = np.nonzero(near)
        found = np.stack([start + one, start + other, distances[one, other]], axis=1)
        counts["pairs"] += len(found)
        counts["pairs_in_two_folds"] += int((fold[found[:, 0]] != fold[found[:, 1]]).sum())
        closest = np.concatenate([closest, found])
        closest = closest[np.argsort(closest[:, 2], kind="stable")[:MAX_PAIRS]]
    pairs = join_pairs("near_duplicate", rows.iloc[closest[:, 0]], rows.iloc[closest[:, 1]])
    return pairs.assign(distance=closest[:, 2]), counts


def _hamming_distances(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the bits in which hashes of three words differ: (n, 3) and (m, 3) give (n, m)."""
    bits = np.zeros((len(a), len(b)), np.uint8)  # at most 192
    for word in range(a.shape[1]):
        bits += np.bitwise_count(a[:, None, word] ^ b[None, :, word])
    return bits
