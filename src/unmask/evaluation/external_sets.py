"""External sets: what the models answer to data that no fold of theirs comes from.

People, cameras, codecs and ways to fake are other ones, so these are the figures that come nearest
to a test set's. Nothing is trained, chosen or calibrated on an external set: each model answers
with the calibration of its own select role.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from unmask.evaluation.evaluate import average_models
from unmask.evaluation.predictions import answer_asked, measure_answers, read_readouts
from unmask.files import atomic_path, write_json
from unmask.report.style import COLORS, save
from unmask.tables import SCORES, VIDEOS, read_table
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

    All models of an experiment answer a set together, by the mean of their log-odds, as a bundle
    does: none of them was trained on any of it.

    Args:
        names: of the sets.
        ledgers: their ledgers, in the same order.
        ledger: of the data that models were trained on, to find files of a set that are in it.
        runs: `run.json` of all models.
        results: the workflow's results folder, with scores and calibrations.
        table: CSV to write, a row per experiment and set.
        details: JSON to write: the metrics of each model by experiment, model and set.
        figure: SVG to write.
    """
    jobs = [json.loads(run.read_text()) for run in runs]
    known = set(read_table(ledger, VIDEOS)["fingerprint"].dropna())
    rows: list[dict[str, Any]] = []
    of_models: dict[str, dict[str, dict[str, Any]]] = {}
    for name, path in zip(names, ledgers, strict=True):
        asked = with_file(read_table(path, VIDEOS))[["part", "video", "label", "fingerprint"]]
        in_data = int(asked["fingerprint"].isin(known).sum())
        if in_data:
            logger.warning("%s: %d of its videos are in data_root, too", name, in_data)
        for experiment in dict.fromkeys(job["experiment"] for job in jobs):
            readouts = read_readouts(results / "evaluation" / experiment / "calibration.json")
            answered = {}
            for job in (one for one in jobs if one["experiment"] == experiment):
                model = job["model"]
                scores = results / "sets" / name / "scores" / experiment / f"{model}.parquet"
                answers = answer_asked(asked, read_table(scores, SCORES), readouts[model])
                answered[model] = answers
                of_models.setdefault(experiment, {}).setdefault(model, {})[name] = measure_answers(
                    answers
                )
            measured = measure_answers(average_models(list(answered.values())))
            one = {"experiment": experiment, "set": name, "models": len(answered)}
            rows.append(one | measured | {"also_in_data": in_data})
            logger.info("%s on %s: %s", experiment, name, measured)
    compared = pd.DataFrame(rows).sort_values(["set", "log_loss", "experiment"])
    with atomic_path(table) as temporary:
        compared.to_csv(temporary, index=False)
    write_json(of_models, details)
    save(draw_sets(compared), figure)


def draw_sets(table: pd.DataFrame) -> Figure:
    """Draw the log loss of each experiment on each set, beside the set's best constant answer."""
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
    axes.plot([], [], color=COLORS[Label.FAKE], linestyle="--", label="best constant answer")
    axes.invert_yaxis()
    axes.margins(x=0.3)
    figure.legend(loc="outside lower center", fontsize=9)
    return figure


def _caption(row: Any) -> str:
    area = "" if pd.isna(row.roc_auc) else f", AUC {row.roc_auc:.3f}"
    return f"{row.log_loss:.3f}{area} (n={row.videos})"
