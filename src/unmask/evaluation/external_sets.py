"""External sets: predictions for data that no fold comes from.

People, cameras, codecs and manipulations differ from the training data, so these metrics come
closest to those on a hidden test set. Nothing is trained, chosen or calibrated on an external set.
Each model keeps the scoring head of its experiment's evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from unmask.config import Config
from unmask.evaluation.figures import log_losses
from unmask.evaluation.metrics import Metrics, row_losses
from unmask.evaluation.predictions import (
    average_models,
    is_fake,
    measure,
    measure_with_intervals,
    predict_videos,
)
from unmask.evaluation.results import CALIBRATION
from unmask.files import atomic_path, read_json, write_json
from unmask.inference.scoring_head import ScoringHead
from unmask.report.style import save
from unmask.tables import SCORES, VIDEOS, read_table
from unmask.training.run_record import RunRecord
from unmask.videos.ledger import with_file

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
    config: Config,
) -> None:
    """Compare the experiments on the external sets.

    The prediction of an experiment is the mean log-odds of all its models, as in a bundle: none of
    them was trained on the set. A set may have another share of FAKE than the training data, so
    predictions are at even odds of FAKE and REAL.

    Args:
        names: of the sets.
        ledgers: their ledgers, in the same order.
        ledger: of the training data, to find files of a set that are also in it.
        runs: `run.json` of all models.
        results: the workflow's results folder, with scores and calibrations.
        table: CSV to write, a row per experiment and set: the metrics of videos, with
            `balanced_log_loss` if half of them were FAKE, and the AUC of single faces as
            `frame_roc_auc`, which most papers report.
        details: JSON to write: the `Metrics` of each model, by experiment, model and set.
        figure: SVG to write.
        config: number of resamples for intervals.
    """
    models: dict[str, list[str]] = {}
    for run in runs:
        job = RunRecord.read(run)
        models.setdefault(job.experiment, []).append(job.model)
    known = set(read_table(ledger, VIDEOS)["fingerprint"].dropna())
    measured: list[dict[str, Any]] = []
    of_models: dict[str, dict[str, dict[str, Metrics]]] = {
        experiment: {model: {} for model in of} for experiment, of in models.items()
    }
    for name, path in zip(names, ledgers, strict=True):
        videos = with_file(read_table(path, VIDEOS))
        videos = videos[["part", "video", "label", "family", "fingerprint"]]
        in_data = int(videos["fingerprint"].isin(known).sum())
        if in_data:
            logger.warning("%s: %d of its videos are also in data_root", name, in_data)
        for experiment in models:
            heads = read_json(
                results / "evaluation" / experiment / CALIBRATION, dict[str, ScoringHead]
            )
            predictions, log_odds = [], []
            for model in models[experiment]:
                scores = results / "sets" / name / "scores" / experiment / f"{model}.parquet"
                faces = read_table(scores, SCORES)
                predicted = predict_videos(videos, faces, heads[model], prior=0.5)
                of_models[experiment][model][name] = measure(predicted)
                predictions.append(predicted)
                log_odds.append(heads[model].calibration.log_odds(faces["logit"].to_numpy()))
            together = average_models(predictions).rename(columns={"family": "group"})
            metrics = measure_with_intervals(together, config.evaluation.resamples)
            row: dict[str, Any] = {
                "experiment": experiment,
                "set": name,
                "models": len(predictions),
            }
            row["frame_roc_auc"] = _area(is_fake(faces), np.mean(log_odds, axis=0))
            row["balanced_log_loss"] = _balanced_log_loss(together)
            for of in ("roc_auc", "log_loss"):
                row[f"{of}_low"], row[f"{of}_high"] = metrics.intervals[of]
            measured.append(row | metrics.values() | {"also_in_data": in_data})
            logger.info("%s on %s: log loss %.4f", experiment, name, metrics.log_loss)
    compared = pd.DataFrame(measured).drop(columns="groups")
    compared = compared.sort_values(["set", "log_loss", "experiment"])
    with atomic_path(table) as temporary:
        compared.to_csv(temporary, index=False)
    write_json(of_models, details)
    both = compared.dropna(subset="roc_auc").groupby("experiment")
    for means in both[["roc_auc", "balanced_log_loss"]].mean().itertuples():
        logger.info("%s, mean over sets: AUC %.3f, balanced log loss %.3f", *means)
    areas = compared["roc_auc"].map(", AUC {:.3f}".format, na_action="ignore").fillna("")
    rows = compared.assign(
        name=compared["set"] + ": " + compared["experiment"],
        caption=compared["log_loss"].map("{:.3f}".format) + areas,
        low=compared["log_loss_low"],
        high=compared["log_loss_high"],
    )
    save(log_losses("External sets", rows), figure)


def _balanced_log_loss(rows: pd.DataFrame) -> float | None:
    """Return the mean of the log losses of FAKE and of REAL videos: that of a set half FAKE."""
    losses = row_losses(is_fake(rows), rows["probability"].to_numpy())["log_loss"]
    of_labels = pd.Series(losses).groupby(is_fake(rows)).mean()
    return float(of_labels.mean()) if len(of_labels) == 2 else None


def _area(labels: NDArray[np.float64], scores: NDArray[np.float64]) -> float | None:
    return float(roc_auc_score(labels, scores)) if 0 < labels.sum() < len(labels) else None
