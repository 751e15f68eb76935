"""Evaluation of one experiment: all is chosen on the select role and told of the report role.

It starts from the scores of single faces and needs no model: another aggregation, calibration or
interval is a matter of seconds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from unmask.config import EvaluationConfig
from unmask.evaluation import figures
from unmask.evaluation.intervals import metric_intervals, resampling
from unmask.evaluation.metrics import binary_metrics
from unmask.evaluation.subgroups import describe_videos, measure_subgroups, worst_subgroup
from unmask.files import write_json
from unmask.inference.aggregate import FaceLogits
from unmask.inference.calibrate import identity
from unmask.inference.scoring_head import ScoringHead, fit_scoring_head
from unmask.report.pages import write_page
from unmask.report.style import save
from unmask.splits.roles import rows_to_choose_on, with_roles
from unmask.tables import (
    ANSWERS,
    FACES,
    PREDICTIONS,
    SCORES,
    SPLITS,
    VIDEOS,
    read_table,
    read_tables,
    write_table,
)
from unmask.vocabulary import Answered, Label, Role

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]

_VIDEO = ["part", "video"]
_TRACK = [*_VIDEO, "track"]
# What groups and the page of mistakes need of the face index.
_INDEX = [*_TRACK, "x0", "x1", "brightness", "sharpness", "shard", "key", "offset", "size"]
_ON_THE_PAGE = {
    "predicted probabilities": "answers.svg",
    "decomposition of the log loss": "losses.svg",
    "reliability diagram": "reliability.svg",
    "ROC curve": "roc.svg",
    "log loss of subgroups": "subgroups.svg",
}


@dataclass(frozen=True)
class EvaluationFiles:
    """What an evaluation writes, all in one folder."""

    folder: Path

    @property
    def metrics(self) -> Path:
        """JSON: metrics with intervals, per role, of faces and people, by group, per model."""
        return self.folder / "metrics.json"

    @property
    def calibration(self) -> Path:
        """JSON: the readout of each model, by its name, see `unmask.inference.scoring_head`."""
        return self.folder / "calibration.json"

    @property
    def predictions(self) -> Path:
        """One row per fold and video of its select and its report role."""
        return self.folder / "predictions.parquet"

    @property
    def videos(self) -> Path:
        """One row per video of the ledger: what it is answered by models that never saw it."""
        return self.folder / "videos.parquet"

    @property
    def page(self) -> Path:
        """HTML: all of it for people."""
        return self.folder / "page.html"

    def figure(self, name: str) -> Path:
        """Return the path of one figure."""
        return self.folder / name


@dataclass(frozen=True)
class ModelAnswers:
    """What one model says of all videos that it was not trained on.

    Attributes:
        readout: how its logits are read.
        videos: one row per video, with `role`, `logit`, `faces` and `log_odds`, which are held out
            on the select role.
        faces: one row per face of the report role, with `logit` and calibrated `log_odds`.
    """

    readout: ScoringHead
    videos: pd.DataFrame
    faces: pd.DataFrame


def evaluate(
    scores: list[Path],
    runs: list[Path],
    splits: Path,
    ledger: Path,
    shards: Path,
    indices: list[Path],
    config: EvaluationConfig,
    output: Path,
) -> None:
    """Evaluate an experiment.

    Each model has a readout of its own. The seeds of a fold answer together: the experiment's
    figures are those of their mean log-odds; `models` has each model's own.

    Args:
        scores: score tables of the experiment's models.
        runs: `run.json` of the same models, in the same order.
        splits: the split table.
        ledger: the table of all videos.
        shards: folder of face shards, for the faces of the worst mistakes.
        indices: face indices of all shards.
        config: the `evaluation` section.
        output: folder of the files in `EvaluationFiles`.
    """
    files = EvaluationFiles(output)
    output.mkdir(parents=True, exist_ok=True)
    jobs = [json.loads(run.read_text()) for run in runs]
    table = read_table(splits, SPLITS)
    answered = {
        job["model"]: answer_videos(job, table, path, config)
        for job, path in zip(jobs, scores, strict=True)
    }
    of_folds: dict[int, list[ModelAnswers]] = {}
    for job in jobs:
        of_folds.setdefault(job["fold"], []).append(answered[job["model"]])
    videos = {fold: average_models([one.videos for one in of]) for fold, of in of_folds.items()}
    faces = pd.concat(
        [average_models([one.faces for one in of]) for of in of_folds.values()], ignore_index=True
    )
    predictions = pd.concat(videos.values(), ignore_index=True)
    report = predictions[predictions["role"] == Role.TEST]
    all_videos = read_table(ledger, VIDEOS)
    index = read_tables(indices, FACES, _INDEX)
    described = describe_videos(report, all_videos, index)
    groups = measure_subgroups(described, config.resamples)

    metrics: dict[str, Any] = {
        "experiment": jobs[0]["experiment"],
        "test": metrics_with_intervals(report, config),
        "val": metrics_with_intervals(predictions[predictions["role"] == Role.VAL], config),
        "test_uncalibrated": _uncalibrated(videos, jobs),
        "people": metrics_with_intervals(_people(faces, report), config),
        "faces": metrics_with_intervals(_labelled(faces, report), config),
        "subgroups": groups,
        "worst_subgroup": worst_subgroup(groups),
        "folds": {str(fold): _metrics_of(_of_report(rows)) for fold, rows in videos.items()},
        "models": {
            name: _metrics_of(_of_report(answers.videos)) for name, answers in answered.items()
        },
        "readouts": {name: asdict(one.readout) for name, one in answered.items()},
    }
    write_table(predictions, PREDICTIONS, files.predictions)
    write_table(out_of_fold(all_videos, table, report), ANSWERS, files.videos)
    write_json(metrics, files.metrics)
    write_json(metrics["readouts"], files.calibration)
    _draw(report, metrics, jobs, shards, index, files)
    pictures = {name: files.figure(file).read_bytes() for name, file in _ON_THE_PAGE.items()}
    write_page(files.page, "experiment.html.j2", metrics=metrics, figures=pictures)
    _tell(metrics)


def _tell(metrics: Mapping[str, Any]) -> None:
    report = metrics["test"]
    low, high = report["intervals"]["log_loss"]
    logger.info(
        "%s: report log loss %.4f (%s to %s; best constant %.4f), AUC %s, %d videos",
        metrics["experiment"],
        report["log_loss"],
        *("?" if end is None else f"{end:.4f}" for end in (low, high)),
        report["constant_log_loss"],
        "?" if report["roc_auc"] is None else f"{report['roc_auc']:.4f}",
        report["count"],
    )
    if worst := metrics["worst_subgroup"]:
        logger.info("worst group: %s", worst)


def number_faces(scores: pd.DataFrame) -> tuple[FaceLogits, pd.DataFrame]:
    """Number the videos and people of scores that are sorted by video and track.

    Returns:
        Their logits, and one row per video, in order, with the number of its `faces`.
    """
    new_video = _changes(scores, _VIDEO)
    video = np.cumsum(new_video) - 1
    track = np.cumsum(new_video | _changes(scores, ["track"])) - 1
    faces = FaceLogits(scores["logit"].to_numpy(), video, track)
    videos = scores.loc[new_video, _VIDEO].reset_index(drop=True)
    return faces, videos.assign(faces=np.bincount(video, minlength=len(videos)))


def _changes(rows: pd.DataFrame, columns: list[str]) -> NDArray[np.bool_]:
    """Return whether each row differs from the one before in one of the columns."""
    changed = np.zeros(len(rows), bool)
    changed[:1] = True
    for column in columns:
        values = rows[column].to_numpy()
        changed[1:] |= values[1:] != values[:-1]
    return changed


def answer_videos(
    job: Mapping[str, Any], splits: pd.DataFrame, scores: Path, config: EvaluationConfig
) -> ModelAnswers:
    """Return one model's calibrated answers to all videos that it was not trained on."""
    fold, assumed = job["fold"], job["assumed_prior"]
    scored = read_tables([scores], SCORES, [*_TRACK, "role", "logit"])
    asked = with_roles(splits, fold, job["folds"])
    asked = asked[asked["role"] != Role.TRAIN].assign(fold=fold)

    select, select_videos = number_faces(rows_to_choose_on(scored, Role.VAL))
    known = select_videos.merge(asked, on=_VIDEO, how="left")
    fitted = fit_scoring_head(select, _is_fake(known), known["group"].to_numpy(), assumed, config)
    readout = fitted.head

    faces, videos = number_faces(scored)
    videos["logit"] = readout.logits(faces)
    answers = asked.merge(videos, on=_VIDEO, how="left")
    answers["faces"] = answers["faces"].fillna(0).astype(int)
    answers["log_odds"] = readout.calibration.log_odds(answers["logit"].to_numpy())
    held_out = select_videos.assign(held_out=fitted.held_out)[[*_VIDEO, "held_out"]]
    answers = answers.merge(held_out, on=_VIDEO, how="left")
    answers["log_odds"] = answers.pop("held_out").fillna(answers["log_odds"])
    answers["probability"] = expit(answers["log_odds"])

    report = scored[scored["role"] == Role.TEST].drop(columns="role").reset_index(drop=True)
    report["log_odds"] = readout.calibration.log_odds(report["logit"].to_numpy())
    return ModelAnswers(readout, answers, report)


