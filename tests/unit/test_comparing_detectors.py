"""Detectors are compared on the same frames; one that is absent costs a note, not the run."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from unmask.audits.detectors import DetectorResult, compare_detectors, summarise
from unmask.config import AuditsConfig, FacesConfig
from unmask.faces.detectors import Detections
from unmask.videos.ledger import write_ledger

ABSENT = [
    (name, package)
    for name, package in (("mtcnn", "facenet_pytorch"), ("dlib_hog", "dlib"))
    if importlib.util.find_spec(package) is None
]


@pytest.fixture(scope="module")
def ledger(worked_part: Path) -> Path:
    path = worked_part / "ledger.parquet"
    write_ledger(
        [worked_part / "probe.parquet"],
        [worked_part / "cropped.parquet"],
        path,
        worked_part / "ledger.json",
    )
    return path


def compared(ledger: Path, output: Path, **audits: object) -> pd.DataFrame:
    config = AuditsConfig.model_validate(audits)
    compare_detectors(ledger, [ledger.parent / "part"], config, FacesConfig(), output)
    return pd.read_csv(output / "comparison.csv").set_index("detector")


def test_detectors_are_compared_on_the_wanted_number_of_frames(
    ledger: Path, tmp_path: Path
) -> None:
    """Four clips show one face, one clip none; the broken file is not asked for frames."""
    table = compared(ledger, tmp_path, detectors=["yunet", "haar"], detector_frames=10)
    assert table["frames"].tolist() == [10, 10]
    assert table.loc["yunet", "hit_rate"] == pytest.approx(0.8)
    assert table.loc["yunet", "faces_per_frame"] == pytest.approx(0.8)
    assert (table["ms_per_frame"] > 0).all()
    assert table.loc["yunet", "found_by_yunet"] == 1
    assert table["note"].isna().all()
    for name in ("comparison.svg", "boxes.png"):
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.skipif(not ABSENT, reason="all optional detectors are installed")
def test_an_absent_detector_has_a_note(ledger: Path, tmp_path: Path) -> None:
    names = [name for name, _ in ABSENT]
    table = compared(ledger, tmp_path, detectors=[*names, "haar"], detector_frames=4)
    for name, package in ABSENT:
        assert np.isnan(table.loc[name, "frames"])
        assert package in table.loc[name, "note"]
        assert "pip install" in table.loc[name, "note"]
    assert table.loc["haar", "frames"] == 4
    assert compared(ledger, tmp_path, detectors=names, detector_frames=4)["frames"].isna().all()


def faces(*boxes: tuple[float, float, float, float]) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.ones(count, np.float32),
        np.zeros((count, 5, 2), np.float32),
    )


def test_rates_and_agreement_are_counted_by_face() -> None:
    a, b, c = (0, 0, 10, 10), (50, 50, 60, 60), (0, 0, 10, 11)
    found = {
        "yunet": DetectorResult([faces(a, b), faces(a), faces()], [0.001, 0.002, 0.009]),
        "haar": DetectorResult([faces(c), faces(), faces()], [0.1, 0.1, 0.1]),
    }
    table = summarise(found, {"yunet": "", "mtcnn": "not compared", "haar": ""})
    rows = table.set_index("detector")
    assert table["detector"].to_list() == ["yunet", "mtcnn", "haar"]
    assert rows.loc["yunet", ["hit_rate", "faces_per_frame", "ms_per_frame"]].tolist() == [
        pytest.approx(2 / 3),
        1.0,
        2.0,
    ]
    assert rows.loc["yunet", "found_by_haar"] == pytest.approx(1 / 3)
    assert rows.loc["haar", "found_by_yunet"] == 1
    assert rows.loc["mtcnn"].drop("note").isna().all()
