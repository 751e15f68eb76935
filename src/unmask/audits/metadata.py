"""Metadata: whether all parts together can be used, before the first video is opened."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from unmask.config import SplitConfig
from unmask.errors import UnmaskError
from unmask.files import write_json
from unmask.progress import notice
from unmask.splits.folds import check_group_count
from unmask.splits.groups import group_videos, pairs_with_same
from unmask.videos.originals import OriginalCounts, find_originals
from unmask.videos.source import METADATA, Entry, part_name, read_metadata, source_of_part
from unmask.vocabulary import Label, Status

logger = logging.getLogger(__name__)

# Share of entries that may be damaged. More are written in a way that is not understood.
_MOST_UNUSABLE = 0.01
_NAMED = 3  # reasons in a message, and names of each


@dataclass(frozen=True)
class MetadataCounts:
    """What the `metadata.json` of all parts say, in videos."""

    real: int
    fake: int
    unusable: int  # entries without a label, or with a name that is no file name
    groups: int  # families, or what else `split.group_by` keeps in one fold
    originals: OriginalCounts  # of the fakes


def check_metadata(parts: Sequence[Path], config: SplitConfig, output: Path) -> None:
    """Count the videos, families and originals of all parts.

    Args:
        parts: folders or archives.
        config: the `split` section.
        output: JSON, see `MetadataCounts`.

    Raises:
        UnmaskError: more than 1 % of the entries cannot be used, no video is REAL, or there are
            fewer families than folds.
    """
    entries = [(part_name(part), entry) for part in parts for entry in read_metadata(part)]
    usable = [(part, entry) for part, entry in entries if entry.status == Status.OK]
    unusable = [(part, entry) for part, entry in entries if entry.status != Status.OK]
    if unusable:
        text = f"{len(unusable)} of {len(entries)} entries of {METADATA} are not usable: "
        text += _reasons(unusable)
        if len(unusable) > _MOST_UNUSABLE * len(entries):
            raise UnmaskError(f"data_root: {text}; correct them")
        notice.warning("data_root: %s; they are left out", text)
    if reread := [(part, entry) for part, entry in usable if entry.detail]:
        notice.warning("data_root: %s; correct them if that is wrong", _reasons(reread))
    rows = [
        {
            "part": part,
            "video": entry.name,
            "label": entry.label,
            "original": entry.original,
            "source": entry.source or source_of_part(part),
            "given_group": entry.group,
        }
        for part, entry in usable
    ]
    if not any(row["label"] == Label.REAL for row in rows):
        raise UnmaskError(
            f"data_root: no {METADATA} names a REAL video ({len(rows)} FAKE), so no model can be "
            "trained or tested; add parts with REAL videos"
        )
    videos, originals = find_originals(pd.DataFrame(rows))
    if originals.ambiguous:
        notice.warning("data_root: %s", originals.ambiguity())
    joined = pairs_with_same(videos, "given_group")
    if config.group_by == "source":
        joined += pairs_with_same(videos, "source")
    groups = group_videos(videos, joined).nunique()
    if config.file is None:
        check_group_count(groups, config)
    real, fake = (int((videos["label"] == label).sum()) for label in Label)
    counts = MetadataCounts(real, fake, len(unusable), groups, originals)
    write_json(counts, output)
    logger.info("%s", counts)


def _reasons(entries: Sequence[tuple[str, Entry]]) -> str:
    """Return the most frequent details of entries, each with a count and the first three names."""
    names: dict[str, list[str]] = {}
    for part, entry in entries:
        names.setdefault(entry.detail, []).append(f"{part}/{entry.name}")
    ordered = sorted(names.items(), key=lambda item: -len(item[1]))
    return "; ".join(
        f"{detail}: {len(of)} ({', '.join(of[:_NAMED])}{' …' if len(of) > _NAMED else ''})"
        for detail, of in ordered[:_NAMED]
    )
