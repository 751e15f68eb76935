"""Every video ends with exactly one status, and the counts add up."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from unmask.errors import UnmaskError
from unmask.tables import CROPPED, PROBE, VIDEOS, read_table, write_table
from unmask.videos.ledger import join_ledger, write_ledger
from unmask.vocabulary import Status

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]


def probed(part: str, **statuses: str) -> pd.DataFrame:
    rows = [
        {
            "part": part,
            "video": f"{name}.mp4",
            "label": "REAL",
            "family": f"{name}.mp4",
            "status": status,
            "detail": f"probe says {status}",
        }
        for name, status in statuses.items()
    ]
    return pd.DataFrame(rows, columns=list(PROBE.columns))


def cropped(part: str, **statuses: str) -> pd.DataFrame:
    rows = [
        {
            "part": part,
            "video": f"{name}.mp4",
            "status": status,
            "detail": f"crop says {status}",
            "frames": 4,
        }
        for name, status in statuses.items()
    ]
    return pd.DataFrame(rows, columns=list(CROPPED.columns))


def test_the_status_of_the_later_stage_counts() -> None:
    ledger = join_ledger(
        probed("p", a=Status.OK, b=Status.OK, c=Status.MISSING),
        cropped("p", a=Status.OK, b=Status.DECODE_ERROR),
    ).set_index("video")
    assert ledger["status"].tolist() == [Status.OK, Status.DECODE_ERROR, Status.MISSING]
    assert ledger["detail"].tolist() == [
        "crop says ok",
        "crop says decode_error",
        "probe says missing",
    ]


def test_a_name_in_two_parts_counts_once() -> None:
    ledger = join_ledger(
        pd.concat([probed("p1", a=Status.OK), probed("p0", a=Status.OK, b=Status.OK)]),
        pd.concat([cropped("p0", a=Status.OK, b=Status.OK), cropped("p1", a=Status.OK)]),
    ).set_index(["part", "video"])
    assert ledger["status"].to_dict() == {
        ("p0", "a.mp4"): Status.OK,
        ("p1", "a.mp4"): Status.DUPLICATE,
        ("p0", "b.mp4"): Status.OK,
    }


@pytest.mark.parametrize("earlier", [Status.MISSING, Status.BAD_METADATA, Status.UNREADABLE])
def test_a_video_whose_file_is_only_in_the_later_part_is_used(earlier: Status) -> None:
    ledger = join_ledger(
        pd.concat([probed("p0", a=earlier), probed("p1", a=Status.OK)]),
        cropped("p1", a=Status.OK),
    ).set_index("part")
    assert ledger.loc["p1", "status"] == Status.OK


def test_the_ledger_has_what_metadata_says_now(make_part: MakePart, tmp_path: Path) -> None:
    write_table(probed("p", a=Status.OK, b=Status.OK, gone=Status.OK), PROBE, tmp_path / "probe")
    write_table(cropped("p", a=Status.OK, b=Status.NO_FACE), CROPPED, tmp_path / "cropped")
    corrected = {"label": "FAKE", "original": "b.mp4", "group": "x", "split": "test"}
    entries = {"a.mp4": corrected, "b.mp4": "REAL", "../c.mp4": "REAL", "later.mp4": "REAL"}
    part = make_part(tmp_path / "p", entries)
    output = tmp_path / "videos.parquet"
    tables = [tmp_path / "probe"], [tmp_path / "cropped"]
    write_ledger(*tables, output, tmp_path / "ledger.json", [part])
    ledger = read_table(output, VIDEOS).set_index("video")
    assert ledger["status"].to_dict() == {
        "a.mp4": Status.OK,
        "b.mp4": Status.NO_FACE,
        "../c.mp4": Status.UNSAFE_NAME,  # opened by no probe
    }
    described = ["label", "original", "given_group", "given_split"]
    assert ledger.loc["a.mp4", described].tolist() == ["FAKE", "b.mp4", "x", "test"]


def test_a_ledger_without_a_video_or_a_face_is_refused(tmp_path: Path) -> None:
    write_table(probed("p"), PROBE, tmp_path / "none.parquet")
    write_table(probed("p", a=Status.MISSING), PROBE, tmp_path / "missing.parquet")
    write_table(cropped("p"), CROPPED, tmp_path / "cropped.parquet")
    outputs = (tmp_path / "videos.parquet", tmp_path / "ledger.json")
    with pytest.raises(UnmaskError, match=r"no metadata\.json in data_root names a video"):
        write_ledger([tmp_path / "none.parquet"], [tmp_path / "cropped.parquet"], *outputs)
    with pytest.raises(UnmaskError, match=r"no video has a usable face; .*'missing': 1"):
        write_ledger([tmp_path / "missing.parquet"], [tmp_path / "cropped.parquet"], *outputs)
    assert not any(output.exists() for output in outputs)
