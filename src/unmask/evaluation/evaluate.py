"""Evaluation of one experiment: scoring heads fitted on validation videos, metrics of test videos.

It starts from face scores, so it needs no network and takes seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from scipy.special import expit, logit

from unmask.config import EvaluationConfig
from unmask.evaluation import figures, results
from unmask.evaluation.intervals import FEWEST_GROUPS
from unmask.evaluation.metrics import Metrics
from unmask.evaluation.predictions import (
    TRACK,
    VIDEO,
    average_models,
    is_fake,
    measure,
    measure_with_intervals,
    out_of_fold,
    predict_held_out,
)
from unmask.evaluation.subgroups import (
    describe_sources,
    describe_videos,
    measure_subgroups,
    worst_subgroup,
)
from unmask.files import write_json
from unmask.report.pages import write_page
from unmask.report.style import save
from unmask.report.verdict import baseline_warning
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
    models = predict_held_out(jobs, split_videos, scores, config)
    folds = sorted({job.fold for job in jobs})
    of_folds = [[models[job.model] for job in jobs if job.fold == fold] for fold in folds]
    averaged = [average_models([one.videos for one in of_fold]) for of_fold in of_folds]
    predictions = pd.concat(averaged, ignore_index=True)
    test, val = (predictions[predictions["role"] == role] for role in (Role.TEST, Role.VAL))
    averaged = [average_models([one.faces for one in of_fold]) for of_fold in of_folds]
    faces = pd.concat(averaged, ignore_index=True).merge(test[[*VIDEO, "label", "group"]], on=VIDEO)
    index = read_tables(indices, FACES, _INDEX)
    subgroups = measure_subgroups(describe_videos(test, all_videos, index), config.resamples)
    metrics = results.ExperimentMetrics(
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
    write_table(predictions, PREDICTIONS, output / results.PREDICTIONS_TABLE)
    known = out_of_fold(all_videos, split_videos, test)
    write_table(known, OUT_OF_FOLD, output / results.OUT_OF_FOLD_TABLE)
    write_json(metrics, output / results.METRICS)
    write_json(heads, output / results.CALIBRATION)

    labels, probabilities = is_fake(test), test["probability"].to_numpy()
    save(figures.training_curves(jobs), output / "curves.svg")
    save(figures.worst_mistakes(test, index, shards), output / "mistakes.png")
    on_page = {
        "probabilities": figures.predicted_probabilities(labels, probabilities),
        "losses": figures.losses(labels, probabilities, metrics.test),
        "reliability": figures.reliability(labels, probabilities),
        "roc": figures.roc(labels, probabilities, metrics.test.roc_auc),
        "precision": figures.precision_recall(
            labels, probabilities, metrics.test.average_precision
        ),
        "confusion": figures.confusion(labels, probabilities),
        "subgroups": figures.subgroups(subgroups, metrics.test.log_loss),
    }
    for name, figure in on_page.items():
        save(figure, output / f"{name}.svg")
    write_page(
        output / results.PAGE,
        "experiment.html.j2",
        metrics=metrics,
        heads=heads,
        fewest_groups=FEWEST_GROUPS,
        figures={name: (output / f"{name}.svg").read_bytes() for name in on_page},
    )
    logger.info(
        "%s: test log loss %.4f, constant baseline %.4f, %d videos in %d groups",
        *(metrics.experiment, metrics.test.log_loss, metrics.test.constant_log_loss),
        *(metrics.test.count, metrics.test.groups),
    )
    logger.info("worst subgroup: %s", metrics.worst_subgroup)
    logger.info("test ROC AUC of sources: %s", describe_sources(subgroups))
    high = metrics.test.intervals["log_loss"][1]
    warning = baseline_warning(metrics.test.log_loss, high, metrics.test.constant_log_loss)
    if warning is not None:
        logger.warning("%s: %s", metrics.experiment, warning)


def _uncalibrated(test: pd.DataFrame, jobs: Sequence[RunRecord]) -> Metrics:
    """Return the test metrics of the aggregated logits as they are."""
    prior = test["fold"].map({job.fold: job.assumed_prior for job in jobs})
    return measure(test.assign(probability=expit(test["logit"].fillna(0) + logit(prior))))


def _tracks(faces: pd.DataFrame) -> pd.DataFrame:
    """Return one row per track: the mean of its faces' logits and log-odds."""
    of_track = faces.groupby([*TRACK, "label", "group"], sort=False)[["logit", "log_odds"]]
    tracks = of_track.mean().reset_index()
    return tracks.assign(probability=expit(tracks["log_odds"]))
