"""Inventories: which videos a shard had when it was probed, and whether they have changed since.

The time of a folder tells little: a stray file changes it, and a video replaced in place does not.
So the probe notes each video with its size and time, and the workflow compares them when it starts.
Where only times differ, as in a copy, the digest of a video's first, middle and last block decides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from unmask.errors import UnmaskError
from unmask.files import atomic_path, read_json
from unmask.videos.source import (
    METADATA,
    FileState,
    VideoFile,
    file_states,
    part_name,
    shard_entries,
)
from unmask.vocabulary import Status


class Listed(NamedTuple):
    """A video that the probe opens."""

    family: str  # its crops depend on this as well
    state: FileState | None  # None where there is no such file
    fingerprint: str | None = None  # None where the probe has not read it


@dataclass(frozen=True)
class PartInventory:
    """The videos of a part, or of one chunk of it, by name."""

    metadata: FileState | None  # of metadata.json
    labels: str  # a digest of all that it says of these videos
    videos: dict[str, Listed]


@dataclass(frozen=True)
class Inventory:
    """The parts of a shard by name."""

    token: str  # the parameter of the probe that noted it
    parts: dict[str, PartInventory]

    @property
    def labels(self) -> str:
        """Return a digest of all that `metadata.json` says of the videos."""
        return _digest([part.labels for part in self.parts.values()])


def take_inventory(
    parts: Iterable[Path], chunk: int, chunks: int, noted: Inventory | None = None
) -> dict[str, PartInventory]:
    """Return what the parts of a shard hold now.

    Args:
        parts: folders or archives.
        chunk: number of the chunk of each part, from 0.
        chunks: number of chunks that each part is divided into.
        noted: an earlier inventory; a `metadata.json` that has not changed since is not read.

    Raises:
        UnmaskError: a `metadata.json` or an archive cannot be read.
    """
    found = {}
    for part in parts:
        earlier = noted.parts.get(part_name(part)) if noted else None
        metadata = file_states(part, [METADATA]).get(METADATA)
        if earlier and metadata == earlier.metadata:
            labels = earlier.labels
            families = {name: video.family for name, video in earlier.videos.items()}
        else:
            entries = shard_entries(part, chunk, chunks)
            labels = _digest(entries)
            families = {entry.name: entry.family for entry in entries if entry.status == Status.OK}
        states = file_states(part, families)
        videos = {name: Listed(family, states.get(name)) for name, family in families.items()}
        found[part_name(part)] = PartInventory(metadata, labels, videos)
    return found


def note_inventory(
    token: str,
    parts: Mapping[str, PartInventory],
    fingerprints: Mapping[tuple[str, str], str | None],
    path: Path,
) -> None:
    """Write an inventory for `check_inventory`.

    Args:
        token: the parameter of the probe.
        parts: from `take_inventory`, before the videos were opened.
        fingerprints: digests of the videos by part and name.
        path: the JSON file to write.
    """
    content = {
        part: vars(one)
        | {
            "videos": {
                name: video._replace(fingerprint=fingerprints.get((part, name)))
                for name, video in one.videos.items()
            }
        }
        for part, one in parts.items()
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"token": token, "parts": content}), encoding="utf-8")


def check_inventory(path: Path, parts: Sequence[Path], chunk: int, chunks: int) -> Inventory:
    """Return what a shard holds now; its token is the noted one if no video has changed.

    Where videos are the same in spite of other times, the new times are noted: the digests of a
    copied data set are taken once.

    Args:
        path: the inventory of the last probe; there may be none.
        parts: folders or archives.
        chunk: number of the chunk of each part, from 0.
        chunks: number of chunks that each part is divided into.

    Raises:
        UnmaskError: a `metadata.json` or an archive cannot be read.
    """
    try:
        noted = read_json(path, Inventory)
    except UnmaskError:
        noted = None
    now = take_inventory(parts, chunk, chunks, noted)
    if noted is None or not _is_same(parts, now, noted.parts):
        videos = {part: one.videos for part, one in now.items()}
        return Inventory(_digest(videos), now)
    fingerprints = {
        (part, name): video.fingerprint
        for part, one in noted.parts.items()
        for name, video in one.videos.items()
    }
    if _states(now) != _states(noted.parts):
        with suppress(OSError, UnmaskError):  # it only saves time
            note_inventory(noted.token, now, fingerprints, path)
    return Inventory(noted.token, now)


def token_of_test_set(sample: Path, videos: Path) -> str:
    """Return a digest of `sample_submission.csv` and of the sizes and times of its videos."""
    content = sample.read_bytes()
    names = [line.split(",")[0] for line in content.decode(errors="replace").splitlines()]
    return _digest((content, file_states(videos, names)))


def _is_same(
    parts: Sequence[Path], now: Mapping[str, PartInventory], noted: Mapping[str, PartInventory]
) -> bool:
    if now.keys() != noted.keys():
        return False
    for part in parts:
        new, old = (one[part_name(part)].videos for one in (now, noted))
        if new.keys() != old.keys():
            return False
        for name, video in new.items():
            if video[:2] != old[name][:2] and not _is_copy(part, name, video, old[name]):
                return False
    return True


def _is_copy(part: Path, name: str, new: Listed, old: Listed) -> bool:
    """Return whether only the time of a video differs."""
    if new.state is None or old.state is None or new.family != old.family:
        return False
    if new.state.size != old.state.size:
        return False
    try:
        return VideoFile(part, name).fingerprint() == old.fingerprint
    except (OSError, UnmaskError):
        return False


def _states(parts: Mapping[str, PartInventory]) -> list[object]:
    return [
        (one.metadata, [video.state for video in one.videos.values()]) for one in parts.values()
    ]


def _digest(content: object) -> str:
    return hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()
