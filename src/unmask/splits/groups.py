"""Groups: the videos that must never lie on two sides of a split."""

from __future__ import annotations

import pandas as pd
from scipy.cluster.hierarchy import DisjointSet


def group_videos(videos: pd.DataFrame) -> pd.Series:
    """Return each video's group: the connected component over `original`.

    Args:
        videos: columns `video` and `original`; an original need not have a row of its own, and its
            fakes then still form one group. Names are compared over all parts.

    Returns:
        The group's name, the smallest name in it, indexed as `videos`.
    """
    names: DisjointSet = DisjointSet()
    for video, original in zip(videos["video"], videos["original"], strict=True):
        names.add(video)
        if isinstance(original, str):
            names.add(original)
            names.merge(video, original)
    name_of_root = {names[next(iter(group))]: min(group) for group in names.subsets()}
    return videos["video"].map(lambda video: name_of_root[names[video]])
