"""Import: a collection as its authors lay it out becomes parts of links, which `data_root` takes.

No video is copied. A part is a folder of links and a `metadata.json`, see `unmask.videos.source`.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from unmask.errors import UnmaskError
from unmask.files import write_json
from unmask.videos.listing import ListedVideo, Unplaced
from unmask.videos.source import METADATA, is_safe_name
from unmask.vocabulary import Label

logger = logging.getLogger(__name__)

_NAMED = 3  # files that the summary names for each reason


class Layout(Protocol):
    """A module of `unmask.videos.layouts`."""

    SIGNS: str

    def is_layout(self, root: Path) -> bool:
        """Return whether a folder or file has the signs of this layout."""
        ...

    def read(self, root: Path) -> Iterator[ListedVideo | Unplaced]:
        """Yield the videos of a collection, and the files that become none."""
        ...


def all_layouts() -> dict[str, Layout]:
    """Return the layouts by name; `folders`, which fits most, comes last."""
    modules = Path(__file__).parent.joinpath("layouts").glob("[!_]*.py")
    names = sorted((one.stem for one in modules), key=lambda name: (name == "folders", name))
    return {name: cast("Layout", import_module(f"unmask.videos.layouts.{name}")) for name in names}


@dataclass(frozen=True)
class Imported:
    """What was imported."""

    layout: str
    destination: Path
    videos: list[ListedVideo]
    paired: int  # fakes whose original is among the videos
    unplaced: list[Unplaced]

    def __str__(self) -> str:
        """Return counts by part, method and split, and what could not be placed."""
        parts = sorted({video.part for video in self.videos})
        lines = [
            f"{len(self.videos)} videos ({self._count(self.videos)}) in the layout {self.layout}, "
            f"as {len(parts)} parts in {self.destination}:",
            *(
                f"  {part}: {self._count(v for v in self.videos if v.part == part)}"
                for part in parts
            ),
        ]
        fakes = [video for video in self.videos if video.label == Label.FAKE]
        if fakes:
            methods = Counter(video.method or "not known" for video in fakes)
            lines.append(f"methods: {_listed(methods)}")
            lines.append(f"originals: {self.paired} of {len(fakes)} FAKE have theirs here")
        splits = Counter(video.split or "none" for video in self.videos)
        lines.append(f"official split: {_listed(splits)}")
        if groups := {video.group for video in self.videos if video.group}:
            lines.append(f"groups that stay in one fold: {len(groups)}")
        for reason, count in Counter(one.reason for one in self.unplaced).most_common():
            names = [one.path.name for one in self.unplaced if one.reason == reason][:_NAMED]
            more = ", …" if count > _NAMED else ""
            lines.append(f"not placed: {count} ({', '.join(names)}{more}): {reason}")
        return "\n".join(lines)

    @staticmethod
    def _count(videos: Any) -> str:
        labels = Counter(video.label for video in videos)
        return ", ".join(f"{labels[label]} {label}" for label in Label if labels[label])


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def import_videos(
    source: Path,
    destination: Path,
    layout: str | None = None,
    only: Sequence[str] = (),
    splits: Sequence[str] = (),
) -> Imported:
    """Arrange a collection of videos for training: parts of links, and their metadata.json.

    Args:
        source: folder of the collection, or a CSV file that lists videos.
        destination: folder of parts, for `data_root` or `evaluation.sets`. Several collections can
            be imported into one; a part that an earlier import wrote is replaced.
        layout: how `source` is laid out; found out where it is not given.
        only: patterns of paths below `source`, such as `*/c23/*`; others are left out.
        splits: official sets to import, of train, val and test; without it all.

    Raises:
        UnmaskError: no layout fits, there is no video, or a part would replace other files.
    """
    root = source.resolve()
    if not root.exists():
        raise UnmaskError(f"{source}: no such folder or file")
    target = destination.resolve()
    if target.is_relative_to(root):
        raise UnmaskError(f"{destination}: is inside {source}; import to a folder elsewhere")
    name, found, root = _choose_layout(root, layout)
    listed = [one for one in found.read(root) if _is_wanted(one.path, root, only)]
    videos = [
        one
        for one in listed
        if isinstance(one, ListedVideo) and (not splits or one.split in splits)
    ]
    unplaced = [one for one in listed if isinstance(one, Unplaced)]
    if not videos:
        imported = Imported(name, destination, videos, 0, unplaced)
        about = str(imported).partition("\n")[2].replace("\n", "; ")
        raise UnmaskError(f"{source}: no video to import; {about}")
    names = _names_of(videos, root)
    parts: dict[str, dict[str, ListedVideo]] = {}
    for video in videos:
        parts.setdefault(_part_of(video), {})[names[video.path]] = video
    for part in parts:
        _check_replaceable(target / part)
    target.mkdir(parents=True, exist_ok=True)
    for part, of_part in parts.items():
        _write_part(target / part, of_part, names)
    paired = sum(video.original in names for video in videos)
    return Imported(name, destination, videos, paired, unplaced)


def _choose_layout(root: Path, wanted: str | None) -> tuple[str, Layout, Path]:
    """Return the name of a layout, the layout, and the folder that has it.

    That is `root`, or the only folder in it, since downloaded archives are often wrapped in one.
    """
    layouts = all_layouts()
    if wanted is not None and wanted not in layouts:
        raise UnmaskError(f"--layout: '{wanted}' is none of {', '.join(layouts)}")
    places = [root]
    while (inside := _only_folder(places[-1])) is not None:
        places.append(inside)
    for name, layout in layouts.items():
        for place in places:
            if wanted in (None, name) and layout.is_layout(place):
                return name, layout, place
    kinds = layouts if wanted is None else {wanted: layouts[wanted]}
    looked_for = "; ".join(f"{name}: {layout.SIGNS}" for name, layout in kinds.items())
    raise UnmaskError(f"{root}: no layout fits; looked for {looked_for}")


def _only_folder(folder: Path) -> Path | None:
    inside = list(folder.iterdir()) if folder.is_dir() else []
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else None


def _is_wanted(path: Path, root: Path, only: Sequence[str]) -> bool:
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    return not only or any(fnmatch(str(inside), pattern) for pattern in only)


def _part_of(video: ListedVideo) -> str:
    return re.sub(r"[^\w.+-]+", "_", video.part).strip("._") or "videos"


def _names_of(videos: Sequence[ListedVideo], root: Path) -> dict[Path, str]:
    """Return the name of each video's link: that of its file, if no other video is taken for it.

    A name is taken once in a part; that of a REAL video, by which fakes refer to it, only once in
    all. Other videos are named after their path.
    """
    in_part = Counter((_part_of(video), video.path.name) for video in videos)
    real = Counter(video.path.name for video in videos if video.label == Label.REAL)
    everywhere = Counter(video.path.name for video in videos)
    names = {}
    for video in videos:
        name = video.path.name
        is_clear = in_part[_part_of(video), name] == 1 and not (real[name] and everywhere[name] > 1)
        if not is_clear or not is_safe_name(name):
            inside = video.path.relative_to(root) if video.path.is_relative_to(root) else video.path
            name = re.sub(r"[/\\]+", "_", str(inside).strip("/"))
        names[video.path] = name
    return names


def _check_replaceable(part: Path) -> None:
    for path in part.iterdir() if part.is_dir() else ():
        if not path.is_symlink() and path.name != METADATA:
            raise UnmaskError(f"{part}: holds {path.name}, which no import wrote; move it away")


def _write_part(part: Path, videos: dict[str, ListedVideo], names: dict[Path, str]) -> None:
    """Write a part next to its place, and move it there when it is complete."""
    temporary = part.with_name(f".{part.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    entries = {}
    for name, video in sorted(videos.items()):
        # Relative, so that links hold where collection and parts are mounted elsewhere together.
        (temporary / name).symlink_to(os.path.relpath(video.path, part))
        original = names.get(video.original, video.original.name) if video.original else None
        entry = {
            "label": video.label,
            "split": video.split,
            "original": original,
            "method": video.method,
            "source": video.source,
            "group": video.group,
        }
        entries[name] = {key: value for key, value in entry.items() if value is not None}
    if part.is_dir():
        shutil.rmtree(part)
    temporary.rename(part)
    write_json(entries, part / METADATA)  # last: a folder without it is no part
