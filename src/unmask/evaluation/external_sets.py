"""External sets: predictions for data that no fold comes from.

People, cameras, codecs and manipulations differ from the training data, so these metrics come
closest to those on a hidden test set. Nothing is trained, chosen or calibrated on an external set:
each model keeps the scoring head of its own validation videos.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from unmask.evaluation.metrics import Metrics
from unmask.evaluation.predictions import average_models, measure, predict_videos
from unmask.evaluation.results import CALIBRATION
from unmask.files import atomic_path, read_json, write_json
from unmask.inference.scoring_head import ScoringHead
from unmask.report.style import COLORS, create_axes, save
from unmask.tables import SCORES, VIDEOS, read_table
from unmask.training.run_record import RunRecord
from unmask.videos.ledger import with_file
from unmask.vocabulary import Label

logger = logging.getLogger(__name__)


def evaluate_sets(
    names: Sequence[str],
    ledgers: Sequence[Path],
    ledger: Path,
    runs: Sequence[Path],
    results: Path,
    table: Path,
    details: Path,
    figure: Path,
) -> None:
    """Compare the experiments on the external sets.

    The prediction of an experiment is the mean log-odds of all its models, as in a bundle: none of
    them was trained on the set.

    Args:
        names: of the sets.
        ledgers: their ledgers, in the same order.
        ledger: of the training data, to find files of a set that are also in it.
        runs: `run.json` of all models.
        results: the workflow's results folder, with scores and calibrations.
        table: CSV to write, a row per experiment and set.
        details: JSON to write: the `Metrics` of each model, by experiment, model and set.
        figure: SVG to write.
    """
    models: dict[str, list[str]] = {}
    for run in runs:
        job = RunRecord.read(run)
        models.setdefault(job.experiment, []).append(job.model)
    known = set(read_table(ledger, VIDEOS)["fingerprint"].dropna())
    rows: list[dict[str, Any]] = []
    of_models: dict[str, dict[str, dict[str, Metrics]]] = {
        experiment: {model: {} for model in of} for experiment, of in models.items()
    }
    for name, path in zip(names, ledgers, strict=True):
        videos = with_file(read_table(path, VIDEOS))[["part", "video", "label", "fingerprint"]]
        in_data = int(videos["fingerprint"].isin(known).sum())
        if in_data:
            logger.warning("%s: %d of its videos are also in data_root", name, in_data)
        for experiment in models:
            calibration = results / "evaluation" / experiment / CALIBRATION
            heads = read_json(calibration, dict[str, ScoringHead])
            predictions = []
            for model in models[experiment]:
                scores = results / "sets" / name / "scores" / experiment / f"{model}.parquet"
                predicted = predict_videos(videos, read_table(scores, SCORES), heads[model])
                of_models[experiment][model][name] = measure(predicted)
                predictions.append(predicted)
            metrics = measure(average_models(predictions))
            row = {"experiment": experiment, "set": name, "models": len(predictions)}
            rows.append(row | metrics.values() | {"also_in_data": in_data})
            logger.info("%s on %s: log loss %.4f", experiment, name, metrics.log_loss)
    compared = pd.DataFrame(rows).drop(columns="groups")
    compared = compared.sort_values(["set", "log_loss", "experiment"])
    with atomic_path(table) as temporary:
        compared.to_csv(temporary, index=False)
    write_json(of_models, details)
    save(draw_sets(compared), figure)


def draw_sets(table: pd.DataFrame) -> Figure:
    """Draw the log loss of each experiment on each set, and the set's constant baseline."""
    size = (7, 1.8 + 0.34 * len(table))
    figure, axes = create_axes("External sets", "log loss", size=size)
    names = table["set"] + ": " + table["experiment"]
    axes.barh(names, table["log_loss"], height=0.7, color=COLORS[Label.REAL], label="log loss")
    for row, one in enumerate(table.to_dict("records")):
        loss, constant, auc = one["log_loss"], one["constant_log_loss"], one["roc_auc"]
        axes.plot([constant, constant], [row - 0.45, row + 0.45], color=COLORS[Label.FAKE], lw=2)
        area = "" if pd.isna(auc) else f", AUC {auc:.3f}"
        at, text = (max(loss, constant), row), f"{loss:.3f}{area} (n={one['count']})"
        axes.annotate(text, at, xytext=(5, 0), textcoords="offset points", va="center")
    axes.plot([], [], color=COLORS[Label.FAKE], lw=2, label="constant baseline")
    axes.invert_yaxis()
    axes.margins(x=0.4)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure
