"""Tables between stages: what is written is read back, and a damaged table is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from unmask.errors import UnmaskError
from unmask.tables import (
    CROPPED,
    FACES,
    PROBE,
    SPLITS,
    Table,
    read_rows,
    read_table,
    read_tables,
    write_rows,
    write_table,
)
from unmask.vocabulary import Status


@pytest.fixture
def splits() -> pd.DataFrame:
    names = [f"{letter}.mp4" for letter in "abcdefgh"]
    return pd.DataFrame(
        {
            "part": ["p0"] * 4 + ["p1"] * 4,
            "video": names,
            "label": ["REAL", "FAKE"] * 4,
            "family": names,
            "source": "web",
            "group": names,
            "fold": range(8),
        }
    )


def test_what_is_written_is_read_back(splits: pd.DataFrame, tmp_path: Path) -> None:
    write_table(splits.assign(note="not a column"), SPLITS, tmp_path / "new/splits.parquet")
    read = read_table(tmp_path / "new/splits.parquet", SPLITS)
    assert list(read) == list(SPLITS.columns)
    assert read.to_dict("list") == splits.to_dict("list")


def test_some_columns_or_some_rows_of_several_tables_are_read(
    splits: pd.DataFrame, tmp_path: Path
) -> None:
    paths = [tmp_path / "p0.parquet", tmp_path / "p1.parquet"]
    for path, (_, rows) in zip(paths, splits.groupby("part"), strict=True):
        write_table(rows, SPLITS, path)
    assert read_tables(paths, SPLITS).to_dict("list") == splits.to_dict("list")
    folds = read_tables(paths, SPLITS, columns=["video", "fold"])
    assert folds.to_dict("list") == splits[["video", "fold"]].to_dict("list")
    wanted = pd.DataFrame({"part": ["p1", "p1", "p0"], "video": ["f.mp4", "f.mp4", "g.mp4"]})
    found = read_tables(paths, SPLITS, matching=wanted)
    assert found.to_dict("list") == splits[splits["video"] == "f.mp4"].to_dict("list")
    assert read_tables(paths, SPLITS, matching=wanted.head(0)).empty
    assert list(read_tables([], SPLITS)) == list(SPLITS.columns)


def test_equal_rows_make_equal_bytes_in_any_order(splits: pd.DataFrame, tmp_path: Path) -> None:
    write_table(splits, SPLITS, tmp_path / "a.parquet")
    shuffled = splits.sample(frac=1, random_state=3)[sorted(splits)]
    write_table(shuffled, SPLITS, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def a_row(table: Table, number: int, empty: bool) -> dict[str, Any]:
    """Return a row of a table; `empty` ones name nothing but what they must."""
    values: dict[str, Any] = {
        "string": f"{number}.mp4",
        "int64": 10**12 + number,
        "int32": number,
        "double": number / 3,
        "float": float(np.float32(number / 3)),
        "bool": number % 2 == 0,
        "list<float>": np.arange(10, dtype=np.float32) + number,
    }
    row = {name: values[kind] for name, kind in table.columns.items()}
    if empty:
        return {
            name: value if name in (*table.key, "status") else None for name, value in row.items()
        }
    return row | {"status": Status.OK} if "status" in row else row


@pytest.mark.parametrize("table", [PROBE, CROPPED, FACES, SPLITS], ids=lambda table: table.name)
@pytest.mark.parametrize("rows", [[], [False], [True], [False, True, False, False, True]])
def test_rows_are_written_as_a_frame_of_them_is_byte_for_byte(
    rows: list[bool], table: Table, tmp_path: Path
) -> None:
    content = [a_row(table, 9 - number, empty) for number, empty in enumerate(rows)]
    write_rows(content, table, tmp_path / "rows.parquet")
    write_table(
        pd.DataFrame(content, columns=list(table.columns)), table, tmp_path / "frame.parquet"
    )
    assert (tmp_path / "rows.parquet").read_bytes() == (tmp_path / "frame.parquet").read_bytes()
    read = read_rows(tmp_path / "rows.parquet", table)
    assert len(read) == len(content)
    for found, written in zip(read, sorted(content, key=lambda row: row["video"]), strict=True):
        for name, value in written.items():
            if isinstance(value, np.ndarray):
                assert found[name] == value.tolist()
            else:
                assert found[name] == value, name


def test_a_row_may_name_more_or_less_than_the_columns(tmp_path: Path) -> None:
    row = {"part": "p", "video": "v", "status": Status.MISSING, "note": "not a column"}
    write_rows([row], PROBE, tmp_path / "probe.parquet")
    (read,) = read_rows(tmp_path / "probe.parquet", PROBE)
    assert list(read) == list(PROBE.columns)
    assert (read["status"], read["video_fps"]) == ("missing", None)
    with pytest.raises(ValueError, match="rows share"):
        write_rows([row, row], PROBE, tmp_path / "probe.parquet")


def test_a_file_without_a_column_is_named_with_the_column(
    splits: pd.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "old.parquet"
    splits.drop(columns="group").to_parquet(path)
    with pytest.raises(UnmaskError, match=r"old\.parquet: the splits table lacks group"):
        read_table(path, SPLITS)


@pytest.mark.parametrize("content", [b"", b"not a table", b"PAR1 half of one", None])
def test_a_damaged_file_is_named(
    content: bytes | None, splits: pd.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "broken.parquet"
    write_table(splits, SPLITS, path)
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(UnmaskError, match=r"broken\.parquet: cannot be read"):
        read_table(path, SPLITS)
    with pytest.raises(UnmaskError, match=r"broken\.parquet: cannot be read"):
        read_rows(path, SPLITS)


def test_two_rows_with_one_key_are_a_bug_of_the_caller(
    splits: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="rows share"):
        write_table(pd.concat([splits, splits.head(1)]), SPLITS, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no column"):
        write_table(splits.drop(columns="fold"), SPLITS, tmp_path / "x.parquet")
    assert not list(tmp_path.iterdir())
