"""Similar faces: pairs of tracks in different folds that may show the same person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from unmask.audits.duplicates import MAX_PAIRS, join_pairs
from unmask.faces.shards import ShardReader
from unmask.progress import track
from unmask.report.style import draw_pictures
from unmask.tables import FACES, read_tables

_BLOCK = 512
_PAIRS_PER_GROUPS = 3  # of any two groups, so that two people do not fill the list
_PAIRS_SHOWN = 12  # of each kind


@dataclass(frozen=True)
class SimilarFaces:
    """Pairs of similar faces in different folds."""

    pairs: pd.DataFrame  # rows of `unmask.tables.LEAKS`, the most similar first
    at_threshold: int  # number of all pairs with at least the threshold's similarity
    tracks_at_threshold: int  # number of tracks of the first table in such a pair

    def counts(self) -> dict[str, Any]:
        """Return the entry of the summary."""
        highest = round(self.pairs["similarity"].iloc[0], 3) if len(self.pairs) else None
        return {"pairs_at_threshold": self.at_threshold, "closest": highest}


def find_similar_faces(
    kind: str, first: pd.DataFrame, second: pd.DataFrame, threshold: float
) -> SimilarFaces:
    """Return the most similar pairs of faces in different folds, at most three of any two groups.

    Args:
        kind: name of these pairs.
        first: tracks with `embedding` (a unit vector), `group`, `fold` and names.
        second: other tracks; the same object for pairs within one table.
        threshold: cosine similarity from which two faces count as one person.
    """
    nearest = pd.DataFrame({"similarity": np.zeros(0), "row": 0, "column": 0})
    at_threshold = tracks = 0
    vectors, others = _vectors(first), _vectors(second)
    folds, other_folds = first["fold"].to_numpy(), second["fold"].to_numpy()
    starts = range(0, len(first), _BLOCK) if len(second) else range(0)
    for start in track(starts, "blocks of faces", len(starts)):
        cosine = vectors[start : start + _BLOCK] @ others.T
        excluded = folds[start : start + _BLOCK, None] == other_folds[None]
        if first is second:  # each pair once
            rows = np.arange(start, start + len(cosine))
            excluded |= rows[:, None] >= np.arange(len(others))
        cosine[excluded] = -2
        at_threshold += int((cosine >= threshold).sum())
        tracks += int((cosine >= threshold).any(axis=1).sum())
        # Only the nearest of each row are kept.
        count = min(_PAIRS_PER_GROUPS, len(others))
        columns = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(cosine, columns, axis=1)
        row, rank = np.nonzero(values > -2)
        found = {"similarity": values[row, rank], "row": start + row, "column": columns[row, rank]}
        nearest = pd.concat([nearest, pd.DataFrame(found)], ignore_index=True)
        nearest = nearest.nlargest(20 * MAX_PAIRS, "similarity")
    nearest = nearest.sort_values(["similarity", "row", "column"], ascending=[False, True, True])
    groups = [
        first["group"].to_numpy()[nearest["row"]],
        second["group"].to_numpy()[nearest["column"]],
    ]
    kept = nearest[nearest.groupby(groups).cumcount() < _PAIRS_PER_GROUPS].head(MAX_PAIRS)
    pairs = join_pairs(kind, first.iloc[kept["row"]], second.iloc[kept["column"]])
    pairs = pairs.assign(similarity=kept["similarity"].to_numpy(np.float64))
    return SimilarFaces(pairs, at_threshold, tracks)


def _vectors(tracks: pd.DataFrame) -> NDArray[np.float32]:
    if tracks.empty:
        return np.zeros((0, 1), np.float32)
    return np.stack(list(tracks["embedding"])).astype(np.float32)


def draw_similar_faces(
    kinds: Sequence[pd.DataFrame], indices: Sequence[Path], shards: Path
) -> Figure:
    """Draw the most similar pairs of each kind side by side, two pairs in a row."""
    pairs = pd.concat([rows.head(_PAIRS_SHOWN) for rows in kinds])
    key = ["part", "video", "track"]
    sides = [pairs[[f"{name}_{side}" for name in key]].set_axis(key, axis=1) for side in "ab"]
    crops = read_tables(list(indices), FACES, matching=pd.concat(sides).astype({"track": "int32"}))
    # Rows of the index by part, video and track.
    sharpest = crops.loc[crops.groupby(key)["sharpness"].idxmax()].set_index(key).to_dict("index")
    reader = ShardReader(shards)
    pictures: list[NDArray[np.uint8] | None] = []
    captions: list[str] = []
    for pair in pairs.to_dict("records"):
        for side in "ab":
            part, video, number = (pair[f"{name}_{side}"] for name in key)
            crop = sharpest.get((part, video, number))
            pictures.append(None if crop is None else reader.read_crop(crop))
            similarity = f"cosine similarity {pair['similarity']:.3f}" if side == "a" else ""
            label, fold = pair[f"label_{side}"], pair[f"fold_{side}"]
            captions.append(f"{similarity}\n{label} {video}\nfold {fold}, {part}")
    title = "Most similar faces in two folds" if len(pairs) else "No two faces are in two folds"
    return draw_pictures(title, pictures, captions, across=4, cell=(2.2, 2.9))[0]
