"""The ledger: every video of every `metadata.json`, each with exactly one status."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from unmask.errors import UnmaskError
from unmask.files import write_json
from unmask.tables import CROPPED, PROBE, VIDEOS, read_tables, write_table
from unmask.videos.originals import find_originals
from unmask.videos.source import described, part_name, read_metadata
from unmask.vocabulary import Status

logger = logging.getLogger(__name__)

WITHOUT_FILE = (Status.BAD_METADATA, Status.UNSAFE_NAME, Status.DUPLICATE, Status.MISSING)


def write_ledger(
    probes: Sequence[Path],
    cropped: Sequence[Path],
    output: Path,
    summary: Path,
    parts: Sequence[Path] = (),
) -> None:
    """Join the tables of the probe and of the crop stage.

    Args:
        probes: the probe tables of all shards.
        cropped: the tables of cropped videos of all shards.
        output: the ledger, see `unmask.tables.VIDEOS`.
        summary: JSON of counts by status, which add up to the number of videos, and of the fakes by
            where their original is.
        parts: those whose `metadata.json` is read again, so that a corrected label opens no video.

    Raises:
        UnmaskError: there is no video, or none with a face.
    """
    probe = describe_again(read_tables(probes, PROBE), parts)
    ledger = join_ledger(probe, read_tables(cropped, CROPPED))
    present, originals = find_originals(with_file(ledger))
    if originals.ambiguous:
        logger.warning("%s", originals.ambiguity())
    ledger.loc[present.index, ["original", "family"]] = present[["original", "family"]]
    if ledger.empty:
        raise UnmaskError("the ledger is empty: no metadata.json in data_root names a video")
    counts = ledger["status"].value_counts().sort_index()
    if Status.OK not in counts:
        raise UnmaskError(f"no video has a usable face; statuses: {counts.to_dict()}")
    write_table(ledger, VIDEOS, output)
    labels = ledger[ledger["status"] == Status.OK]["label"].value_counts().sort_index()
    report = {
        "videos": len(ledger),
        "statuses": {str(status): int(n) for status, n in counts.items()},
        "usable": {str(label): int(n) for label, n in labels.items()},
        "originals": asdict(originals),
    }
    write_json(report, summary)
    logger.info("%s", report)


def describe_again(probe: pd.DataFrame, parts: Sequence[Path]) -> pd.DataFrame:
    """Return the rows of a probe table with what the `metadata.json` of some parts say now."""
    rows = [
        {"part": part_name(part), "video": entry.name, **described(part, entry)}
        | dict.fromkeys(["status", "detail"])
        | ({} if entry.status == Status.OK else {"status": entry.status, "detail": entry.detail})
        for part in parts
        for entry in read_metadata(part)
    ]
    if not rows:
        return probe
    entries = pd.DataFrame(rows)
    probed = probe.drop(columns=list(entries)[2:-2])
    again = entries.merge(probed, on=["part", "video"], how="left", suffixes=("", "_probed"))
    for name in ("status", "detail"):
        again[name] = again[name].fillna(again.pop(f"{name}_probed"))
    # A video that was added while the workflow ran is probed in the next run.
    again = again[again["status"].notna()]
    others = probe[~probe["part"].isin([part_name(part) for part in parts])]
    joined: pd.DataFrame = pd.concat([others, again], ignore_index=True)
    return joined


def join_ledger(probe: pd.DataFrame, cropped: pd.DataFrame) -> pd.DataFrame:
    """Return one row per probed video, with the status of the last stage that it reached."""
    ledger = probe.merge(cropped, on=["part", "video"], how="left", suffixes=("", "_cropped"))
    for column in ("status", "detail"):
        ledger[column] = ledger.pop(f"{column}_cropped").fillna(ledger[column])
    ledger = ledger.sort_values(["video", "part"], kind="stable", ignore_index=True)
    # Only decoded files can be duplicates. The same name is not enough: some data sets have several
    # videos of one name.
    decoded = ledger[ledger["status"].isin([Status.OK, Status.NO_FACE])]
    duplicate = decoded.index[decoded.duplicated(["video", "label", "original", "file_size"])]
    ledger.loc[duplicate, "detail"] = "the same video is in an earlier part"
    ledger.loc[duplicate, "status"] = Status.DUPLICATE
    return ledger


def with_file(ledger: pd.DataFrame) -> pd.DataFrame:
    """Return the videos of a ledger that have a file: all that get a prediction."""
    present: pd.DataFrame = ledger[~ledger["status"].isin(WITHOUT_FILE)]
    return present
