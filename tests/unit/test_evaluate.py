"""An evaluation counts every video, fits nothing on test videos, and compares experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from records import write_run
from unmask.config import Config
from unmask.evaluation.compare import compare
from unmask.evaluation.evaluate import evaluate
from unmask.evaluation.predictions import average_models
from unmask.evaluation.results import (
    CALIBRATION,
    METRICS,
    OUT_OF_FOLD_TABLE,
    PAGE,
    PREDICTIONS_TABLE,
    Comparison,
    ExperimentMetrics,
    Subgroup,
)
from unmask.evaluation.subgroups import describe_sources, worst_subgroup
from unmask.faces.images import encode_jpeg
from unmask.faces.shards import write_shard
from unmask.files import read_json, write_json
from unmask.inference.records import ScoringSpeed
from unmask.inference.scoring_head import ScoringHead
from unmask.report.verdict import baseline_warning
from unmask.tables import (
    FACES,
    OUT_OF_FOLD,
    PREDICTIONS,
    SCORES,
    SPLITS,
    VIDEOS,
    read_table,
    write_rows,
    write_table,
)

FOLDS = 3
FAMILIES = 30
FACES_EACH = 4
CONFIG = Config.model_validate({"evaluation": {"resamples": 100}})


@dataclass(frozen=True)
class Data:
    """A folder with a ledger, a split and face shards of invented videos."""

    folder: Path
    videos: pd.DataFrame  # rows of the ledger; the last two have no face, and no file

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
        record = write_run(folder / "run.json", experiment, fold, seed, FOLDS)
        speed = ScoringSpeed(experiment, record.model, 10, 0.01)
        write_json(speed, folder / "speed.json")
        return folder / "s.parquet", folder / "run.json"

    def evaluate(self, experiment: str, strength: float, folds: tuple[int, ...]) -> Path:
        """Evaluate an experiment of one model per fold."""
        scores, runs = zip(
            *(self.write_model(experiment, fold, strength) for fold in folds), strict=True
        )
        return self.evaluate_models(experiment, scores, runs, self.folder / "splits.parquet")

    def evaluate_models(
        self, experiment: str, scores: Sequence[Path], runs: Sequence[Path], splits: Path
    ) -> Path:
        output = self.folder / "evaluation" / experiment
        ledger, faces = self.folder / "videos.parquet", self.folder / "faces"
        indices, config = [faces / "p-00.parquet"], CONFIG.evaluation
        evaluate(list(scores), list(runs), splits, ledger, faces, indices, config, output)
        return output


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("evaluated")
    rows = [
        (f"{family:02d}{'abc'[index]}.mp4", label, f"{family:02d}a.mp4", family % FOLDS, "ok")
        for family in range(FAMILIES)
        for index, label in enumerate(("REAL", "FAKE", "FAKE"))
    ]
    rows.append(("faceless.mp4", "REAL", "faceless.mp4", 0, "no_face"))
    rows.append(("missing.mp4", "FAKE", "missing.mp4", None, "missing"))
    videos = pd.DataFrame(rows, columns=["video", "label", "family", "fold", "status"])
    videos = videos.assign(part="p", group=videos["family"], video_fps=25.0)
    videos["source"] = np.where(videos["family"] < "10", "film", "web")
    videos["method"] = np.where(videos["video"].str.endswith("b.mp4"), "swap", None)
    videos["video_field_order"] = np.where(videos["family"] < "10", "tt", None)
    videos = videos.assign(video_width=640, video_height=480)
    ledger = videos.reindex(columns=list(VIDEOS.columns))
    write_table(ledger, VIDEOS, folder / "videos.parquet")
    write_table(videos.dropna(subset="fold"), SPLITS, folder / "splits.parquet")
    picture = np.full((32, 32, 3), 90, np.uint8)
    cv2.circle(picture, (16, 16), 9, (200, 180, 160), -1)
    faces = []
    with write_shard(folder / "faces" / "p-00.tar") as shard:
        payload = encode_jpeg(picture, 90)
        for number, name in enumerate(videos["video"][:-2]):
            for frame in range(FACES_EACH):
                key = f"{name}_{frame}"
                place = {"shard": "p-00.tar", "key": key, "offset": shard.add(key, payload)}
                size = {"size": len(payload), "x0": 0.0, "x1": 40.0 + 200 * (number % 2)}
                about = {"part": "p", "video": name, "track": 0, "frame": frame}
                faces.append(about | place | size | {"brightness": 100.0, "sharpness": 50.0})
    write_rows(faces, FACES, folder / "faces" / "p-00.parquet")
    return Data(folder, videos)


@pytest.fixture(scope="module")
def evaluated(data: Data) -> Path:
    return data.evaluate("good", 1.5, (0, 1, 2))


def test_every_video_of_the_ledger_is_one_row(data: Data, evaluated: Path) -> None:
    rows = read_table(evaluated / OUT_OF_FOLD_TABLE, OUT_OF_FOLD).set_index("video")
    assert sorted(rows.index) == sorted(data.videos["video"])
    assert rows["source"].value_counts().to_dict() == {"model": 90, "prior": 1, "none": 1}
    assert rows.loc["missing.mp4", "source"] == "none"
    assert np.isnan(rows.loc["missing.mp4", "probability"])
    heads = read_json(evaluated / CALIBRATION, dict[str, ScoringHead])
    assert rows.loc["faceless.mp4", "source"] == "prior"
    prior = heads["fold0-seed1"].calibration.prior
    assert rows.loc["faceless.mp4", "probability"] == pytest.approx(prior)


def test_a_fold_without_a_model_has_no_predictions(data: Data) -> None:
    files = data.evaluate("partial", 1.5, (1,))
    rows = read_table(files / OUT_OF_FOLD_TABLE, OUT_OF_FOLD)
    assert len(rows) == len(data.videos)
    assert (rows["source"] == "model").sum() == FAMILIES
    assert read_json(files / METRICS, ExperimentMetrics).test.count == FAMILIES


def test_metrics_count_the_faceless_video_and_have_intervals(evaluated: Path) -> None:
    metrics = read_json(evaluated / METRICS, ExperimentMetrics)
    test = metrics.test
    assert (test.count, test.without_face, test.groups) == (3 * FAMILIES + 1, 1, FAMILIES + 1)
    for measured in (test, metrics.val, metrics.tracks, metrics.faces):
        low, high = measured.intervals["log_loss"]
        assert low < measured.log_loss < high
    assert test.log_loss < test.constant_log_loss
    assert metrics.faces.count == FACES_EACH * metrics.tracks.count == 3 * FAMILIES * FACES_EACH


def test_labels_of_test_videos_change_no_prediction(data: Data) -> None:
    """Those of fold 0 change calibrations of other folds, not those of fold 0."""
    models = [data.write_model("flipped", fold, 1.5) for fold in range(FOLDS)]
    scores, runs = zip(*models, strict=True)
    splits = read_table(data.folder / "splits.parquet", SPLITS)
    flipped = splits["label"].map({"REAL": "FAKE", "FAKE": "REAL"})
    fitted = []
    for labels in (splits["label"], splits["label"].where(splits["fold"] != 0, flipped)):
        write_table(splits.assign(label=labels), SPLITS, data.folder / "flipped.parquet")
        files = data.evaluate_models("flipped", scores, runs, data.folder / "flipped.parquet")
        predictions = read_table(files / PREDICTIONS_TABLE, PREDICTIONS)
        heads = read_json(files / CALIBRATION, dict[str, ScoringHead])
        of_fold = predictions.loc[predictions["fold"] == 0, "probability"]
        fitted.append((heads["fold0-seed1"], of_fold.to_list()))
    assert fitted[0] == fitted[1]


def test_each_source_has_a_result_and_the_log_their_mean(evaluated: Path) -> None:
    metrics = read_json(evaluated / "metrics.json", ExperimentMetrics)
    of_source = {one.name: one for one in metrics.subgroups if one.by == "source"}
    assert sum(one.count for one in of_source.values()) == metrics.test.count
    areas = {name: one.roc_auc for name, one in of_source.items()}
    assert None not in areas.values()
    mean = np.mean(list(areas.values()))
    assert f"mean {mean:.3f} (film {areas['film']:.3f}, web {areas['web']:.3f})" == (
        describe_sources(metrics.subgroups)
    )


@pytest.mark.parametrize(
    ("log_loss", "high", "constant", "warning"),
    [
        (0.3, 0.4, 0.6, None),
        (0.6, 0.7, 0.6, "NO BETTER"),
        (0.5, 0.7, 0.6, "MAY BE NO BETTER"),
        (0.5, None, 0.6, "MAY BE NO BETTER"),
        (0.5, np.nan, 0.6, "MAY BE NO BETTER"),
        (0.1, 0.2, 0.0, "one label"),
    ],
)
def test_a_detector_that_is_not_better_than_the_constant_baseline_has_a_loud_warning(
    log_loss: float, high: float | None, constant: float, warning: str | None
) -> None:
    found = baseline_warning(log_loss, high, constant)
    assert (warning is None) == (found is None)
    assert (warning or "") in (found or "")


def test_without_a_validation_fake_nothing_is_calibrated(
    data: Data, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scores, run = data.write_model("reals", 0, 1.5)
    splits = read_table(data.folder / "splits.parquet", SPLITS)
    labels = splits["label"].where(splits["fold"] != 1, "REAL")
    write_table(splits.assign(label=labels), SPLITS, data.folder / "reals.parquet")
    files = data.evaluate_models("reals", [scores], [run], data.folder / "reals.parquet")
    head = read_json(files / CALIBRATION, dict[str, ScoringHead])["fold0-seed1"]
    assert (head.aggregate, head.calibration.method) == ("mean_logit", "none")
    metrics = read_json(files / METRICS, ExperimentMetrics)
    assert metrics.test.log_loss == metrics.test_uncalibrated.log_loss
    assert "0 of them FAKE: no calibration without both labels" in caplog.text


def test_the_worst_subgroup_is_furthest_above_its_constant_baseline(
    evaluated: Path,
) -> None:
    metrics = read_json(evaluated / METRICS, ExperimentMetrics)
    groups = {(one.by, one.name): one for one in metrics.subgroups}
    assert groups["face width, pixels", "below 64"].count == 45
    assert groups["face width, pixels", "128 to 255"].count == 45
    faceless = groups["status", "no_face"]
    assert (faceless.count, faceless.log_loss_interval) == (1, (None, None))
    swap = groups["method, with all REAL", "swap"]
    assert (swap.count, swap.fake) == (2 * FAMILIES + 1, FAMILIES)
    interlaced, others = (groups["field order", name] for name in ("tt", "not stated"))
    assert interlaced.count == groups["source", "film"].count
    assert interlaced.count + others.count == metrics.test.count
    assert not any(by == "transfer" for by, _ in groups)  # the same in all videos
    worst = metrics.worst_subgroup
    assert worst is not None
    assert worst.excess == max(one.excess for one in groups.values() if one.count >= 10)
    low, high = worst.excess_interval
    assert low < worst.excess < high
    assert worst.name in (evaluated / PAGE).read_text()


def test_small_subgroups_and_those_of_one_label_are_never_the_worst() -> None:
    fair = Subgroup("fps", "25", 50, 40, 0.4, (0.3, 0.5), 0.5, -0.1, (-0.2, 0.0), 0.9)
    small = replace(fair, name="12", count=9, excess=2.5)
    fakes = replace(fair, name="60", fake=50, constant_log_loss=0.0, excess=0.4)
    assert worst_subgroup([fair, small, fakes]) == fair
    assert worst_subgroup([]) is None


def test_the_page_names_metrics_subgroups_and_scoring_heads(evaluated: Path) -> None:
    page = (evaluated / PAGE).read_text()
    for words in ("constant baseline", "face width", "fold2-seed1", "mean_logit", "TPR at 1 % FPR"):
        assert words in page


def test_experiments_are_compared_in_pairs(data: Data, evaluated: Path) -> None:
    experiments = {"good": evaluated, "poor": data.evaluate("poor", 0.3, (0, 1, 2))}
    csv, json, svg, page = (
        data.folder / f"comparison.{kind}" for kind in ("csv", "json", "svg", "html")
    )
    compare(
        [files / METRICS for files in experiments.values()],
        [files / PREDICTIONS_TABLE for files in experiments.values()],
        sorted(path for name in experiments for path in data.folder.glob(f"{name}/*/speed.json")),
        *(CONFIG, csv, json, svg, page),
    )
    table = pd.read_csv(csv)
    assert list(table["experiment"]) == ["good", "poor"]
    assert (table["test_log_loss_low"] < table["test_log_loss"]).all()
    details = read_json(json, Comparison)
    (difference,) = details.differences
    losses = table["test_log_loss"]
    assert difference.log_loss == pytest.approx(losses[1] - losses[0])
    assert difference.log_loss_interval[0] > 0
    assert details.ensemble is not None
    assert details.ensemble.bytes == 10 * 3 * len(details.ensemble.weights)
    assert "Paired differences" in page.read_text()


def test_models_of_a_fold_are_averaged_in_log_odds() -> None:
    videos = pd.DataFrame({"part": "p", "video": ["a", "b"], "label": ["REAL", "FAKE"]})
    one = videos.assign(logit=[1.0, np.nan], log_odds=[2.0, 0.5])
    other = videos.assign(logit=[3.0, np.nan], log_odds=[-1.0, 1.5])
    averaged = average_models([one, other])
    np.testing.assert_allclose(averaged["probability"], expit([0.5, 1.0]))
    np.testing.assert_allclose(averaged["logit"], [2.0, np.nan])
    assert averaged[["part", "video", "label"]].equals(videos)
