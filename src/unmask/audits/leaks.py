"""Leaks: what a split shows on both sides after all, whoever made it.

Nothing here knows how the split was made: it starts from the finished table, and looks for the same
family, the same file, the same pictures and the same face in two folds.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unmask.config import SplitConfig
from unmask.errors import UnmaskError
from unmask.faces.shards import ShardReader
from unmask.files import atomic_path, write_json
from unmask.progress import track
from unmask.splits.checks import straddling_families
from unmask.tables import (
    FACES,
    IDENTITIES,
    LEAKS,
    SPLITS,
    VIDEOS,
    read_table,
    read_tables,
    write_table,
)
from unmask.vocabulary import Label, Status

logger = logging.getLogger(__name__)

_BLOCK = 512
_PAIRS_KEPT = 1000  # of each kind, the closest
_PAIRS_SHOWN = 12  # of each kind of faces
_PER_GROUPS = 3  # of any two groups, so that one pair of people does not fill the list
# Of 192 bits. A re-encoded or scaled copy differs in a few; two clips of one room in dozens.
_NEAR_DUPLICATE_BITS = 12
_CELL = 192  # pixels of a face on the contact sheet
_ACROSS = 2  # pairs, so that a phone shows them large enough
_NAMED = 5  # families in an error


@dataclass(frozen=True)
class LeakFiles:
    """What the audit writes.

    Attributes:
        summary: JSON of counts.
        pairs: the pairs, see `unmask.tables.LEAKS`.
        sheet: PNG of the closest faces, side by side.
    """

    summary: Path
    pairs: Path
    sheet: Path


def audit_leaks(
    splits: Path,
    ledger: Path,
    identities: Sequence[Path],
    shards: Path,
    indices: Sequence[Path],
    config: SplitConfig,
    files: LeakFiles,
) -> None:
    """Look for what lies in two folds and should not.

    Args:
        splits: the split table.
        ledger: `results/videos.parquet`.
        identities: tables of the people in each shard's videos.
        shards: folder of face shards.
        indices: face indices of all shards, for the contact sheet.
        config: the `split` section, for the threshold from which faces are one person.
        files: what to write.

    Raises:
        UnmaskError: a family lies in two folds.
    """
    videos = read_table(splits, SPLITS).merge(
        read_table(ledger, VIDEOS)[["part", "video", "original", "fingerprint", "phash", "status"]],
        on=["part", "video"],
    )
    people = read_tables(list(identities), IDENTITIES)
    tracks = people[people["embedding"].notna()].merge(videos, on=["part", "video"])
    real = _Faces.of(tracks[tracks["label"] == Label.REAL])
    fake = _Faces.of(tracks[tracks["label"] == Label.FAKE])
    families = straddling_families(videos)
    real_pairs = close_faces(real, real, config.identity_threshold)
    fake_pairs = close_faces(fake, real, config.identity_threshold)
    near, near_counts = near_duplicates(videos)
    pairs = pd.concat(
        [
            _named("real_real", real_pairs.closest, real, real),
            _named("fake_real", fake_pairs.closest, fake, real),
            same_files(videos),
            near,
            same_names(videos),
        ],
        ignore_index=True,
    )
    threshold = config.identity_threshold
    summary = {
        "straddling_originals": families,
        "identity_threshold": threshold,
        "real_real": real_pairs.counts(),
        "fake_real": fake_pairs.counts() | {"fake_tracks": fake_pairs.reaching_tracks},
        "tracks": {
            "real": len(real.rows),
            "fake": len(fake.rows),
            "without_embedding": int(people["embedding"].isna().sum()),
        },
        "same_file": _of_videos(pairs[pairs["kind"] == "same_file"]),
        "near_duplicate": near_counts,
        "same_name": _of_videos(pairs[pairs["kind"] == "same_name"]),
    }
    write_table(pairs.reset_index(names="pair"), LEAKS, files.pairs)
    write_json(summary, files.summary)
    kinds = [pairs[pairs["kind"] == kind] for kind in ("real_real", "fake_real")]
    _write_sheet(
        pd.concat([rows.head(_PAIRS_SHOWN) for rows in kinds]), list(indices), shards, files.sheet
    )
    _log(summary)
    if families:
        raise UnmaskError(
            f"{splits}: {len(families)} families lie in two folds, for example that of "
            f"{', '.join(families[:_NAMED])}; delete the split and rerun"
        )


@dataclass(frozen=True)
class _Faces:
    """Embedded tracks.

    Attributes:
        rows: part, video, track, group and fold of each, numbered from 0.
        vectors: float32 (n, d), of length 1.
        fold: int (n,).
        group: int (n,), equal where the group's name is.
    """

    rows: pd.DataFrame
    vectors: NDArray[np.float32]
    fold: NDArray[np.int64]
    group: NDArray[np.int64]

    @staticmethod
    def of(tracks: pd.DataFrame) -> _Faces:
        """Take the tracks of a table with an `embedding`."""
        rows = tracks.drop(columns="embedding").reset_index(drop=True)
        vectors = (
            np.stack(list(tracks["embedding"])).astype(np.float32)
            if len(tracks)
            else np.zeros((0, 1), np.float32)
        )
        # Group names as numbers that two tables share.
        group = pd.util.hash_array(rows["group"].to_numpy(object)).view(np.int64)
        return _Faces(rows, vectors, rows["fold"].to_numpy(np.int64), group)


@dataclass(frozen=True)
class _ClosePairs:
    """Pairs of faces in different folds.

    Attributes:
        closest: (similarity, row of the one, row of the other), closest first, at most three of two
            groups.
        reaching: how many of all pairs reach the threshold.
        reaching_tracks: how many tracks of the one are in such a pair.
    """

    closest: list[tuple[float, int, int]]
    reaching: int
    reaching_tracks: int

    def counts(self) -> dict[str, Any]:
        """Return what the summary says."""
        closest = round(self.closest[0][0], 3) if self.closest else None
        return {"pairs_at_threshold": self.reaching, "closest": closest}


def close_faces(one: _Faces, other: _Faces, threshold: float) -> _ClosePairs:
    """Return the closest pairs of faces in different folds.

    Similarities are made in blocks of rows; of each block only each row's nearest are kept.

    Args:
        one: tracks.
        other: tracks; the same object for pairs within it.
        threshold: of the cosine similarity.
    """
    nearest: list[tuple[float, int, int]] = []
    reaching = tracks = 0
    if not len(one.rows) or not len(other.rows):
        return _ClosePairs(nearest, reaching, tracks)
    for start in track(range(0, len(one.rows), _BLOCK), "blocks of faces"):
        cosine = one.vectors[start : start + _BLOCK] @ other.vectors.T
        cosine[one.fold[start : start + _BLOCK, None] == other.fold[None]] = -2
        if one is other:  # each pair once
            cosine[np.arange(start, start + len(cosine))[:, None] >= np.arange(len(cosine[0]))] = -2
        reaching += int((cosine >= threshold).sum())
        tracks += int((cosine >= threshold).any(axis=1).sum())
        best = min(_PER_GROUPS, cosine.shape[1])
        columns = np.argpartition(-cosine, best - 1, axis=1)[:, :best]
        found = np.take_along_axis(cosine, columns, axis=1)
        nearest += [
            (float(value), start + row, int(column))
            for row in range(len(cosine))
            for value, column in zip(found[row], columns[row], strict=True)
            if value > -2
        ]
        nearest = heapq.nlargest(20 * _PAIRS_KEPT, nearest)
    kept: list[tuple[float, int, int]] = []
    seen: dict[tuple[int, int], int] = {}
    for value, row, column in sorted(nearest, key=lambda pair: (-pair[0], pair[1], pair[2])):
        key = (int(one.group[row]), int(other.group[column]))
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= _PER_GROUPS and len(kept) < _PAIRS_KEPT:
            kept.append((value, row, column))
    return _ClosePairs(kept, reaching, tracks)


def _named(
    kind: str, pairs: Sequence[tuple[float, int, int]], one: _Faces, other: _Faces
) -> pd.DataFrame:
    columns = ["part", "video", "track", "label", "group", "fold"]
    sides = []
    for suffix, faces, rows in (
        ("_a", one, [row for _, row, _ in pairs]),
        ("_b", other, [column for _, _, column in pairs]),
    ):
        side = faces.rows.iloc[rows][columns].reset_index(drop=True)
        sides.append(side.add_suffix(suffix))
    similarity = pd.Series([value for value, _, _ in pairs], dtype="float64", name="similarity")
    return pd.concat([*sides, similarity], axis=1).assign(kind=kind, distance=None)


def same_files(videos: pd.DataFrame) -> pd.DataFrame:
    """Return pairs of videos of different groups whose files are equal, by `fingerprint`."""
    return _pairs_of_equals(videos[videos["fingerprint"].notna()], "fingerprint", "same_file")


def same_names(videos: pd.DataFrame) -> pd.DataFrame:
    """Return pairs of videos of one name in different parts."""
    return _pairs_of_equals(videos, "video", "same_name")


def _pairs_of_equals(videos: pd.DataFrame, column: str, kind: str) -> pd.DataFrame:
    """Pair each of several equals with the first of them."""
    shared = videos[videos.duplicated(column, keep=False)].sort_values([column, "part", "video"])
    pairs = []
    for _, rows in shared.groupby(column):
        first = rows.index[0]
        pairs += [
            (first, index)
            for index in rows.index[1:]
            if kind == "same_name" or videos.loc[index, "group"] != videos.loc[first, "group"]
        ]
    return _pair_rows(videos, pairs, [0] * len(pairs), kind)


def near_duplicates(videos: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return pairs of videos of different groups that show nearly the same pictures, by `phash`.

    Footage is compared with footage: REAL videos, and a FAKE whose original has no row. The other
    fakes show their original's footage and lie in its group.

    Args:
        videos: columns `part`, `video`, `label`, `original`, `group`, `fold`, `status`, `phash`.

    Returns:
        The closest pairs, and how many there are of all.
    """
    footage = videos["original"].isna() | ~videos["original"].isin(videos["video"])
    rows = videos[footage & videos["phash"].notna() & (videos["status"] == Status.OK)]
    rows = rows[rows["phash"].str.len() == 48]
    words = np.array([list(bytes.fromhex(one)) for one in rows["phash"]], np.uint8)
    hashes = words.reshape(-1, 24).view(np.uint64)
    group, fold = pd.factorize(rows["group"])[0], rows["fold"].to_numpy()
    counts = {"pairs": 0, "pairs_in_two_folds": 0}
    # Row, other row and bits between them.
    closest = np.zeros((0, 3), np.int64)
    for start in range(0, len(hashes), _BLOCK):
        bits = _hamming_distances(hashes[start : start + _BLOCK], hashes[start:])
        near = bits <= _NEAR_DUPLICATE_BITS
        near &= group[start : start + _BLOCK, None] != group[None, start:]
        near[:, : len(near)] &= ~np.tri(len(near), dtype=np.bool_)  # each pair once
        one, other = np.nonzero(near)
        found = np.stack([start + one, start + other, bits[one, other]], axis=1)
        counts["pairs"] += len(found)
        counts["pairs_in_two_folds"] += int((fold[found[:, 0]] != fold[found[:, 1]]).sum())
        closest = np.concatenate([closest, found])
        closest = closest[np.argsort(closest[:, 2], kind="stable")[:_PAIRS_KEPT]]
    pairs = [(rows.index[one], rows.index[other]) for one, other, _ in closest]
    return _pair_rows(videos, pairs, closest[:, 2].tolist(), "near_duplicate"), counts


