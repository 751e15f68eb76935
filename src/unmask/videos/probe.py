"""Probe: the metadata of each video's container, one row per video.

The columns have ffprobe's values under the names that the challenge's notebooks use. Only the first
frame is decoded, because it alone has the rotation.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unmask.config import LimitsConfig
from unmask.progress import track
from unmask.tables import PROBE, write_rows
from unmask.videos.container import probe_entry
from unmask.videos.inventory import note_inventory, take_inventory
from unmask.videos.isolation import Lost, Task, run_isolated
from unmask.videos.listing import VIDEO_SUFFIXES
from unmask.videos.source import (
    METADATA,
    Entry,
    described,
    part_name,
    shard_entries,
    video_names,
)

logger = logging.getLogger(__name__)


def probe_shard(
    parts: Sequence[Path],
    chunk: int,
    chunks: int,
    limits: LimitsConfig,
    output: Path,
    workers: int = 1,
    token: str = "",
    inventory: Path | None = None,
) -> None:
    """Write the probe table of one shard, and what its parts hold.

    Args:
        parts: folders or archives, each with a `metadata.json` and its videos.
        chunk: number of the chunk of each part, from 0.
        chunks: number of chunks that each part is divided into.
        limits: time and memory for each video.
        output: the table, see `unmask.tables.PROBE`.
        workers: number of processes that open videos.
        token: the workflow's name for what the parts hold; it is noted in the inventory.
        inventory: JSON of what the parts hold, see `unmask.videos.inventory`.

    Raises:
        UnmaskError: a `metadata.json` cannot be used.
    """
    held = take_inventory(parts, chunk, chunks)  # before a video can change that has been opened
    entries = [(part, entry) for part in parts for entry in shard_entries(part, chunk, chunks)]
    tasks = [Task(probe_entry, (part, entry), name=entry.name) for part, entry in entries]
    values = track(run_isolated(tasks, limits, workers), "videos", len(entries))
    rows = [_row(*entry, probed) for entry, probed in zip(entries, values, strict=True)]
    write_rows(rows, PROBE, output)
    if inventory is not None:
        fingerprints = {(row["part"], row["video"]): row.get("fingerprint") for row in rows}
        note_inventory(token, held, fingerprints, inventory)
    logger.info("statuses: %s", dict(Counter(str(row["status"]) for row in rows)))
    if chunk == 0:
        for part in parts:
            _warn_unlisted(part)


def _row(part: Path, entry: Entry, values: dict[str, Any] | Lost) -> dict[str, Any]:
    if isinstance(values, Lost):
        values = {"status": values.status, "detail": values.detail}
    return {"part": part_name(part), "video": entry.name, **described(part, entry), **values}


def _warn_unlisted(part: Path) -> None:
    listed = {entry.name for entry in shard_entries(part, 0, 1)}
    found = {name for name in video_names(part) if Path(name).suffix.lower() in VIDEO_SUFFIXES}
    unlisted = sorted(found - listed)
    if unlisted:
        some = ", ".join(unlisted[:5])
        logger.warning(
            "%s: %d videos are not named in %s: %s …", part, len(unlisted), METADATA, some
        )
