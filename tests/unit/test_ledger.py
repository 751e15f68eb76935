"""Every video ends with exactly one status, and the counts add up."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from unmask.errors import UnmaskError
from unmask.tables import CROPPED, PROBE, write_table
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
