"""Leaks: the same family, file, footage or face in two folds of a split.

The audit knows nothing of how the split was made: it starts from the finished table.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from unmask.audits.duplicates import find_near_duplicates, find_same_files, find_same_names
from unmask.audits.similar_faces import draw_similar_faces, find_similar_faces
from unmask.config import SplitConfig
from unmask.errors import UnmaskError
from unmask.files import write_json
from unmask.report.style import save
from unmask.splits.checks import straddling_families
from unmask.tables import IDENTITIES, LEAKS, SPLITS, VIDEOS, read_table, read_tables, write_table
from unmask.vocabulary import Label

logger = logging.getLogger(__name__)

_MAX_NAMED = 5  # families in an error


def audit_leaks(
    splits: Path,
    ledger: Path,
    identities: Sequence[Path],
    shards: Path,
    indices: Sequence[Path],
    config: SplitConfig,
    summary: Path,
    pairs: Path,
    sheet: Path,
) -> None:
    """Look for videos and faces that are in two folds and should not be.

    Args:
        splits: the split table.
        ledger: `results/videos.parquet`.
        identities: tables of the face embeddings of each shard's tracks.
        shards: folder of face shards.
        indices: face indices of all shards, for the contact sheet.
        config: the `split` section, for the threshold from which two faces count as one person.
        summary: JSON of counts to write.
        pairs: the pairs to write, see `unmask.tables.LEAKS`.
        sheet: PNG to write, of the most similar faces side by side.

    Raises:
        UnmaskError: a family is in two folds; the files are written nevertheless.
    """
    columns = ["part", "video", "original", "fingerprint", "phash", "status"]
    videos = read_table(splits, SPLITS)
    videos = videos.merge(read_table(ledger, VIDEOS)[columns], on=["part", "video"])
    tracks = read_tables(list(identities), IDENTITIES)
    has_embedding = tracks["embedding"].notna()
    embedded = tracks[has_embedding].merge(videos, on=["part", "video"])
    real, fake = (embedded[embedded["label"] == label] for label in Label)
    threshold = config.identity_threshold
    real_real = find_similar_faces("real_real", real, real, threshold)
    fake_real = find_similar_faces("fake_real", fake, real, threshold)
    same_files, same_names = find_same_files(videos), find_same_names(videos)
    near, near_counts = find_near_duplicates(videos)
    families = straddling_families(videos)
    content = {
        "straddling_originals": families,
        "identity_threshold": threshold,
        "real_real": real_real.counts(),
        "fake_real": fake_real.counts() | {"fake_tracks": fake_real.tracks_at_threshold},
        "tracks": {
            "real": len(real),
            "fake": len(fake),
            "without_embedding": int((~has_embedding).sum()),
        },
        "same_file": _count_pairs(same_files),
        "near_duplicate": near_counts,
        "same_name": _count_pairs(same_names),
    }
    found = [real_real.pairs, fake_real.pairs, same_files, near, same_names]
    table = pd.concat([one for one in found if len(one)] or found, ignore_index=True)
    write_table(table.reset_index(names="pair"), LEAKS, pairs)
    write_json(content, summary)
    save(draw_similar_faces(found[:2], indices, shards), sheet)
    _log_counts(content)
    if families:
        raise UnmaskError(
            f"{splits}: {len(families)} families are in two folds, for example that of "
            f"{', '.join(families[:_MAX_NAMED])}; delete the split and rerun"
        )


def _count_pairs(pairs: pd.DataFrame) -> dict[str, int]:
    in_two_folds = int((pairs["fold_a"] != pairs["fold_b"]).sum())
    return {"pairs": len(pairs), "pairs_in_two_folds": in_two_folds}


def _log_counts(content: dict[str, Any]) -> None:
    for kind in ("real_real", "fake_real"):
        count, closest = content[kind]["pairs_at_threshold"], content[kind]["closest"]
        level = logging.WARNING if count and kind == "real_real" else logging.INFO
        threshold = content["identity_threshold"]
        text = "%s: %d pairs of faces in two folds with a similarity of %g or more (highest: %s)"
        logger.log(level, text, kind, count, threshold, closest)
    for kind in ("same_file", "near_duplicate", "same_name"):
        pairs, in_two_folds = content[kind].values()
        level = logging.WARNING if in_two_folds else logging.INFO
        logger.log(level, "%s: %d pairs, %d of them in two folds", kind, pairs, in_two_folds)
