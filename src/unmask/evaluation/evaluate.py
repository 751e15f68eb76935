"""Evaluation of one experiment: calibrate on the select role, report on the report role."""

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
from unmask.evaluation.aggregate import aggregate_videos
from unmask.evaluation.calibrate import Calibration, fit_platt, identity
from unmask.evaluation.metrics import binary_metrics
from unmask.splits.roles import rows_to_choose_on, with_roles
from unmask.tables import (
    FACES,
    PREDICTIONS,
    SCORES,
    SPLITS,
    Label,
    Role,
    atomic_path,
    read_table,
    read_tables,
    write_json,
    write_table,
)
from unmask.tracking import log_evaluation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationFiles:
    """What an evaluation writes, all in one folder."""

    folder: Path

    @property
    def metrics(self) -> Path:
        """JSON: metrics per role over all folds, per fold, per model, and before calibration."""
        return self.folder / "metrics.json"

    @property
    def calibration(self) -> Path:
        """JSON: the calibration of each model, by its name."""
        return self.folder / "calibration.json"

    @property
    def predictions(self) -> Path:
        """One row per fold and video, see `unmask.tables.PREDICTIONS`."""
        return self.folder / "videos.parquet"

    def figure(self, name: str) -> Path:
        """Return the path of one figure."""
        return self.folder / name


def evaluate(
    scores: list[Path],
    runs: list[Path],
    splits: Path,
    shards: Path,
    indices: list[Path],
    config: EvaluationConfig,
    output: Path,
) -> None:
    """Evaluate an experiment and log what came out into the runs of its training jobs.

    Each model is calibrated by itself. The seeds of a fold answer together: the experiment's
    figures are those of their mean log-odds, and each model's own are logged into its run.

    Args:
        scores: score tables of the experiment's models.
        runs: `run.json` of the same models, in the same order.
        splits: the split table.
        shards: folder of face shards, for the faces of the worst mistakes.
        indices: face indices of all shards.
        config: the `evaluation` section.
        output: folder of the files in `EvaluationFiles`.
    """
    files = EvaluationFiles(output)
    output.mkdir(parents=True, exist_ok=True)
    jobs = [json.loads(run.read_text()) for run in runs]
    table = read_table(splits, SPLITS)
    videos = aggregate_videos(read_tables(scores, SCORES), config)
    answered, calibrations = {}, {}
    for job in jobs:
        answers, calibration = _answers_of(job, table, videos, config)
        answered[job["model"]] = answers
        calibrations[job["model"]] = calibration
    folds = sorted({job["fold"] for job in jobs})
    of_folds = {
        fold: average_models([answered[job["model"]] for job in jobs if job["fold"] == fold])
        for fold in folds
    }
    predictions = pd.concat(of_folds.values(), ignore_index=True)

    metrics: dict[str, Any] = {
        "experiment": jobs[0]["experiment"],
        **{str(role): _metrics_of(predictions, role) for role in (Role.REPORT, Role.SELECT)},
        "report_uncalibrated": uncalibrated_metrics(
            predictions, {job["fold"]: job["prior"] for job in jobs}
        ),
        "folds": {str(fold): _metrics_of(rows, Role.REPORT) for fold, rows in of_folds.items()},
        "models": {name: _metrics_of(rows, Role.REPORT) for name, rows in answered.items()},
    }
    write_table(predictions, PREDICTIONS, files.predictions)
    write_json(metrics, files.metrics)
    write_json({name: asdict(one) for name, one in calibrations.items()}, files.calibration)
    drawn = _draw(predictions, jobs, shards, read_tables(indices, FACES), files)
    for job in jobs:
        of_model = metrics["models"][job["model"]]
        logged = {f"report/{name}": value for name, value in of_model.items()}
        log_evaluation(job, logged, dict.fromkeys((files.metrics, *drawn), "evaluation"))
    report = metrics["report"]
    logger.info(
        "%s: report log loss %.4f (best constant %.4f), AUC %.4f, %d videos",
        metrics["experiment"],
        report["log_loss"],
        report["best_constant_log_loss"],
        report["roc_auc"],
        report["videos"],
    )


