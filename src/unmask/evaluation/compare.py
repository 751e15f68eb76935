"""Comparison of experiments: paired differences on common test videos, and an ensemble."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from unmask.config import Config
from unmask.evaluation import figures
from unmask.evaluation.ensembles import KEY, Cost, build_ensemble, sum_costs
from unmask.evaluation.intervals import interval, mean_interval, resampled_metrics, resampling
from unmask.evaluation.metrics import binary_metrics, row_losses
from unmask.evaluation.predictions import is_fake
from unmask.evaluation.results import Comparison, Difference, ExperimentMetrics
from unmask.files import atomic_path, read_json, write_json
from unmask.inference.records import ScoringSpeed
from unmask.report.pages import write_page
from unmask.report.style import save
from unmask.tables import PREDICTIONS, read_table
from unmask.vocabulary import Role

logger = logging.getLogger(__name__)


def compare(
    metrics: list[Path],
    predictions: list[Path],
    costs: list[Path],
    config: Config,
    table: Path,
    details: Path,
    figure: Path,
    page: Path,
) -> None:
    """Compare experiments: a table, paired differences, an ensemble, a figure and a page.

    Args:
        metrics: `metrics.json` of each experiment.
        predictions: `predictions.parquet` of each, in the same order.
        costs: the speed of all models of all experiments, see `ScoringSpeed`.
        config: number of resamples, and the cost limits of a bundle.
        table: CSV to write, a row per experiment. Validation log loss gives the order, because
            nothing may be chosen on test videos.
        details: JSON to write: `Comparison`.
        figure: SVG to write.
        page: HTML page to write, with all results.
    """
    measured = [read_json(path, ExperimentMetrics) for path in metrics]
    tables = {
        one.experiment: read_table(path, PREDICTIONS)
        for one, path in zip(measured, predictions, strict=True)
    }
    rows = pd.DataFrame([_row(one) for one in measured])
    rows = rows.sort_values(["val_log_loss", "experiment"], ignore_index=True)
    order, resamples = list(rows["experiment"]), config.evaluation.resamples
    tests = [(name, tables[name][tables[name]["role"] == Role.TEST]) for name in order]
    differences = [paired_difference(other, tests[0], resamples) for other in tests[1:]]
    ensemble = None
    if len(order) > 1:
        speeds = [read_json(path, ScoringSpeed) for path in costs]
        budget = Cost(config.kaggle.max_bytes, config.kaggle.seconds_per_video)
        of_experiments = sum_costs(speeds, config.frames.per_video)
        ensemble = build_ensemble(tables, of_experiments, budget, resamples)
    comparison = Comparison(order, [one for one in differences if one is not None], ensemble)
    with atomic_path(table) as temporary:
        rows.to_csv(temporary, index=False)
    write_json(comparison, details)
    save(figures.comparison(rows), figure)
    write_page(
        page,
        "comparison.html.j2",
        title="Experiments compared",
        experiments=rows.to_dict("records"),
        differences=comparison.differences,
        ensemble=comparison.ensemble,
        figure=figure.read_bytes(),
    )
    logger.info("lowest validation log loss: %s", order[0])


def _row(measured: ExperimentMetrics) -> dict[str, str | float | None]:
    """Return a row of the CSV: test metrics, and the ends of their intervals."""
    row: dict[str, str | float | None] = {"experiment": measured.experiment}
    row["val_log_loss"] = measured.val.log_loss
    for name, value in measured.test.values().items():
        row[f"test_{name}"] = value
        if name in measured.test.intervals:
            row[f"test_{name}_low"], row[f"test_{name}_high"] = measured.test.intervals[name]
    row["test_frame_roc_auc"] = measured.faces.roc_auc
    return row


def paired_difference(
    first: tuple[str, pd.DataFrame], second: tuple[str, pd.DataFrame], resamples: int
) -> Difference | None:
    """Compare two experiments on their common test videos; None if there are none.

    Both have the same resamples, so the difficulty of a family cancels out. The interval of the
    difference is much narrower than the intervals of the two experiments suggest.

    Args:
        first: name and test predictions, see `unmask.tables.PREDICTIONS`.
        second: the same of the other experiment.
        resamples: of whole groups.
    """
    both = first[1].merge(second[1][[*KEY, "probability"]], on=KEY, suffixes=("", "_second"))
    if both.empty:
        return None
    labels = is_fake(both)
    pair = [both[name].to_numpy() for name in ("probability", "probability_second")]
    resampled = resampling(both["group"].to_numpy(), resamples)
    areas = [binary_metrics(labels, one).roc_auc for one in pair]
    drawn = [resampled_metrics(labels, one, resampled)["roc_auc"] for one in pair]
    losses = [row_losses(labels, one)["log_loss"] for one in pair]
    return Difference(
        first=first[0],
        second=second[0],
        videos=len(both),
        log_loss=float(np.mean(losses[0] - losses[1])),
        log_loss_interval=mean_interval(losses[0] - losses[1], resampled),
        roc_auc=None if areas[0] is None or areas[1] is None else areas[0] - areas[1],
        roc_auc_interval=interval(drawn[0] - drawn[1], resampled.groups),
    )
