"""Metrics on shifted clips and on external sets count every video."""

import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from clips import encode_video
from conftest import write_part
from stages import crop_parts
from unmask.config import AuditsConfig, Config
from unmask.errors import UnmaskError
from unmask.evaluation.external_sets import evaluate_sets
from unmask.evaluation.results import ExperimentShifts
from unmask.files import read_json, write_json
from unmask.inference.calibrate import Calibration
from unmask.inference.score import score_model
from unmask.inference.scoring_head import ScoringHead
from unmask.robustness.evaluate import evaluate_shifts
from unmask.robustness.shifted_clips import sample_shifts, shift_shard
from unmask.robustness.shifts import SHIFTS
from unmask.tables import (
    SCORES,
    SHIFT_SAMPLE,
    SHIFT_SCORES,
    SHIFTED_FACES,
    SPLITS,
    VIDEOS,
    read_table,
    write_table,
)
from unmask.training.fit import FitJob, fit
from unmask.videos.ledger import write_ledger

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* in eval mode"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
]

CONFIG = Config.model_validate(
    {
        "frames": {"per_video": 6},
        "faces": {"size": 64},
        "evaluation": {"shift_seconds": 0.5},
        "training": {
            "backbone": "test_resnet",
            "weights": "none",
            "image_size": 32,
            "batch_size": 8,
            "epochs": 4,
            "learning_rate": 0.01,
            "batches": "paired",
            "drop_rate": 0,
            "augment": "none",
        },
    }
)
MODEL = "fold0-seed1"


SIZE = (320, 240)


