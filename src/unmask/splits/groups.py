"""Groups: videos that must be in the same fold.

A group is named after one of its originals. The fold is a function of the name, so new fakes of a
family must not rename its group. Where a group has several originals, it takes the name of the one
in the first part (by part number), then of the alphabetically first. So parts that are added in
order rename nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from unmask.config import SplitConfig
from unmask.errors import UnmaskError
from unmask.vocabulary import Label

logger = logging.getLogger(__name__)

_BLOCK = 512  # rows of a matrix product; for 20,000 tracks, 40 MB of similarities
_PENDING = 2_000_000  # links that are kept before they are reduced to a forest


def group_videos(videos: pd.DataFrame, joined: Iterable[tuple[str, str]] = ()) -> pd.Series:
    """Return the name of each video's group: its connected component over `original`.

    Args:
        videos: columns `part`, `video` and `original`. Names are compared across parts, and fakes
            of an original without a row form a group as well.
        joined: further pairs of names that belong together.

    Returns:
        The names, indexed as `videos`.
    """
    names: DisjointSet = DisjointSet()
    first_part: dict[str, tuple[tuple[int, str], ...]] = {}
    derived = set()
    order = {part: _natural(part) for part in videos["part"].unique()}
    for part, video, original in zip(
        videos["part"], videos["video"], videos["original"], strict=True
    ):
        pair = (video, original) if isinstance(original, str) else (video,)
        for name in pair:
            names.add(name)
            first_part[name] = min(first_part.get(name, order[part]), order[part])
        if len(pair) == 2 and video != original:
            names.merge(video, original)
            derived.add(video)
    for one, other in joined:
        names.merge(one, other)
    name_of_root = {}
    for group in names.subsets():
        # Where videos name one another as originals, none is without an original.
        candidates = group - derived or group
        name_of_root[names[next(iter(group))]] = min(
            candidates, key=lambda name: (first_part[name], name)
        )
    return videos["video"].map(lambda video: name_of_root[names[video]])


def pairs_with_same(videos: pd.DataFrame, column: str) -> list[tuple[str, str]]:
    """Return pairs of names that join all videos with the same value in a column, if they have one.

    Args:
        videos: columns `video` and `column`.
        column: for example `source`, or `given_group`.
    """
    known = videos[videos[column].notna()]
    first = known.groupby(column)["video"].transform("first")
    return list(zip(known["video"], first, strict=True))


def _natural(part: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key by which part_2 comes before part_10."""
    pieces = re.findall(r"\d+|\D+", part)
    return tuple((int(one), "") if one.isdecimal() else (-1, one) for one in pieces)


def group_by_identity(
    videos: pd.DataFrame,
    identities: pd.DataFrame,
    config: SplitConfig,
    joined: Sequence[tuple[str, str]] = (),
) -> pd.Series:
    """Return the name of each video's group: families are joined if they show the same person.

    Only REAL faces are compared. A swapped face resembles both people, so it would join the family
    of the footage with that of the inserted face, and, through popular faces, all families.

    Args:
        videos: columns `part`, `video`, `original` and `label`.
        identities: see `unmask.tables.IDENTITIES`. Left out are tracks without an embedding, and
            those whose own faces are less similar than faces of one person must be.
        config: the `split` section.
        joined: pairs of names that belong together, whatever their faces look like.

    Returns:
        The names, indexed as `videos`.

    Raises:
        UnmaskError: a group has more than `max_group_share` of all videos.
    """
    families = group_videos(videos, joined)
    names = list(families.unique())
    code_of = {name: code for code, name in enumerate(names)}
    real = videos.assign(family=families)[videos["label"] == Label.REAL]
    tracks = identities.merge(real[["part", "video", "family"]], on=["part", "video"])
    usable = tracks["embedding"].notna() & ~(tracks["consistency"] < config.identity_threshold)
    seen = tracks[usable]
    if seen.empty:
        raise UnmaskError(
            "split.group_by: no face of a REAL video has an embedding; set it to original"
        )
    links = _close_families(
        np.stack(list(seen["embedding"])).astype(np.float32),
        seen["family"].map(code_of).to_numpy(),
        config.identity_threshold,
    )
    _check_share(links, families.map(code_of).to_numpy(), names, config)
    unseen = set(families) - set(seen["family"])
    logger.info(
        "%d REAL tracks (%d left out) join %d families to %d groups; %d families have no REAL face",
        len(seen),
        len(tracks) - len(seen),
        len(names),
        len(names) - len(links.similarity),
        len(unseen),
    )
    return group_videos(videos, [*joined, *((names[a], names[b]) for a, b in links.pairs)])


