"""Robustness: what shifts cost each model, beside the same clips unshifted.

`selection_score` is the mean of the clean and of the shifted log loss on the select role: of two
models equally good on the data as it is, it prefers the one that bears what a test set does to it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from unmask.errors import UnmaskError
from unmask.evaluation.evaluate import average_models
from unmask.evaluation.predictions import (
    answer_asked,
    loss_on_average,
    measure_answers,
    read_readouts,
)
from unmask.files import write_json
from unmask.report.style import COLORS, save
from unmask.robustness.shifts import CLEAN, SHIFTS
from unmask.splits.roles import with_roles
from unmask.tables import SHIFT_SCORES, SHIFTED_VIDEOS, SPLITS, read_table, read_tables
from unmask.vocabulary import Label, Role

logger = logging.getLogger(__name__)


def evaluate_shifts(
    scores: Sequence[Path],
    runs: Sequence[Path],
    videos: Sequence[Path],
    splits: Path,
    calibration: Path,
    summary: Path,
    figure: Path,
) -> None:
    """Measure what each shift costs an experiment.

    Args:
        scores: scores of shifted faces of the experiment's models.
        runs: `run.json` of the same models, in the same order.
        videos: what became of the shifted videos, of all shards: all of them are asked.
        splits: the split table.
        calibration: the experiment's `calibration.json`, fitted on its unshifted select role.
        summary: JSON to write.
        figure: SVG to write.
    """
    jobs = [json.loads(run.read_text()) for run in runs]
    clips, table = read_tables(videos, SHIFTED_VIDEOS), read_table(splits, SPLITS)
    readouts = read_readouts(calibration)
    answered = {}
    for job, path in zip(jobs, scores, strict=True):
        asked = clips.merge(_roles_of(job, table), on=["part", "video"])
        answers = read_table(path, SHIFT_SCORES)
        answered[job["model"]] = pd.concat(
            [
                answer_asked(
                    asked[asked["shift"] == shift],
                    answers[answers["shift"] == shift],
                    readouts[job["model"]],
                )
                for shift in SHIFTS
            ],
            ignore_index=True,
        )
    of_folds = [
        average_models([answered[job["model"]] for job in jobs if job["fold"] == fold])
        for fold in sorted({job["fold"] for job in jobs})
    ]
    together = pd.concat(of_folds, ignore_index=True)
    report, select = (_measure_role(together, role) for role in (Role.TEST, Role.VAL))
    content = {
        "experiment": jobs[0]["experiment"],
        "selection_score": select["clean_and_shifted_log_loss"],
        "test": report,
        "val": select,
        "models": {name: _measure_role(one, Role.TEST) for name, one in answered.items()},
        "selection_scores": {
            name: _measure_role(one, Role.VAL)["clean_and_shifted_log_loss"]
            for name, one in answered.items()
        },
        "statuses": _statuses(clips),
    }
    write_json(content, summary)
    save(draw_shifts(report), figure)
    logger.info(
        "%s: report log loss %.4f clean, %.4f shifted on average, %.4f at worst (%s); "
        "selection score %.4f",
        content["experiment"],
        report["clean"]["log_loss"],
        report["mean_log_loss"],
        report["shifts"][report["worst"]]["log_loss"],
        report["worst"],
        content["selection_score"],
    )


def _roles_of(job: Mapping[str, Any], splits: pd.DataFrame) -> pd.DataFrame:
    """Return the videos that a model was not trained on, with label and role."""
    roles = with_roles(splits, job["fold"], job["folds"])
    return roles.loc[roles["role"] != Role.TRAIN, ["part", "video", "label", "role"]]


def _measure_role(answers: pd.DataFrame, role: Role) -> dict[str, Any]:
    of_role = answers[answers["role"] == role]
    if of_role.empty:
        raise UnmaskError(
            f"evaluation.shift_videos: none of the shifted videos is there to {role} on, as none "
            "of that fold has a face; lower split.folds, or set it to 0"
        )
    measured = {
        str(shift): measure_answers(of_shift)
        for shift, of_shift in of_role.groupby("shift", sort=False)
    }
    clean = measured.pop(CLEAN)
    mean = loss_on_average(measured)
    return {
        "clean": clean,
        "shifts": measured,
        "worst": max(measured, key=lambda shift: measured[shift]["log_loss"]),
        "mean_log_loss": mean,
        "clean_and_shifted_log_loss": (clean["log_loss"] + mean) / 2,
    }


def _statuses(clips: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return by shift what became of how many videos, those of all roles."""
    return {
        str(shift): {str(status): int(n) for status, n in of_shift["status"].value_counts().items()}
        for shift, of_shift in clips.groupby("shift")
    }


def draw_shifts(report: Mapping[str, Any]) -> Figure:
    """Draw the log loss under each shift, the worst on top, beside the clean one.

    Args:
        report: what `shifts.json` has of a role.
    """
    shifts = sorted(report["shifts"].items(), key=lambda pair: pair[1]["log_loss"])
    losses = [one["log_loss"] for _, one in shifts]
    clean, constant = report["clean"]["log_loss"], report["clean"]["constant_log_loss"]
    figure = Figure(figsize=(7, 2.2 + 0.34 * len(shifts)))
    axes = figure.subplots()
    axes.set_title(f"Shifts, {report['clean']['videos']} videos of the report role", loc="left")
    axes.set_xlabel("log loss")
    bars = axes.barh([_caption(*pair) for pair in shifts], losses, height=0.6, color="#999999")
    axes.bar_label(bars, fmt="%.3f", padding=3)
    lines = [
        ("clean", clean, COLORS[Label.REAL], "-"),
        ("mean of shifts", report["mean_log_loss"], COLORS[Label.REAL], ":"),
        ("best constant answer", constant, COLORS[Label.FAKE], "--"),
    ]
    for name, loss, color, style in lines:
        axes.axvline(loss, color=color, linestyle=style, label=f"{name} {loss:.3f}")
    axes.set_xlim(0, 1.15 * max(*losses, constant))
    figure.legend(loc="outside lower center", ncols=len(lines), fontsize=9)
    return figure


def _caption(shift: str, measured: Mapping[str, Any]) -> str:
    without = measured["without_face"]
    return f"{shift} ({without} without a face)" if without else shift
