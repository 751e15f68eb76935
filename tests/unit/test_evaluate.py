"""An evaluation counts every video, chooses nothing on what it reports, and compares."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from unmask.config import Config, TrackingConfig
from unmask.evaluation.compare import ComparisonFiles, compare
from unmask.evaluation.ensembles import Cost, build_ensemble, choose_members
from unmask.evaluation.evaluate import EvaluationFiles, average_models, evaluate
from unmask.evaluation.subgroups import worst_subgroup
from unmask.faces.images import encode_jpeg
from unmask.faces.shards import write_shard
from unmask.files import write_json
from unmask.tables import (
    ANSWERS,
    FACES,
    PREDICTIONS,
    SCORES,
    SPLITS,
    VIDEOS,
    read_table,
    write_rows,
    write_table,
)
from unmask.tracking import create_tracking, start_training_run

FOLDS = 3
FAMILIES = 30
FACES_EACH = 4
CONFIG = Config.model_validate({"evaluation": {"resamples": 100}})


@dataclass(frozen=True)
class Data:
    """A ledger, a split and face shards of invented videos.

    Attributes:
        folder: holds them.
        videos: all rows of the ledger; the last two have no answer: missing, and in no split.
    """

    folder: Path
    videos: pd.DataFrame

    def write_model(
        self, experiment: str, fold: int, strength: float, seed: int = 1
    ) -> tuple[Path, Path]:
        """Write scores and run.json of a model whose logits are as far apart as `strength`."""
        splits = read_table(self.folder / "splits.parquet", SPLITS)
        roles = (splits["fold"] - fold) % FOLDS
        role = roles.map({0: "test", 1: "val", 2: "train"})
        rng = np.random.default_rng([fold, seed, *experiment.encode()])
        scored = splits.assign(role=role)[
            (role != "train") & ~splits["video"].str.match("faceless")
        ]
        rows = scored.loc[scored.index.repeat(FACES_EACH)].reset_index(drop=True)
        rows["frame"] = np.arange(len(rows)) % FACES_EACH
        logit = strength * np.where(rows["label"] == "FAKE", 1, -1) + rng.normal(0, 1, len(rows))
        shared = np.repeat(rng.normal(0, 1, len(scored)), FACES_EACH)
        rows = rows.assign(track=0, time=0.3 * rows["frame"], experiment=experiment, fold=fold)
        folder = self.folder / experiment / f"fold{fold}-seed{seed}"
        write_table(rows.assign(seed=seed, logit=logit + shared), SCORES, folder / "s.parquet")
        where = json.loads((self.folder / "tracking.json").read_text())
        with start_training_run(self.folder / "tracking.json", experiment, {"seed": seed}) as run:
            job = {
                "experiment": experiment,
                "model": f"fold{fold}-seed{seed}",
                "fold": fold,
                "folds": FOLDS,
                "seed": seed,
                "assumed_prior": 0.5,
                "run_id": run.id,
                "tracking_uri": where["uri"],
                "tracking_experiment": where["experiment"],
                "best_epoch": 0,
                "history": [{"epoch": 0, "train/loss": 0.7, "val/log_loss": 0.6}],
            }
        write_json(job, folder / "run.json")
        speed = {
            "experiment": experiment,
            "model": job["model"],
            "bytes": 10,
            "seconds_per_crop": 0.01,
        }
        write_json(speed, folder / "speed.json")
        return folder / "s.parquet", folder / "run.json"

    def evaluate(self, experiment: str, strength: float, folds: tuple[int, ...]) -> EvaluationFiles:
        """Evaluate an experiment of one model a fold."""
        written = [self.write_model(experiment, fold, strength) for fold in folds]
        files = EvaluationFiles(self.folder / "evaluation" / experiment)
        evaluate(
            [scores for scores, _ in written],
            [run for _, run in written],
            self.folder / "splits.parquet",
            self.folder / "videos.parquet",
            self.folder / "faces",
            [self.folder / "faces" / "p-00.parquet"],
            CONFIG.evaluation,
            files.folder,
        )
        return files


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("evaluated")
    rows = []
    for family in range(FAMILIES):
        for index, label in enumerate(("REAL", "FAKE", "FAKE")):
            name = f"{family:02d}{'abc'[index]}.mp4"
            rows.append(video(name, label, f"{family:02d}a.mp4", family % FOLDS))
    rows.append(video("faceless.mp4", "REAL", "faceless.mp4", 0, status="no_face"))
    rows.append(video("missing.mp4", "FAKE", "missing.mp4", None, status="missing"))
    videos = pd.DataFrame(rows)
    write_rows(rows, VIDEOS, folder / "videos.parquet")
    write_table(videos.dropna(subset="fold"), SPLITS, folder / "splits.parquet")
    picture = np.full((32, 32, 3), 90, np.uint8)
    cv2.circle(picture, (16, 16), 9, (200, 180, 160), -1)
    faces = []
    with write_shard(folder / "faces" / "p-00.tar") as shard:
        for number, row in enumerate(rows[:-2]):
            for frame in range(FACES_EACH):
                payload = encode_jpeg(picture, 90)
                key = f"{row['video']}_{frame}"
                place = {"shard": "p-00.tar", "key": key, "offset": shard.add(key, payload)}
                size = {"size": len(payload), "x0": 0.0, "x1": 40.0 + 200 * (number % 2)}
                about = {"part": "p", "video": row["video"], "track": 0, "frame": frame}
                faces.append(about | place | size | {"brightness": 100.0, "sharpness": 50.0})
    write_rows(faces, FACES, folder / "faces" / "p-00.parquet")
    create_tracking(
        TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}"), folder / "tracking.json"
    )
    return Data(folder, videos)


def video(
    name: str, label: str, family: str, fold: int | None, status: str = "ok"
) -> dict[str, Any]:
    return {
        "part": "p",
        "video": name,
        "label": label,
        "family": family,
        "group": family,
        "fold": fold,
        "status": status,
        "method": "swap" if name.endswith("b.mp4") else None,
        "video_width": 640,
        "video_height": 480,
        "video_fps": 25.0,
    }


@pytest.fixture(scope="module")
def evaluated(data: Data) -> EvaluationFiles:
    return data.evaluate("good", 1.5, (0, 1, 2))


def test_every_video_of_the_ledger_is_one_row(data: Data, evaluated: EvaluationFiles) -> None:
    answers = read_table(evaluated.videos, ANSWERS).set_index("video")
    assert sorted(answers.index) == sorted(data.videos["video"])
    assert answers["answered"].value_counts().to_dict() == {"model": 90, "prior": 1, "nobody": 1}
    assert answers.loc["missing.mp4", "answered"] == "nobody"
    assert np.isnan(answers.loc["missing.mp4", "probability"])
    faceless = answers.loc["faceless.mp4"]
    readouts = json.loads(evaluated.calibration.read_text())
    assert faceless["answered"] == "prior"
    prior = readouts["fold0-seed1"]["calibration"]["prior"]
    assert faceless["probability"] == pytest.approx(prior)


def test_a_fold_without_a_model_is_answered_by_nobody(data: Data) -> None:
    files = data.evaluate("partial", 1.5, (1,))
    answers = read_table(files.videos, ANSWERS)
    assert len(answers) == len(data.videos)
    assert (answers["answered"] == "model").sum() == FAMILIES
    assert json.loads(files.metrics.read_text())["test"]["count"] == FAMILIES


def test_the_report_counts_the_faceless_video(evaluated: EvaluationFiles) -> None:
    report = json.loads(evaluated.metrics.read_text())["test"]
    assert report["count"] == 3 * FAMILIES + 1
    assert report["without_face"] == 1
    assert report["groups"] == FAMILIES + 1


def test_metrics_have_intervals_around_them(evaluated: EvaluationFiles) -> None:
    metrics = json.loads(evaluated.metrics.read_text())
    for part in ("test", "val", "people", "faces"):
        low, high = metrics[part]["intervals"]["log_loss"]
        assert low < metrics[part]["log_loss"] < high
    assert metrics["test"]["log_loss"] < metrics["test"]["constant_log_loss"]
    assert metrics["faces"]["count"] == 3 * FAMILIES * FACES_EACH


def test_labels_of_the_report_role_change_nothing_that_is_chosen(data: Data) -> None:
    """Flip the labels of the only report fold: the readout must stay as it was."""
    scores, run = data.write_model("flipped", 0, 1.5)
    splits = read_table(data.folder / "splits.parquet", SPLITS)
    report = splits["fold"] == 0
    flipped = splits["label"].map({"REAL": "FAKE", "FAKE": "REAL"})
    chosen = []
    for number, labels in enumerate((splits["label"], splits["label"].where(~report, flipped))):
        table = data.folder / f"splits{number}.parquet"
        write_table(splits.assign(label=labels), SPLITS, table)
        files = EvaluationFiles(data.folder / f"flipped{number}")
        evaluate(
            [scores],
            [run],
            table,
            data.folder / "videos.parquet",
            data.folder / "faces",
            [data.folder / "faces" / "p-00.parquet"],
            CONFIG.evaluation,
            files.folder,
        )
        predictions = read_table(files.predictions, PREDICTIONS)
        chosen.append((json.loads(files.calibration.read_text()), predictions["probability"]))
    assert chosen[0][0] == chosen[1][0]
    np.testing.assert_array_equal(chosen[0][1], chosen[1][1])


def test_groups_are_told_and_the_worst_is_named(evaluated: EvaluationFiles) -> None:
    metrics = json.loads(evaluated.metrics.read_text())
    groups = {(one["by"], one["name"]): one for one in metrics["subgroups"]}
    assert groups["face width, pixels", "below 64"]["count"] == 45
    assert groups["face width, pixels", "128 to 255"]["count"] == 45
    assert groups["status", "no_face"]["count"] == 1
    swap = groups["method, with all REAL", "swap"]
    assert (swap["count"], swap["fake"]) == (2 * FAMILIES + 1, FAMILIES)
    large = [one for one in groups.values() if one["count"] >= 10]
    worst = max(large, key=lambda one: one["log_loss"])
    assert worst["name"] in metrics["worst_subgroup"]


def test_a_group_of_few_videos_is_never_the_worst() -> None:
    large = {"by": "fps", "name": "25", "count": 50, "log_loss": 0.4}
    large["constant_log_loss"] = 0.6
    assert "25" in worst_subgroup([large, large | {"name": "12", "count": 9, "log_loss": 3.0}])
    assert worst_subgroup([]) == ""


def test_the_page_names_metrics_groups_and_readouts(evaluated: EvaluationFiles) -> None:
    page = evaluated.page.read_text()
    for words in (
        "constant baseline",
        "face width",
        "fold2-seed1",
        "mean_logit",
        "TPR at 1 % FPR",
    ):
        assert words in page


def test_experiments_are_compared_in_pairs(data: Data, evaluated: EvaluationFiles) -> None:
    experiments = {"good": evaluated, "poor": data.evaluate("poor", 0.3, (0, 1, 2))}
    output = ComparisonFiles(
        *(data.folder / f"comparison.{suffix}" for suffix in ("csv", "json", "svg", "html"))
    )
    compare(
        [files.metrics for files in experiments.values()],
        [files.predictions for files in experiments.values()],
        sorted(path for name in experiments for path in data.folder.glob(f"{name}/*/speed.json")),
        CONFIG,
        output,
    )
    table = pd.read_csv(output.table)
    assert list(table["experiment"]) == ["good", "poor"]
    assert (table["test_log_loss_low"] < table["test_log_loss"]).all()
    details = json.loads(output.details.read_text())
    (difference,) = details["differences"]
    losses = table["test_log_loss"]
    assert difference["log_loss"] == pytest.approx(losses[1] - losses[0])
    assert difference["log_loss_interval"][0] > 0
    assert details["ensemble"]["bytes"] == 10 * 3 * len(details["ensemble"]["weights"])
    assert "Paired differences" in output.page.read_text()


def test_models_of_a_fold_answer_with_their_mean_log_odds() -> None:
    videos = pd.DataFrame({"part": "p", "video": ["a", "b"], "label": ["REAL", "FAKE"]})
    one = videos.assign(logit=[1.0, np.nan], log_odds=[2.0, 0.5])
    other = videos.assign(logit=[3.0, np.nan], log_odds=[-1.0, 1.5])
    averaged = average_models([one, other])
    np.testing.assert_allclose(averaged["probability"], expit([0.5, 1.0]))
    np.testing.assert_allclose(averaged["logit"], [2.0, np.nan])
    assert averaged[["part", "video", "label"]].equals(videos)
    np.testing.assert_allclose(average_models([one])["probability"], expit([2.0, 0.5]))


BUDGET = Cost(size=100, seconds=10)


def noisy(rng: np.random.Generator, labels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(2 * labels - 1 + rng.normal(0, 1.5, len(labels)))


def test_experiments_that_err_differently_answer_together() -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(400) % 2).astype(float)
    answers = {"a": noisy(rng, labels), "b": noisy(rng, labels), "noise": rng.normal(0, 3, 400)}
    weights = choose_members(answers, labels, dict.fromkeys(answers, Cost(10, 1)), BUDGET)
    assert set(weights) == {"a", "b"}
    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) > 0.3


@pytest.mark.parametrize("cost", [Cost(60, 1), Cost(10, 6)])
def test_an_ensemble_stays_within_its_budget(cost: Cost) -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(400) % 2).astype(float)
    answers = {"a": noisy(rng, labels), "b": noisy(rng, labels)}
    assert len(choose_members(answers, labels, dict.fromkeys(answers, cost), BUDGET)) == 1
    too_large = dict.fromkeys(answers, Cost(101, 1))
    assert choose_members(answers, labels, too_large, BUDGET) == {}


def test_an_ensembles_report_is_answered_by_weights_that_never_saw_it() -> None:
    """One experiment is right on fold 0 as select role and wrong on it as report role."""
    rng = np.random.default_rng(1)
    rows = []
    for fold, role in ((0, "test"), (0, "val")):
        for number in range(60):
            label = ("REAL", "FAKE")[number % 2]
            rows.append({"fold": fold, "role": role, "part": "p", "label": label, "group": "g"})
            rows[-1] |= {"video": f"{role}{number}.mp4", "family": "f", "faces": 1}
    videos = pd.DataFrame(rows)
    sign = np.where(videos["label"] == "FAKE", 1.0, -1.0)
    good = 0.5 * sign + rng.normal(0, 0.1, 120)
    traitor = np.where(videos["role"] == "val", 3 * sign, -3 * sign)
    predictions = {
        name: videos.assign(logit=odds, log_odds=odds, probability=expit(odds))
        for name, odds in (("good", good), ("traitor", traitor))
    }
    costs = dict.fromkeys(predictions, Cost(10, 1))
    ensemble = build_ensemble(predictions, costs, BUDGET)
    assert ensemble is not None
    assert ensemble.weights["traitor"] > 0.9
    wrong = (ensemble.predictions["probability"] > 0.5) != (ensemble.predictions["label"] == "FAKE")
    assert set(ensemble.predictions["role"]) == {"test"}
    assert wrong.all()