@dataclass(frozen=True)
class _Links:
    """A forest over families: those that are joined, in decreasing order of similarity."""

    pairs: NDArray[np.int64]  # int (n, 2), numbers of families
    similarity: NDArray[np.float32]  # float32 (n,), cosine of their most similar tracks


def _close_families(
    embeddings: NDArray[np.float32], families: NDArray[np.int64], threshold: float
) -> _Links:
    """Return the maximum spanning forest of families with a cosine similarity >= `threshold`.

    For any higher threshold, its groups are the components of this forest without the links below
    (Gower and Ross, 1969). The n x n similarities are computed block by block.

    Args:
        embeddings: unit vectors, (n, d).
        families: number of each row's family, (n,).
        threshold: of the cosine similarity.
    """
    pairs, similarity = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    for start in range(0, len(embeddings), _BLOCK):
        cosine = embeddings[start : start + _BLOCK] @ embeddings[start:].T
        rows, columns = np.nonzero(cosine >= threshold)
        found = np.stack([families[start + rows], families[start + columns]], axis=1)
        other = found[:, 0] != found[:, 1]
        pairs = np.concatenate([pairs, np.sort(found[other], axis=1)])
        similarity = np.concatenate([similarity, cosine[rows, columns][other]])
        if len(pairs) > _PENDING:
            pairs, similarity = _forest(pairs, similarity)
    return _Links(*_forest(pairs, similarity))


def _forest(
    pairs: NDArray[np.int64], similarity: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    if not len(pairs):
        return pairs, similarity
    # Of several pairs of tracks of two families, the most similar one is kept.
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -similarity))
    pairs, similarity = pairs[order], similarity[order]
    size = int(pairs.max()) + 1
    _, first = np.unique(pairs[:, 0] * size + pairs[:, 1], return_index=True)
    pairs, similarity = pairs[first], similarity[first]
    # A minimum spanning tree needs distances, of which 0 means no edge.
    distance = 2 - similarity.astype(np.float64)
    tree = minimum_spanning_tree(
        coo_array((distance, (pairs[:, 0], pairs[:, 1])), shape=(size, size)).tocsr()
    ).tocoo()
    similarity = np.asarray(2 - tree.data, np.float32)
    order = np.lexsort((tree.col, tree.row, -similarity))
    return np.stack([tree.row, tree.col], axis=1)[order].astype(np.int64), similarity[order]


def _check_share(
    links: _Links, family_of_video: NDArray[np.int64], names: list[str], config: SplitConfig
) -> None:
    """Raise if a group has too many of the videos, and say which threshold splits it."""
    sizes = np.bincount(family_of_video, minlength=len(names))
    most = config.max_group_share * sizes.sum()
    groups = DisjointSet(range(len(names)))
    weight = {code: int(size) for code, size in enumerate(sizes)}
    at = None
    for (one, other), similarity in zip(links.pairs, links.similarity, strict=True):
        joined = weight.pop(groups[int(one)]) + weight.pop(groups[int(other)])
        groups.merge(int(one), int(other))
        weight[groups[int(one)]] = joined
        if at is None and joined > most and joined > sizes.max():
            at = float(similarity)
    if at is None:
        return
    largest = ", ".join(str(size) for size in sorted(weight.values(), reverse=True)[:5])
    lowest = np.floor(at * 1000 + 1) / 1000
    remedy = (
        f"the lowest threshold that splits it is {lowest:.3f}"
        if lowest <= 1
        else "no threshold splits it, because its faces are the same pictures"
    )
    raise UnmaskError(
        f"split.identity_threshold: at {config.identity_threshold:g} one group would have "
        f"{max(weight.values())} of {sizes.sum()} videos, more than split.max_group_share "
        f"({config.max_group_share:g}) allows (largest groups: {largest}); {remedy}"
    )
