"""Originals: the REAL video that each fake was made from, in whichever part it is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from unmask.vocabulary import Label

if TYPE_CHECKING:
    import pandas as pd


class RealVideos:
    """The REAL videos of some parts by name, among which the originals of fakes are looked up."""

    def __init__(self, videos: Iterable[tuple[str, str]]) -> None:
        """Take the part and the name of each."""
        self._named: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        self._stems: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for part, name in videos:
            self._named[name].append((part, name))
            self._stems[PurePath(name).stem].append((part, name))

    def find(self, part: str, original: str) -> list[tuple[str, str]]:
        """Return the videos that a fake of a part can mean by the name of its original.

        The name may lack its extension. Videos of the fake's own part win over others.
        """
        videos = self._named.get(original) or self._stems.get(original, [])
        return [video for video in videos if video[0] == part] or videos


@dataclass(frozen=True)
class OriginalCounts:
    """How many fakes have an original, and where it is."""

    own_part: int  # in the part of the fake
    other_part: int
    absent: int  # no part has a REAL video of that name
    unnamed: int  # the entry names no original
    ambiguous: int  # several other parts have a REAL video of that name
    examples: list[str]  # the first three ambiguous fakes

    @property
    def found(self) -> int:
        """Return how many fakes have an original."""
        return self.own_part + self.other_part

    def ambiguity(self) -> str:
        """Return a message about ambiguous originals, or nothing."""
        if not self.ambiguous:
            return ""
        return (
            f"{self.ambiguous} fakes name an original that several other parts have, so it is not "
            f"known: {', '.join(self.examples)}; put each into the part of its original"
        )


def find_originals(videos: pd.DataFrame) -> tuple[pd.DataFrame, OriginalCounts]:
    """Return videos with `original` and `family` as found, and where the originals of fakes are.

    A family has the name of its original. If several families would have the same name, each is
    PART/NAME instead, because videos of one name in two parts are different videos.

    Args:
        videos: columns `part`, `video`, `label` and `original`.
    """
    import pandas as pd  # takes a second, and most jobs that read a metadata.json do without

    is_real, is_fake = (videos["label"] == label for label in Label)
    reals = RealVideos(zip(videos["part"][is_real], videos["video"][is_real], strict=True))
    heads = Counter(videos.loc[is_real | videos["original"].isna(), "video"])

    def family(part: str, name: str) -> str:
        return f"{part}/{name}" if heads[name] > 1 else name

    rows: list[tuple[str | None, str, str]] = []
    columns = (videos[name] for name in ("part", "video", "original"))
    for part, video, original in zip(*columns, strict=True):
        if not isinstance(original, str):
            rows.append((None, family(part, video), "unnamed"))
            continue
        match reals.find(part, original):
            case [(home, name)]:
                place = "own_part" if home == part else "other_part"
                rows.append((name, family(home, name), place))
            case several:
                rows.append((original, original, "ambiguous" if several else "absent"))
    found = pd.DataFrame(rows, videos.index, columns=["original", "family", "where"])
    where = found.pop("where")
    counts = where[is_fake].value_counts()
    own_part, other_part, absent, unnamed, ambiguous = (
        int(counts.get(place, 0))
        for place in ("own_part", "other_part", "absent", "unnamed", "ambiguous")
    )
    examples = sorted(videos.loc[where == "ambiguous", "video"])[:3]
    return videos.assign(**found), OriginalCounts(
        own_part, other_part, absent, unnamed, ambiguous, examples
    )