def _hamming_distances(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the bits in which hashes of three words differ: (n, 3) and (m, 3) give (n, m)."""
    bits = np.zeros((len(a), len(b)), np.uint8)  # 192 at most
    for word in range(a.shape[1]):
        bits += np.bitwise_count(a[:, None, word] ^ b[None, :, word])
    return bits


def _pair_rows(
    videos: pd.DataFrame, pairs: Sequence[tuple[Any, Any]], distances: Sequence[int], kind: str
) -> pd.DataFrame:
    columns = ["part", "video", "label", "group", "fold"]
    sides = [
        videos.loc[[pair[side] for pair in pairs], columns]
        .reset_index(drop=True)
        .add_suffix(suffix)
        for side, suffix in ((0, "_a"), (1, "_b"))
    ]
    return pd.concat(sides, axis=1).assign(
        kind=kind, distance=list(distances), similarity=np.nan, track_a=None, track_b=None
    )


def _of_videos(pairs: pd.DataFrame) -> dict[str, int]:
    return {
        "pairs": len(pairs),
        "pairs_in_two_folds": int((pairs["fold_a"] != pairs["fold_b"]).sum()),
    }


def _log(summary: dict[str, Any]) -> None:
    threshold = summary["identity_threshold"]
    for kind, what in (("real_real", "two REAL videos"), ("fake_real", "a FAKE and a REAL video")):
        count, closest = summary[kind]["pairs_at_threshold"], summary[kind]["closest"]
        logger.log(
            logging.WARNING if count and kind == "real_real" else logging.INFO,
            "%d pairs of faces of %s in two folds are %g or more alike, the closest %s",
            count,
            what,
            threshold,
            closest,
        )
    for kind, what in (
        ("same_file", "equal files"),
        ("near_duplicate", "near duplicates"),
        ("same_name", "videos of one name"),
    ):
        counts = summary[kind]
        logger.log(
            logging.WARNING if counts["pairs_in_two_folds"] else logging.INFO,
            "%d pairs of %s, %d of them in two folds",
            counts["pairs"],
            what,
            counts["pairs_in_two_folds"],
        )


def _write_sheet(pairs: pd.DataFrame, indices: Sequence[Path], shards: Path, path: Path) -> None:
    """Draw pairs of faces with their similarity and their folds."""
    key = ["part", "video", "track"]
    sides = [pairs[[f"{name}_{side}" for name in key]].set_axis(key, axis=1) for side in "ab"]
    shown = pd.concat(sides).astype({"track": "int32"})
    faces = read_tables(indices, FACES, matching=shown)
    reader = ShardReader(shards)
    cells = [_pair_cell(pair, faces, reader) for pair in pairs.to_dict("records")]
    if not cells:
        cells = [_with_caption(_blank(2), ["no two faces lie in different folds"])]
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % _ACROSS)
    starts = range(0, len(cells), _ACROSS)
    rows = [np.concatenate(cells[start : start + _ACROSS], axis=1) for start in starts]
    with atomic_path(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", np.concatenate(rows))[1].tobytes())


def _pair_cell(pair: dict[Any, Any], faces: pd.DataFrame, reader: ShardReader) -> NDArray[np.uint8]:
    pictures = [_face(pair, side, faces, reader) for side in ("a", "b")]
    return _with_caption(
        np.concatenate(pictures, axis=1),
        [
            f"{pair['label_a']} - {pair['label_b']}  {pair['similarity']:.3f}",
            *(f"fold {pair[f'fold_{s}']} {pair[f'part_{s}']}/{pair[f'video_{s}']}" for s in "ab"),
        ],
    )


def _face(
    pair: dict[Any, Any], side: str, faces: pd.DataFrame, reader: ShardReader
) -> NDArray[np.uint8]:
    of_track = faces[
        (faces["part"] == pair[f"part_{side}"])
        & (faces["video"] == pair[f"video_{side}"])
        & (faces["track"] == pair[f"track_{side}"])
    ]
    if of_track.empty:
        return _blank(1)
    crop = of_track.loc[of_track["sharpness"].idxmax()]
    picture = reader.read_crop(crop.to_dict())
    resized = cv2.resize(picture[..., ::-1], (_CELL, _CELL), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.uint8)


def _blank(faces: int) -> NDArray[np.uint8]:
    return np.full((_CELL, _CELL * faces, 3), 255, np.uint8)


def _with_caption(picture: NDArray[np.uint8], lines: Sequence[str]) -> NDArray[np.uint8]:
    """Return a picture with a margin and lines of text below."""
    framed = cv2.copyMakeBorder(picture, 6, 70, 6, 6, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    for number, line in enumerate(lines):
        at = (6, picture.shape[0] + 26 + 19 * number)
        cv2.putText(framed, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.asarray(framed, np.uint8)
