"""The tables between stages: their columns, and how they are read and written.

All are Parquet files. A column is declared once, here, and a file that lacks one is an error that
names it. pandas and pyarrow are imported when a table is read or written: importing pandas takes a
second, and the Kaggle bundle runs without pyarrow.
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


_VIDEO = {"part": "string", "video": "string"}

PROBE = Table(
    "probe",
    # Container columns are named as in the challenge's introductory notebooks.
    _VIDEO
    | {
        "label": "string",
        "original": "string",
        "family": "string",
        "method": "string",
        "source": "string",
        "status": "string",
        "detail": "string",
        "file_size": "int64",
        "fingerprint": "string",
        "format": "string",
        "video_codec_name": "string",
        "video_height": "int32",
        "video_width": "int32",
        "video_nb_frames": "int64",
        "video_bit_rate": "int64",
        "video_duration": "double",
        "video_start_time": "double",
        "video_fps": "double",
        "video_pix_fmt": "string",
        "video_rotation": "int32",
        "video_keyframes": "int32",
        "video_has_b_frames": "bool",
        "audio_codec_name": "string",
        "audio_channels": "int32",
        "audio_sample_rate": "int32",
        "audio_nb_frames": "int64",
        "audio_bit_rate": "int64",
        "audio_duration": "double",
        "audio_start_time": "double",
    },
)

AUDIO = Table(
    "audio",
    _VIDEO
    | {
        "detail": "string",
        "key": "string",
        "sample_rate": "int32",
        "channels": "int32",
        "duration": "double",
    },
)

CROPPED = Table(
    "cropped videos",
    _VIDEO
    | {
        "status": "string",
        "detail": "string",
        "frames": "int32",
        "frames_with_face": "int32",
        "tracks": "int32",
        "crops": "int32",
        "detections": "int32",
        "reused": "bool",
        "phash": "string",
    },
)

FACES = Table(
    "face index",
    _VIDEO
    | {
        "track": "int32",
        "frame": "int32",
        "time": "double",
        "shard": "string",
        "key": "string",
        "offset": "int64",
        "size": "int64",
        "x0": "float",
        "y0": "float",
        "x1": "float",
        "y1": "float",
        "score": "float",
        "detected": "bool",
        "crop_x0": "float",
        "crop_y0": "float",
        "crop_side": "float",
        "landmarks": "list<float>",
        "landmarks_68": "list<float>",
        "sharpness": "float",
        "brightness": "float",
    },
    key=("part", "video", "track", "frame"),
)

_SHIFTED = {"shift": "string"}

SHIFT_SAMPLE = Table(
    "sample of shifted videos",
    _VIDEO | {"label": "string", "family": "string", "fold": "int32"},
)

SHIFTED_VIDEOS = Table(
    "shifted videos",
    _SHIFTED
    | _VIDEO
    | {"status": "string", "detail": "string", "frames": "int32", "crops": "int32"},
    key=("shift", "part", "video"),
)

SHIFTED_FACES = Table(
    "index of shifted faces",
    _SHIFTED | FACES.columns,
    key=("shift", *FACES.key),
)

VIDEOS = Table(
    "ledger",
    PROBE.columns
    | {name: kind for name, kind in CROPPED.columns.items() if name not in PROBE.columns},
)

IDENTITIES = Table(
    "identities",
    _VIDEO
    | {
        "track": "int32",
        "detail": "string",
        "faces": "int32",
        "consistency": "float",
        "embedding": "list<float>",
    },
    key=("part", "video", "track"),
)

NOISE = Table(
    "label noise",
    _VIDEO
    | {
        "track": "int32",
        "original": "string",
        "original_track": "int32",
        "frames": "int32",
        "changed": "double",
        "verdict": "string",
    },
    key=("part", "video", "track"),
)

SPLITS = Table(
    "splits",
    _VIDEO | dict.fromkeys(("label", "family", "source", "group"), "string") | {"fold": "int32"},
)

_PAIRED = _VIDEO | {"track": "int32", "label": "string", "group": "string", "fold": "int32"}

LEAKS = Table(
    "leaks",
    {"pair": "int32", "kind": "string", "similarity": "double", "distance": "int32"}
    | {f"{name}_{side}": kind for side in ("a", "b") for name, kind in _PAIRED.items()},
    key=("pair",),
)

SCORES = Table(
    "scores",
    _VIDEO
    | {
        "track": "int32",
        "frame": "int32",
        "time": "double",
        "label": "string",
        "experiment": "string",
        "fold": "int32",
        "seed": "int32",
        "role": "string",
        "logit": "double",
    },
    key=("fold", "seed", "part", "video", "track", "frame"),
)

SHIFT_SCORES = Table(
    "scores of shifted faces",
    _SHIFTED | SCORES.columns,
    key=("shift", *SCORES.key),
)

PREDICTIONS = Table(
    "video predictions",
    _VIDEO
    | {
        "label": "string",
        "family": "string",
        "group": "string",
        "fold": "int32",
        "role": "string",
        "faces": "int32",
        "logit": "double",
        "log_odds": "double",
        "probability": "double",
    },
    key=("fold", "part", "video"),
)

OUT_OF_FOLD = Table(
    "out-of-fold predictions",
    _VIDEO
    | {
        "label": "string",
        "status": "string",
        "group": "string",
        "fold": "int32",
        "source": "string",
        "faces": "int32",
        "logit": "double",
        "probability": "double",
    },
)


def _arrow_schema(table: Table) -> pa.Schema:
    import pyarrow as pa

    types = {"list<float>": pa.list_(pa.float32()), "bool": pa.bool_(), "float": pa.float32()}
    return pa.schema(
        [(name, types.get(kind) or pa.type_for_alias(kind)) for name, kind in table.columns.items()]
    )


def write_table(rows: pd.DataFrame, table: Table, path: Path) -> None:
    """Write rows as Parquet, sorted by the table's key; equal rows give equal bytes.

    Args:
        rows: has at least the table's columns; others are ignored.
        table: the columns to write.
        path: the file; replaced atomically.

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
    """Write rows like `write_table`, but without importing pandas.

    Args:
        rows: column name to value; missing columns are null, others are ignored.
        table: the columns to write.
        path: the file; replaced atomically.

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
        paths: the files.
        table: their kind.
        columns: the columns to read; None for all.
        matching: keep only the rows that are equal to one of these in all of their columns.

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
