"""Comparison of experiments: on the same videos, with paired differences and an ensemble."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unmask.config import Config
from unmask.evaluation import figures
from unmask.evaluation.ensembles import KEY, Cost, build_ensemble
from unmask.evaluation.evaluate import metrics_with_intervals
from unmask.evaluation.intervals import (
    Interval,
    interval,
    mean_interval,
    resampled_metrics,
    resampling,
    row_losses,
)
from unmask.evaluation.metrics import binary_metrics
from unmask.files import atomic_path, read_json, write_json
from unmask.inference.records import ScoringSpeed
from unmask.report.pages import write_page
from unmask.report.style import save
from unmask.tables import PREDICTIONS, read_table
from unmask.vocabulary import Label, Role

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparisonFiles:
    """What a comparison writes.

    Attributes:
        table: CSV, the best on the select role first: the report role chooses nothing.
        details: JSON: the order of the table, each experiment's `Difference` from the first, and
            the ensemble.
        figure: SVG.
        page: HTML: all of it for people.
    """

    table: Path
    details: Path
    figure: Path
    page: Path


@dataclass(frozen=True)
class Difference:
    """How two experiments differ on the videos that both report on.

    Attributes:
        first: an experiment.
        second: another.
        videos: that both report on.
        log_loss: of the first minus that of the second; below 0 the first is better.
        log_loss_interval: its 95 % interval, from resamples of the same groups.
        roc_auc: of the first minus that of the second; None where it cannot be had.
        roc_auc_interval: its interval.
    """

    first: str
    second: str
    videos: int
    log_loss: float
    log_loss_interval: Interval
    roc_auc: float | None
    roc_auc_interval: Interval


def paired_difference(
    first: tuple[str, pd.DataFrame], second: tuple[str, pd.DataFrame], resamples: int
) -> Difference | None:
    """Compare two experiments on their common videos; None where there are none.

    Both are resampled alike, so what makes a family hard for both cancels out: the interval of the
    difference is much narrower than the difference of the intervals.

    Args:
        first: name and report predictions, see `unmask.tables.PREDICTIONS`.
        second: the same of the other.
        resamples: of whole groups.
    """
    columns = [*KEY, "probability"]
    both = first[1].merge(second[1][columns], on=KEY, suffixes=("", "_other"))
    if both.empty:
        return None
    labels = np.asarray(both["label"] == Label.FAKE, np.float64)
    answers = [both[name].to_numpy() for name in ("probability", "probability_other")]
    resampled = resampling(both["group"].to_numpy(), resamples)
    measured = [binary_metrics(labels, one) for one in answers]
    drawn = [resampled_metrics(labels, one, resampled) for one in answers]
    areas = [one["roc_auc"] for one in measured]
    losses = [row_losses(labels, one)["log_loss"] for one in answers]
    return Difference(
        first=first[0],
        second=second[0],
        videos=len(both),
        log_loss=float(np.mean(losses[0] - losses[1])),
        log_loss_interval=mean_interval(losses[0] - losses[1], resampled),
        roc_auc=None if areas[0] is None or areas[1] is None else areas[0] - areas[1],
        roc_auc_interval=interval(drawn[0]["roc_auc"] - drawn[1]["roc_auc"], resampled.groups),
    )


def compare(
    metrics: list[Path],
    predictions: list[Path],
    costs: list[Path],
    config: Config,
    output: ComparisonFiles,
) -> None:
    """Compare experiments: a table, paired differences, an ensemble, a figure and a page.

    Args:
        metrics: `metrics.json` of each experiment.
        predictions: `predictions.parquet` of each, in the same order.
        costs: `speed.json` of all models of all experiments.
        config: number of resamples; what a bundle may cost.
        output: the files to write.
    """
    contents = [json.loads(path.read_text()) for path in metrics]
    answered = {
        content["experiment"]: read_table(path, PREDICTIONS)
        for content, path in zip(contents, predictions, strict=True)
    }
    reports = {name: rows[rows["role"] == Role.TEST] for name, rows in answered.items()}
    comparison = pd.DataFrame([_row(content) for content in contents])
    comparison = comparison.sort_values(["val_log_loss", "experiment"], ignore_index=True)
    names = list(comparison["experiment"])
    best, resamples = (names[0], reports[names[0]]), config.evaluation.resamples
    found = [paired_difference((name, reports[name]), best, resamples) for name in names[1:]]
    told = [asdict(one) for one in found if one is not None]
    ensemble = _ensemble(answered, [read_json(path, ScoringSpeed) for path in costs], config)
    with atomic_path(output.table) as temporary:
        comparison.to_csv(temporary, index=False)
    write_json({"order": names, "differences": told, "ensemble": ensemble}, output.details)
    save(figures.comparison(comparison), output.figure)
    write_page(
        output.page,
        "comparison.html.j2",
        title="Experiments",
        experiments=comparison.to_dict("records"),
        differences=told,
        ensemble=ensemble,
        figure=output.figure.read_bytes(),
    )
    logger.info("best on the select role: %s", names[0])


def _ensemble(
    answered: Mapping[str, pd.DataFrame], speeds: list[ScoringSpeed], config: Config
) -> dict[str, Any] | None:
    """Return what the ensemble is, what it costs, and how it does on the report role."""
    if len(answered) < 2:
        return None
    costs = {
        name: Cost(
            sum(one.bytes for one in speeds if one.experiment == name),
            config.frames.per_video
            * sum(one.seconds_per_crop for one in speeds if one.experiment == name),
        )
        for name in answered
    }
    budget = Cost(config.kaggle.max_bytes, config.kaggle.seconds_per_video)
    ensemble = build_ensemble(answered, costs, budget)
    if ensemble is None:
        return None
    return {
        "weights": ensemble.weights,
        "weights_of_folds": ensemble.weights_of_folds,
        "bytes": sum(costs[name].size for name in ensemble.weights),
        "seconds_per_video": sum(costs[name].seconds for name in ensemble.weights),
        "test": metrics_with_intervals(ensemble.predictions, config.evaluation),
    }


def _row(content: Mapping[str, Any]) -> dict[str, Any]:
    report = content["test"]
    row = {"experiment": content["experiment"], "val_log_loss": content["val"]["log_loss"]}
    for name, value in report.items():
        if name != "intervals":
            row[f"test_{name}"] = value
        if (ends := report["intervals"].get(name)) is not None:
            row[f"test_{name}_low"], row[f"test_{name}_high"] = ends
    return row