def _answers_of(
    job: Mapping[str, Any], splits: pd.DataFrame, videos: pd.DataFrame, config: EvaluationConfig
) -> tuple[pd.DataFrame, Calibration]:
    """Return one model's calibrated answers to all videos that it was not trained on."""
    fold, seed = job["fold"], job["seed"]
    asked = with_roles(splits, fold, job["folds"])
    asked = asked[asked["role"] != Role.TRAIN].assign(fold=fold)
    scored = videos[(videos["fold"] == fold) & (videos["seed"] == seed)]
    answers = asked.merge(scored, on=["fold", "part", "video"], how="left")
    calibration = calibrate_fold(answers, job["prior"], config)
    answers["log_odds"] = calibration.log_odds(answers["logit"].to_numpy())
    answers["probability"] = expit(answers["log_odds"])
    answers["faces"] = answers["faces"].fillna(0).astype(int)
    return answers, calibration


def average_models(answers: list[pd.DataFrame]) -> pd.DataFrame:
    """Average the answers of one fold's models in log-odds, as the bundle's prediction does.

    Args:
        answers: per model, of the same videos in the same order: `logit`, `log_odds` and what
            belongs to the video.

    Returns:
        The first, with the means of `logit` and `log_odds`, and the `probability` of the latter.
    """
    log_odds = np.mean([one["log_odds"] for one in answers], axis=0)
    logit = np.mean([one["logit"] for one in answers], axis=0)
    return answers[0].assign(log_odds=log_odds, logit=logit, probability=expit(log_odds))


def calibrate_fold(fold: pd.DataFrame, prior: float, config: EvaluationConfig) -> Calibration:
    """Fit the calibration of one fold's model on its select role alone.

    Args:
        fold: the fold's videos with `role`, `label` and `logit`.
        prior: share of FAKE that uncalibrated logits assume.
        config: whether to calibrate at all.
    """
    select = rows_to_choose_on(fold, Role.SELECT)
    if not config.calibrate:
        return identity(prior)
    seen = select[select["logit"].notna()]
    return fit_platt(seen["logit"].to_numpy(), _is_fake(seen))


def uncalibrated_metrics(predictions: pd.DataFrame, priors: dict[int, float]) -> dict[str, float]:
    """Return the report role's metrics as if nothing had been calibrated, by the folds' priors."""
    raw = []
    for fold, prior in priors.items():
        rows = predictions[predictions["fold"] == fold]
        raw.append(rows.assign(probability=identity(prior).probability(rows["logit"].to_numpy())))
    return _metrics_of(pd.concat(raw), Role.REPORT)


def _metrics_of(predictions: pd.DataFrame, role: Role) -> dict[str, float]:
    rows = predictions[predictions["role"] == role]
    metrics = binary_metrics(_is_fake(rows), rows["probability"].to_numpy())
    return metrics | {"without_face": int(rows["logit"].isna().sum())}


def _is_fake(rows: pd.DataFrame) -> NDArray[np.float64]:
    return np.asarray(rows["label"] == Label.FAKE, np.float64)


def _draw(
    predictions: pd.DataFrame,
    jobs: list[dict[str, Any]],
    shards: Path,
    faces: pd.DataFrame,
    files: EvaluationFiles,
) -> list[Path]:
    report = predictions[predictions["role"] == Role.REPORT]
    labels, probabilities = _is_fake(report), report["probability"].to_numpy()
    drawings = {
        "curves.svg": figures.training_curves(jobs),
        "roc.svg": figures.roc(labels, probabilities),
        "reliability.svg": figures.reliability(labels, probabilities),
        "answers.svg": figures.answers(labels, probabilities),
        "confusion.svg": figures.confusion(labels, probabilities),
        "mistakes.png": figures.worst_mistakes(report, faces, shards),
    }
    paths = []
    for name, figure in drawings.items():
        figures.save(figure, files.figure(name))
        paths.append(files.figure(name))
    return paths


def compare(metrics: list[Path], table: Path, figure: Path) -> None:
    """Compare experiments: a table and a figure.

    Args:
        metrics: `metrics.json` of each experiment.
        table: CSV to write, the best on the select role first: the report role chooses nothing.
        figure: SVG to write.
    """
    rows = []
    for path in metrics:
        content = json.loads(path.read_text())
        rows.append(
            {
                "experiment": content["experiment"],
                "select_log_loss": content["select"]["log_loss"],
                **{f"report_{name}": value for name, value in content["report"].items()},
            }
        )
    comparison = pd.DataFrame(rows).sort_values(["select_log_loss", "experiment"])
    with atomic_path(table) as temporary:
        comparison.to_csv(temporary, index=False)
    figures.save(figures.comparison(comparison), figure)
    logger.info("best on the select role: %s", comparison["experiment"].iloc[0])