def recolour(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the complementary colours, as bright as they were."""
    luma, *chroma = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb))
    merged = cv2.merge([luma, *(255 - plane for plane in chroma)])
    return np.asarray(cv2.cvtColor(merged, cv2.COLOR_YCrCb2RGB), np.uint8)


def work_part(part: Path, out: Path) -> None:
    """Write the first three stages' tables and the face shard of one part."""
    crop_parts([part], out, CONFIG, shard=f"faces/{part.name}-00.tar")
    probes, cropped = [out / "probe.parquet"], [out / "cropped.parquet"]
    write_ledger(probes, cropped, out / "videos.parquet", out / "ledger.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that recognises fakes by their colours, in results as the workflow lays them out."""
    root = tmp_path_factory.mktemp("robustness")
    entries = {f"real{i}.mp4": "REAL" for i in range(6)}
    entries |= {f"fake{i}.mp4": f"real{i}.mp4" for i in range(6)}
    part = write_part(root / "part", entries)
    for name in entries:
        change = recolour if name.startswith("fake") else None
        encode_video(part / name, SIZE, at=(0.45 + 0.02 * int(name[4]), 0.5), change=change)
    work_part(part, root)
    rows = [
        ("part", name, "REAL" if name.startswith("real") else "FAKE", f"real{name[4]}.mp4")
        for name in entries
    ]
    splits = pd.DataFrame(rows, columns=["part", "video", "label", "family"])
    fold = splits["video"].str[4].astype(int) % 3
    splits = splits.assign(source="web", group=splits["family"], fold=fold)
    write_table(splits, SPLITS, root / "splits.parquet")
    previous = Path.cwd()
    os.chdir(root)  # where artifacts go
    job = FitJob(
        experiment="tiny",
        fold=0,
        folds=3,
        seed=1,
        shards=root / "faces",
        indices=[root / "faces/part-00.parquet"],
        splits=root / "splits.parquet",
        noise=[],
        tracking_uri=f"sqlite:///{root}/mlflow.db",
        tracking_experiment="unmask",
        threads=1,
    )
    fit(job, CONFIG.training, AuditsConfig(label_noise="keep"), root / f"train/tiny/{MODEL}")
    os.chdir(previous)
    head = ScoringHead("mean_logit", Calibration(1.0, 0.0, 0.6))
    write_json({MODEL: head}, root / "evaluation/tiny/calibration.json")
    return root


@pytest.fixture(scope="module")
def shifts(trained: Path) -> Path:
    """The shifted validation and test clips, scored; `noise` hides one face."""
    folder = trained / "shifts"
    ledger, splits = trained / "videos.parquet", trained / "splits.parquet"
    sample_shifts(ledger, splits, [0, 1], 100, folder / "sample.parquet")
    files = [
        folder / f"faces/part-00{suffix}" for suffix in (".tar", ".parquet", ".videos.parquet")
    ]
    probe, sample = trained / "probe.parquet", folder / "sample.parquet"
    shift_shard([trained / "part"], probe, sample, CONFIG, 2, *files)
    index = read_table(files[1], SHIFTED_FACES)
    hidden = (index["shift"] == "noise") & (index["video"] == "real3.mp4")
    assert hidden.any()
    write_table(index[~hidden], SHIFTED_FACES, files[1])
    model = trained / f"train/tiny/{MODEL}"
    score_model(
        *(model / "model.safetensors", model / "run.json", folder / "faces", [files[1]], 1, 16),
        CONFIG.evaluation,
        folder / "scores.parquet",
        splits=splits,
        shifted=True,
    )
    return folder


@pytest.fixture(scope="module")
def measured(trained: Path, shifts: Path) -> ExperimentShifts:
    evaluate_shifts(
        [shifts / "scores.parquet"],
        [trained / f"train/tiny/{MODEL}/run.json"],
        [shifts / "faces/part-00.videos.parquet"],
        trained / "splits.parquet",
        trained / "evaluation/tiny/calibration.json",
        trained / "evaluation/tiny/shifts.json",
        trained / "evaluation/tiny/shifts.svg",
    )
    return read_json(trained / "evaluation/tiny/shifts.json", ExperimentShifts)


def test_the_sample_has_families_of_the_given_folds(shifts: Path) -> None:
    sample = read_table(shifts / "sample.parquet", SHIFT_SAMPLE)
    assert sorted(sample["video"]) == sorted(
        f"{kind}{i}.mp4" for kind in ("fake", "real") for i in (0, 1, 3, 4)
    )


def test_folds_without_a_face_are_an_error(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UnmaskError, match=r"evaluation\.shift_videos: no video with a face"):
        sample_shifts(
            trained / "videos.parquet", trained / "splits.parquet", [7], 9, tmp_path / "sample"
        )


def test_no_shifted_crop_of_a_training_video_is_scored(shifts: Path) -> None:
    scores = read_table(shifts / "scores.parquet", SHIFT_SCORES)
    assert set(scores["role"]) == {"val", "test"}
    assert set(scores["shift"]) == set(SHIFTS)
    roles = dict(zip(scores["video"].str[4].astype(int) % 3, scores["role"], strict=True))
    assert roles == {0: "test", 1: "val"}


def test_a_model_loses_what_a_shift_removes(measured: ExperimentShifts) -> None:
    """The model recognises fakes by their colour, so it cannot tell grey ones."""
    test = measured.test
    assert set(test.shifts) == set(SHIFTS) - {"clean"}
    assert test.clean.roc_auc == 1
    assert test.shifts["grayscale"].log_loss > test.clean.log_loss + 0.2
    assert test.shifts["flip"].log_loss == pytest.approx(test.clean.log_loss, abs=0.15)


def test_a_video_without_a_detected_face_gets_the_prior_and_counts(
    shifts: Path, measured: ExperimentShifts
) -> None:
    noise = measured.test.shifts["noise"]
    assert noise.without_face == 1
    assert noise.count == measured.test.clean.count == 4
    scores = read_table(shifts / "scores.parquet", SHIFT_SCORES)
    seen = scores[(scores["shift"] == "noise") & (scores["role"] == "test")]
    logits = seen.groupby("video")["logit"].mean()
    expected = {video: 1 / (1 + np.exp(-logit)) for video, logit in logits.items()}
    expected["real3.mp4"] = 0.6  # the calibration's prior
    labels = [video.startswith("fake") for video in expected]
    assert noise.log_loss == pytest.approx(log_loss(labels, list(expected.values())), rel=1e-6)


def test_worst_mean_and_selection_score_are_those_of_the_shifts(
    trained: Path, measured: ExperimentShifts
) -> None:
    for role in (measured.test, measured.val):
        losses = {name: one.log_loss for name, one in role.shifts.items()}
        assert role.worst == max(losses, key=losses.__getitem__)
        assert role.mean_log_loss == pytest.approx(np.mean(list(losses.values())))
    expected = (measured.val.clean.log_loss + measured.val.mean_log_loss) / 2
    assert measured.selection_score == pytest.approx(expected)
    assert measured.selection_scores == {MODEL: pytest.approx(expected)}
    svg = (trained / "evaluation/tiny/shifts.svg").read_text()
    assert all(f"<!-- {name}" in svg for name in measured.test.shifts)


@pytest.fixture(scope="module")
def sets(trained: Path) -> pd.DataFrame:
    """Two external sets: of REAL clips only, one of them without a face; and of both labels."""
    parts = {
        "reals": {"one.mp4": "REAL", "two.mp4": "REAL", "nobody.mp4": "REAL", "gone.mp4": "REAL"},
        "both": {"three.mp4": "REAL", "fake.mp4": "FAKE"},
    }
    for name, entries in parts.items():
        out = trained / "sets" / name
        part = write_part(out / "part", entries)
        for index, video in enumerate(entries):
            change = recolour if video == "fake.mp4" else None
            at, people = (0.4 + 0.05 * index, 0.48), int(video != "nobody.mp4")
            if video != "gone.mp4":
                encode_video(part / video, SIZE, at=at, people=people, change=change)
        # This file is in the training data, too.
        if name == "both":
            (part / "fake.mp4").write_bytes((trained / "part/fake1.mp4").read_bytes())
        work_part(part, out)
        model, indices = trained / f"train/tiny/{MODEL}", [out / "faces/part-00.parquet"]
        score_model(
            *(model / "model.safetensors", model / "run.json", out / "faces", indices, 1, 16),
            CONFIG.evaluation,
            out / f"scores/tiny/{MODEL}.parquet",
            ledger=out / "videos.parquet",
        )
    evaluate_sets(
        list(parts),
        [trained / "sets" / name / "videos.parquet" for name in parts],
        trained / "videos.parquet",
        [trained / f"train/tiny/{MODEL}/run.json"],
        trained,
        trained / "evaluation/sets.csv",
        trained / "evaluation/sets.json",
        trained / "evaluation/sets.svg",
        CONFIG,
    )
    return pd.read_csv(trained / "evaluation/sets.csv").set_index("set")


def test_a_set_of_one_label_has_a_log_loss_and_no_auc(trained: Path, sets: pd.DataFrame) -> None:
    reals = sets.loc["reals"]
    assert (reals["count"], reals["fake"], reals["without_face"]) == (3, 0, 1)
    assert np.isnan(reals["roc_auc"])
    assert np.isnan(reals["balanced_log_loss"])
    assert reals["constant_log_loss"] == pytest.approx(0, abs=1e-9)
    scores = read_table(trained / f"sets/reals/scores/tiny/{MODEL}.parquet", SCORES)
    assert set(scores["video"]) == {"one.mp4", "two.mp4"}
    # The model assumes a share of FAKE of 0.6, a set has even odds.
    logits = scores.groupby("video")["logit"].mean() - np.log(0.6 / 0.4)
    losses = [*np.log1p(np.exp(logits)), np.log(2)]
    assert reals["log_loss"] == pytest.approx(np.mean(losses), rel=1e-6)


def test_a_set_of_both_labels_has_an_auc_and_shared_files_are_counted(sets: pd.DataFrame) -> None:
    both = sets.loc["both"]
    assert both["roc_auc"] == 1
    assert 0.5 < both["frame_roc_auc"] <= 1
    assert both["constant_log_loss"] == pytest.approx(np.log(2))
    assert both["balanced_log_loss"] == pytest.approx(both["log_loss"])
    assert (both["count"], both["also_in_data"]) == (2, 1)
    assert sets.loc["reals", "also_in_data"] == 0


def test_the_ledger_of_the_data_has_no_video_of_a_set(trained: Path, sets: pd.DataFrame) -> None:
    ledger = read_table(trained / "videos.parquet", VIDEOS)
    assert len(ledger) == 12
    assert "one.mp4" not in set(ledger["video"])
