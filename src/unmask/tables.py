"""The tables between stages: their columns, and how they are read and written.

All are Parquet files. Each column is declared here, and a file that lacks a column is an error.
pandas and pyarrow are imported when a table is read or written: importing pandas takes a second,
and the Kaggle bundle runs without pyarrow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import UnmaskError
from unmask.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class Table:
    """The columns of one kind of table."""

    name: str  # for error messages
    columns: dict[str, str]  # column name to Arrow type name, in the order of the file
    key: tuple[str, ...] = ("part", "video")  # rows are sorted by it and unique in it


def _columns(kind: str, names: str) -> dict[str, str]:
    """Return columns of one type."""
    return dict.fromkeys(names.split(), kind)


_VIDEO = _columns("string", "part video")
_SHIFTED = _columns("string", "shift")

PROBE = Table(
    "probe",
    _VIDEO
    | _columns("string", "label original family method source given_group given_split")
    | _columns("string", "status detail")
    | _columns("int64", "file_size")
    | _columns("string", "fingerprint format")
    # Container columns are named as in the challenge's introductory notebooks.
    | _columns("string", "video_codec_name")
    | _columns("int32", "video_streams video_stream_index video_height video_width")
    | _columns("string", "video_sample_aspect_ratio")
    | _columns("int64", "video_nb_frames video_bit_rate")
    | _columns("double", "video_duration video_start_time video_fps")
    | _columns("string", "video_pix_fmt")
    | _columns("string", "video_field_order video_color_range video_color_space")
    | _columns("string", "video_color_transfer video_color_primaries")
    | _columns("int32", "video_rotation")
    | _columns("string", "video_display_matrix")
    | _columns("int32", "video_keyframes")
    | _columns("bool", "video_has_b_frames")
    | _columns("string", "audio_codec_name")
    | _columns("int32", "audio_channels audio_sample_rate")
    | _columns("int64", "audio_nb_frames audio_bit_rate")
    | _columns("double", "audio_duration audio_start_time"),
)

# What a container says about how its pictures are shown, and the titles of these columns.
SHOWN = {
    "video_sample_aspect_ratio": "pixel aspect ratio",
    "video_display_matrix": "display matrix",
    "video_field_order": "field order",
    "video_color_transfer": "transfer",
    "video_color_primaries": "primaries",
}

AUDIO = Table(
    "audio",
    _VIDEO
    | _columns("string", "detail key")
    | _columns("int32", "sample_rate channels")
    | _columns("double", "duration"),
)

CROPPED = Table(
    "cropped videos",
    _VIDEO
    | _columns("string", "status detail")
    | _columns("int32", "frames frames_with_face tracks crops detections")
    | _columns("bool", "reused")
    | _columns("string", "phash"),
)

FACES = Table(
    "face index",
    _VIDEO
    | _columns("int32", "track frame")
    | _columns("double", "time")
    | _columns("string", "shard key")
    | _columns("int64", "offset size")
    | _columns("float", "x0 y0 x1 y1 score")
    | _columns("bool", "detected")
    | _columns("float", "crop_x0 crop_y0 crop_side")
    | _columns("list<float>", "landmarks landmarks_68")
    | _columns("float", "sharpness brightness"),
    key=("part", "video", "track", "frame"),
)

SHIFT_SAMPLE = Table(
    "sample of shifted videos",
    _VIDEO | _columns("string", "label family") | _columns("int32", "fold"),
)

SHIFTED_VIDEOS = Table(
    "shifted videos",
    _SHIFTED | _VIDEO | _columns("string", "status detail") | _columns("int32", "frames crops"),
    key=("shift", "part", "video"),
)

SHIFTED_FACES = Table("index of shifted faces", _SHIFTED | FACES.columns, key=("shift", *FACES.key))

VIDEOS = Table(
    "ledger",
    PROBE.columns
    | {name: kind for name, kind in CROPPED.columns.items() if name not in PROBE.columns},
)

IDENTITIES = Table(
    "identities",
    _VIDEO
    | _columns("int32", "track")
    | _columns("string", "detail")
    | _columns("int32", "faces")
    | _columns("float", "consistency")
    | _columns("list<float>", "embedding"),
    key=("part", "video", "track"),
)

NOISE = Table(
    "label noise",
    _VIDEO
    | _columns("int32", "track")
    | _columns("string", "original original_part")
    | _columns("int32", "original_track frames")
    | _columns("double", "changed")
    | _columns("string", "verdict"),
    key=("part", "video", "track"),
)

SPLITS = Table(
    "splits", _VIDEO | _columns("string", "label family source group") | _columns("int32", "fold")
)

_PAIRED = (
    _VIDEO
    | _columns("int32", "track")
    | _columns("string", "label group")
    | _columns("int32", "fold")
)

LEAKS = Table(
    "leaks",
    {"pair": "int32", "kind": "string", "similarity": "double", "distance": "int32"}
    | {f"{name}_{side}": kind for side in ("a", "b") for name, kind in _PAIRED.items()},
    key=("pair",),
)

SCORES = Table(
    "scores",
    _VIDEO
    | _columns("int32", "track frame")
    | _columns("double", "time")
    | _columns("string", "label experiment")
    | _columns("int32", "fold seed")
    | _columns("string", "role")
    | _columns("double", "logit"),
    key=("fold", "seed", "part", "video", "track", "frame"),
)

SHIFT_SCORES = Table(
    "scores of shifted faces", _SHIFTED | SCORES.columns, key=("shift", *SCORES.key)
)

PREDICTIONS = Table(
    "video predictions",
    _VIDEO
    | _columns("string", "label family group")
    | _columns("int32", "fold")
    | _columns("string", "role")
    | _columns("int32", "faces")
    | _columns("double", "logit log_odds probability"),
    key=("fold", "part", "video"),
)

OUT_OF_FOLD = Table(
    "out-of-fold predictions",
    _VIDEO
    | _columns("string", "label status group")
    | _columns("int32", "fold")
    | _columns("string", "source")
    | _columns("int32", "faces")
    | _columns("double", "logit probability"),
)


def _arrow_schema(table: Table) -> pa.Schema:
    import pyarrow as pa

    types = {"list<float>": pa.list_(pa.float32()), "bool": pa.bool_(), "float": pa.float32()}
    return pa.schema(
        [(name, types.get(kind) or pa.type_for_alias(kind)) for name, kind in table.columns.items()]
    )


def write_table(rows: pd.DataFrame, table: Table, path: Path) -> None:
    """Write the columns of a table as Parquet, sorted by its key; equal rows give equal bytes.

    Raises:
        ValueError: a column is missing, or two rows have the same key: a bug of the caller.
    """
    import pyarrow as pa

    missing = [name for name in table.columns if name not in rows]
    if missing:
        raise ValueError(f"{table.name} table: no column {missing}")
    if rows.duplicated(list(table.key)).any():
        raise ValueError(f"{table.name} table: rows share {table.key}")
    ordered = rows[list(table.columns)].sort_values(list(table.key), kind="stable")
    _write_arrow(
        pa.Table.from_pandas(ordered, schema=_arrow_schema(table), preserve_index=False), path
    )


def write_rows(rows: Sequence[Mapping[str, Any]], table: Table, path: Path) -> None:
    """Write rows like `write_table`, but without importing pandas; missing columns are null.

    Raises:
        ValueError: two rows have the same key: a bug of the caller.
    """
    import pyarrow as pa
    from pyarrow.json import ParseOptions, ReadOptions, read_json

    ordered = sorted(rows, key=lambda row: tuple(row[name] for name in table.key))
    for one, other in pairwise(ordered):
        if all(one[name] == other[name] for name in table.key):
            raise ValueError(f"{table.name} table: rows share {table.key}")
    schema = _arrow_schema(table)
    if not ordered:
        _write_arrow(pa.Table.from_batches([], schema), path)
        return
    # To convert a list, Arrow imports pandas, in case it is a Series; it parses JSON without.
    lines = ({name: row.get(name) for name in table.columns} for row in ordered)
    text = "\n".join(json.dumps(line, default=lambda value: value.tolist()) for line in lines)
    arrow = read_json(
        BytesIO(text.encode()),
        read_options=ReadOptions(use_threads=False, block_size=len(text)),
        parse_options=ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
    )
    _write_arrow(arrow, path)


def _write_arrow(arrow: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(arrow.replace_schema_metadata(None), temporary, compression="zstd")


def read_table(path: Path, table: Table) -> pd.DataFrame:
    """Read a table that `write_table` or `write_rows` wrote.

    Raises:
        UnmaskError: the file is no Parquet file, or lacks a column.
    """
    frame: pd.DataFrame = _read_arrow(path, table).to_pandas()
    return frame


def read_rows(path: Path, table: Table) -> list[dict[str, Any]]:
    """Read a table like `read_table`, as a list of rows and without importing pandas."""
    rows: list[dict[str, Any]] = _read_arrow(path, table).to_pylist()
    return rows


def _read_arrow(path: Path, table: Table, columns: Sequence[str] | None = None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # pyarrow's read_table would import the machinery for folders of files.
        with pq.ParquetFile(path) as file:
            missing = [name for name in table.columns if name not in file.schema_arrow.names]
            if missing:
                raise UnmaskError(
                    f"{path}: the {table.name} table lacks {', '.join(missing)}; "
                    "an older version wrote it: delete it and rerun"
                )
            wanted = list(columns or table.columns)
            return file.read(wanted).select(wanted)
    except (pa.ArrowInvalid, OSError) as error:
        raise UnmaskError(
            f"{path}: cannot be read as a table ({error}): delete it and rerun"
        ) from None


def read_tables(
    paths: Sequence[Path],
    table: Table,
    columns: Sequence[str] | None = None,
    matching: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Read several tables of one kind as one, in the order of `paths`.

    DFDC has millions of faces, so read only the columns and rows that are needed.

    Args:
        paths: files of the tables.
        table: declares their columns.
        columns: the columns to read; None for all.
        matching: keep the rows whose values, in the columns of `matching`, are a row of `matching`.

    Raises:
        UnmaskError: as `read_table`.
    """
    import pandas as pd

    kept = list(columns or table.columns)
    frames = [_arrow_schema(table).empty_table().select(kept).to_pandas()]
    for path in paths:
        frame = _read_arrow(path, table, kept).to_pandas()
        if matching is not None:
            frame = frame.merge(matching.drop_duplicates(), on=list(matching))
        frames.append(frame)
    joined: pd.DataFrame = pd.concat(frames[1:] or frames, ignore_index=True)
    return joined
