"""Evaluation of one experiment: fitted on validation videos, measured on test videos.

It starts from face scores and needs no network, so another aggregation, calibration or interval
takes seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from scipy.special import expit, logit

from unmask.config import EvaluationConfig
from unmask.evaluation import figures
from unmask.evaluation.metrics import Metrics
from unmask.evaluation.predictions import (
    TRACK,
    VIDEO,
    ModelPredictions,
    average_models,
    is_fake,
    measure,
    measure_with_intervals,
    out_of_fold,
    predict_held_out,
)
from unmask.evaluation.results import (
    CALIBRATION,
    METRICS,
    OUT_OF_FOLD_TABLE,
    PAGE,
    PREDICTIONS_TABLE,
    ExperimentMetrics,
)
from unmask.evaluation.subgroups import describe_videos, measure_subgroups, worst_subgroup
from unmask.files import write_json
from unmask.report.pages import write_page
from unmask.report.style import save
from unmask.tables import (
    FACES,
    OUT_OF_FOLD,
    PREDICTIONS,
    SPLITS,
    VIDEOS,
    read_table,
    read_tables,
    write_table,
)
from unmask.training.run_record import RunRecord
from unmask.vocabulary import Role

logger = logging.getLogger(__name__)

# The columns of the face index that subgroups and the figure of mistakes need.
_INDEX = [*TRACK, "x0", "x1", "brightness", "sharpness", "shard", "key", "offset", "size"]
_ON_THE_PAGE = {
    "predicted probabilities": "probabilities.svg",
    "decomposition of the log loss": "losses.svg",
    "reliability diagram": "reliability.svg",
    "ROC curve": "roc.svg",
    "log loss of subgroups": "subgroups.svg",
}


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

    Each model has its own scoring head. The predictions of a fold are the mean log-odds of its
    models, one per seed; the metrics of the experiment pool the folds.

    Args:
        scores: score tables of the experiment's models.
        runs: `run.json` of the same models, in the same order.
        splits: the split table.
        ledger: the table of all videos.
        shards: folder of face shards, for the faces of the worst mistakes.
        indices: face indices of all shards.
        config: the `evaluation` section.
        output: folder of the files.
    """
    jobs = [RunRecord.read(run) for run in runs]
    split_videos, all_videos = read_table(splits, SPLITS), read_table(ledger, VIDEOS)
    models = {
        job.model: predict_held_out(job, split_videos, path, config)
        for job, path in zip(jobs, scores, strict=True)
    }
    folds: dict[int, list[ModelPredictions]] = {}
    for job in jobs:
        folds.setdefault(job.fold, []).append(models[job.model])
    predictions = pd.concat(
        [average_models([one.videos for one in of_fold]) for of_fold in folds.values()],
        ignore_index=True,
    )
    faces = pd.concat(
        [average_models([one.faces for one in of_fold]) for of_fold in folds.values()],
        ignore_index=True,
    )
    test, val = (predictions[predictions["role"] == role] for role in (Role.TEST, Role.VAL))
    faces = faces.merge(test[[*VIDEO, "label", "group"]], on=VIDEO)
    index = read_tables(indices, FACES, _INDEX)
    subgroups = measure_subgroups(describe_videos(test, all_videos, index), config.resamples)
    metrics = ExperimentMetrics(
        experiment=jobs[0].experiment,
        test=measure_with_intervals(test, config.resamples),
        val=measure_with_intervals(val, config.resamples),
        test_uncalibrated=_uncalibrated(test, jobs),
        tracks=measure_with_intervals(_tracks(faces), config.resamples),
        faces=measure_with_intervals(faces, config.resamples),
        subgroups=subgroups,
        worst_subgroup=worst_subgroup(subgroups),
        folds={fold: measure(test[test["fold"] == fold]) for fold in folds},
        models={
            name: measure(model.videos[model.videos["role"] == Role.TEST])
            for name, model in models.items()
        },
    )
    heads = {name: model.head for name, model in models.items()}
    write_table(predictions, PREDICTIONS, output / PREDICTIONS_TABLE)
    write_table(
        out_of_fold(all_videos, split_videos, test), OUT_OF_FOLD, output / OUT_OF_FOLD_TABLE
    )
    write_json(metrics, output / METRICS)
    write_json(heads, output / CALIBRATION)
    for name, figure in _draw(test, metrics, jobs, shards, index).items():
        save(figure, output / name)
    pictures = {alt: (output / name).read_bytes() for alt, name in _ON_THE_PAGE.items()}
    write_page(output / PAGE, "experiment.html.j2", metrics=metrics, heads=heads, figures=pictures)
    _log(metrics)


def _uncalibrated(test: pd.DataFrame, jobs: Sequence[RunRecord]) -> Metrics:
    """Return the test metrics of the aggregated logits as they are."""
    prior = test["fold"].map({job.fold: job.assumed_prior for job in jobs})
    return measure(test.assign(probability=expit(test["logit"].fillna(logit(prior)))))


def _tracks(faces: pd.DataFrame) -> pd.DataFrame:
    """Return one row per track: the mean of its faces' logits and log-odds."""
    of_track = faces.groupby([*TRACK, "label", "group"], sort=False)[["logit", "log_odds"]]
    tracks = of_track.mean().reset_index()
    return tracks.assign(probability=expit(tracks["log_odds"]))


def _draw(
    test: pd.DataFrame,
    metrics: ExperimentMetrics,
    jobs: list[RunRecord],
    shards: Path,
    index: pd.DataFrame,
) -> dict[str, Figure]:
    """Return file name to figure."""
    labels, probabilities = is_fake(test), test["probability"].to_numpy()
    return {
        "curves.svg": figures.training_curves(jobs),
        "roc.svg": figures.roc(labels, probabilities, metrics.test),
        "precision.svg": figures.precision_recall(labels, probabilities, metrics.test),
        "reliability.svg": figures.reliability(labels, probabilities),
        "probabilities.svg": figures.predicted_probabilities(labels, probabilities),
        "losses.svg": figures.losses(labels, probabilities, metrics.test),
        "subgroups.svg": figures.subgroups(metrics.subgroups, metrics.test.log_loss),
        "confusion.svg": figures.confusion(labels, probabilities),
        "mistakes.png": figures.worst_mistakes(test, index, shards),
    }


def _log(metrics: ExperimentMetrics) -> None:
    test = metrics.test
    low, high = test.intervals["log_loss"]
    logger.info(
        "%s: test log loss %.4f (95 %% %s to %s; constant baseline %.4f), AUC %s, %d videos",
        metrics.experiment,
        test.log_loss,
        *("?" if end is None else f"{end:.4f}" for end in (low, high)),
        test.constant_log_loss,
        "?" if test.roc_auc is None else f"{test.roc_auc:.4f}",
        test.count,
    )
    if metrics.worst_subgroup is not None:
        logger.info("worst subgroup: %s", metrics.worst_subgroup)