def average_models(answers: list[pd.DataFrame]) -> pd.DataFrame:
    """Average the answers of one fold's models in log-odds, as the bundle's prediction does.

    Args:
        answers: per model, of the same rows in the same order: `logit`, `log_odds` and what belongs
            to the row.

    Returns:
        The first, with the means of `logit` and `log_odds`, and the `probability` of the latter.
    """
    log_odds = np.mean([one["log_odds"] for one in answers], axis=0)
    logit = np.mean([one["logit"] for one in answers], axis=0)
    return answers[0].assign(log_odds=log_odds, logit=logit, probability=expit(log_odds))


def out_of_fold(ledger: pd.DataFrame, splits: pd.DataFrame, report: pd.DataFrame) -> pd.DataFrame:
    """Return one row per video of the ledger, whatever became of it.

    Args:
        ledger: rows of `unmask.tables.VIDEOS`.
        splits: rows of `unmask.tables.SPLITS`.
        report: the predictions of the report role.

    Returns:
        `answered` says who answers: the model, the prior where there is no face, or nobody where
        the video is in no split or its fold has no model.
    """
    columns = ["fold", "faces", "logit", "probability"]
    rows = ledger[[*_VIDEO, "label", "status"]]
    rows = rows.merge(splits[[*_VIDEO, "group"]], on=_VIDEO, how="left")
    rows = rows.merge(report[[*_VIDEO, *columns]], on=_VIDEO, how="left")
    asked, seen = rows["probability"].notna(), rows["logit"].notna()
    answered = np.where(seen, Answered.MODEL, np.where(asked, Answered.PRIOR, Answered.NOBODY))
    rows["faces"] = rows["faces"].fillna(0).astype(int)
    rows["fold"] = rows["fold"].astype("Int32")
    return rows.assign(answered=answered)


