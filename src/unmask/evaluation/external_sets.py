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
from unmask.report.style import COLORS, save
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
    blocks = list(table.groupby("set", sort=False))
    bars = len(table) + len(blocks)
    figure = Figure(figsize=(7, 1.6 + 0.34 * bars))
    axes = figure.subplots()
    axes.set_title("External sets", loc="left")
    axes.set_xlabel("log loss")
    row, names = 0, []
    for name, block in blocks:
        constant = float(block["constant_log_loss"].iloc[0])
        rows = range(row, row + len(block))
        drawn = axes.barh(rows, block["log_loss"], height=0.6, color=COLORS[Label.REAL])
        axes.bar_label(drawn, [_caption(one) for one in block.itertuples()], padding=3)
        ends = (rows[0] - 0.4, rows[-1] + 0.4)
        axes.vlines(constant, *ends, color=COLORS[Label.FAKE], linestyle="--")
        names += [
            (one, f"{name}: {experiment}")
            for one, experiment in zip(rows, block["experiment"], strict=True)
        ]
        row += len(block) + 1
    axes.set_yticks([at for at, _ in names], [text for _, text in names])
    axes.plot([], [], color=COLORS[Label.FAKE], linestyle="--", label="constant baseline")
    axes.invert_yaxis()
    axes.margins(x=0.3)
    figure.legend(loc="outside lower center", fontsize=9)
    return figure


def _caption(row: Any) -> str:
    area = "" if pd.isna(row.roc_auc) else f", AUC {row.roc_auc:.3f}"
    return f"{row.log_loss:.3f}{area} (n={row.count})"