def metrics_with_intervals(rows: pd.DataFrame, config: EvaluationConfig) -> dict[str, Any]:
    """Return metrics of rows with `label`, `probability` and `group`, and their 95 % intervals."""
    labels, probabilities = _is_fake(rows), rows["probability"].to_numpy()
    resampled = resampling(rows["group"].to_numpy(), config.resamples)
    return _metrics_of(rows) | {
        "groups": resampled.groups,
        "intervals": metric_intervals(labels, probabilities, resampled),
    }


def _metrics_of(rows: pd.DataFrame) -> dict[str, Any]:
    metrics: dict[str, Any] = binary_metrics(_is_fake(rows), rows["probability"].to_numpy())
    return metrics | {"without_face": int(rows["logit"].isna().sum())}


def _of_report(videos: pd.DataFrame) -> pd.DataFrame:
    return videos[videos["role"] == Role.TEST]


def _uncalibrated(videos: Mapping[int, pd.DataFrame], jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the report role's metrics as if no video's logit had been calibrated."""
    raw = []
    for job in {job["fold"]: job for job in jobs}.values():
        rows = _of_report(videos[job["fold"]])
        as_is = identity(job["assumed_prior"])
        raw.append(rows.assign(probability=as_is.probability(rows["logit"].to_numpy())))
    return _metrics_of(pd.concat(raw))


def _labelled(rows: pd.DataFrame, videos: pd.DataFrame) -> pd.DataFrame:
    """Give faces or people the label and the group of their video."""
    joined: pd.DataFrame = rows.merge(videos[[*_VIDEO, "label", "group"]], on=_VIDEO)
    return joined


def _people(faces: pd.DataFrame, videos: pd.DataFrame) -> pd.DataFrame:
    """Return one row per track: the mean of its faces' logits and log-odds."""
    means = faces.groupby(_TRACK, sort=False)[["logit", "log_odds"]].mean().reset_index()
    return _labelled(means.assign(probability=expit(means["log_odds"])), videos)


def _is_fake(rows: pd.DataFrame) -> Floats:
    return np.asarray(rows["label"] == Label.FAKE, np.float64)


def _draw(
    report: pd.DataFrame,
    metrics: Mapping[str, Any],
    jobs: list[dict[str, Any]],
    shards: Path,
    faces: pd.DataFrame,
    files: EvaluationFiles,
) -> None:
    labels, probabilities = _is_fake(report), report["probability"].to_numpy()
    drawings = {
        "curves.svg": figures.training_curves(jobs),
        "roc.svg": figures.roc(labels, probabilities),
        "precision.svg": figures.precision_recall(labels, probabilities),
        "reliability.svg": figures.reliability(labels, probabilities),
        "answers.svg": figures.answers(labels, probabilities),
        "losses.svg": figures.losses(labels, probabilities),
        "subgroups.svg": figures.subgroups(metrics["subgroups"], metrics["test"]),
        "confusion.svg": figures.confusion(labels, probabilities),
        "mistakes.png": figures.worst_mistakes(report, faces, shards),
    }
    for name, figure in drawings.items():
        save(figure, files.figure(name))
