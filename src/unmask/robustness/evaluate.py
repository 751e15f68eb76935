"""Robustness: the log loss of an experiment on shifted clips, and on the same clips unshifted.

`selection_score` is the mean of the clean and the shifted log loss on validation videos. Of two
models that are equally good on clean data, it prefers the one that is more robust.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from unmask.errors import UnmaskError
from unmask.evaluation.metrics import Metrics
from unmask.evaluation.predictions import VIDEO, average_models, measure, predict_videos
from unmask.evaluation.results import ExperimentShifts, ShiftMetrics
from unmask.files import read_json, write_json
from unmask.inference.scoring_head import ScoringHead
from unmask.report.style import COLORS, create_axes, draw_bars, save
from unmask.robustness.shifts import CLEAN, SHIFTS
from unmask.splits.roles import with_roles
from unmask.tables import SHIFT_SCORES, SHIFTED_VIDEOS, SPLITS, read_table, read_tables
from unmask.training.run_record import RunRecord
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
    """Measure the log loss of an experiment under each shift.

    Args:
        scores: scores of shifted faces of the experiment's models.
        runs: `run.json` of the same models, in the same order.
        videos: status of the shifted videos, of all shards. All of them count: a video without a
            face gets the prior.
        splits: the split table.
        calibration: the experiment's `calibration.json`, fitted on unshifted validation videos.
        summary: JSON to write: `ExperimentShifts`.
        figure: SVG to write.
    """
    jobs = [RunRecord.read(run) for run in runs]
    clips, split_videos = read_tables(videos, SHIFTED_VIDEOS), read_table(splits, SPLITS)
    heads = read_json(calibration, dict[str, ScoringHead])
    predictions = {
        job.model: _predict(job, clips, split_videos, path, heads[job.model])
        for job, path in zip(jobs, scores, strict=True)
    }
    folds = [
        average_models([predictions[job.model] for job in jobs if job.fold == fold])
        for fold in sorted({job.fold for job in jobs})
    ]
    pooled = pd.concat(folds, ignore_index=True)
    test, val = (_measure_role(pooled, role) for role in (Role.TEST, Role.VAL))
    content = ExperimentShifts(
        experiment=jobs[0].experiment,
        selection_score=val.clean_and_shifted_log_loss,
        test=test,
        val=val,
        models={name: _measure_role(of, Role.TEST) for name, of in predictions.items()},
        selection_scores={
            name: _measure_role(of, Role.VAL).clean_and_shifted_log_loss
            for name, of in predictions.items()
        },
        statuses={
            str(shift): {str(status): int(n) for status, n in of["status"].value_counts().items()}
            for shift, of in clips.groupby("shift")
        },
    )
    write_json(content, summary)
    save(draw_shifts(test), figure)
    logger.info(
        "%s: test log loss %.4f clean, %.4f shifted on average, %.4f at worst (%s); "
        "selection score %.4f",
        *(content.experiment, test.clean.log_loss, test.mean_log_loss),
        *(test.shifts[test.worst].log_loss, test.worst, content.selection_score),
    )


def _predict(
    job: RunRecord,
    clips: pd.DataFrame,
    splits: pd.DataFrame,
    scores: Path,
    head: ScoringHead,
) -> pd.DataFrame:
    """Return a model's predictions for the clips it was not trained on, under all shifts."""
    roles = with_roles(splits, job.fold, job.folds)
    roles = roles.loc[roles["role"] != Role.TRAIN, [*VIDEO, "label", "role"]]
    videos, scored = clips.merge(roles, on=VIDEO), read_table(scores, SHIFT_SCORES)
    of_shifts = [
        predict_videos(videos[videos["shift"] == shift], scored[scored["shift"] == shift], head)
        for shift in SHIFTS
    ]
    return pd.concat(of_shifts, ignore_index=True)


def _measure_role(predictions: pd.DataFrame, role: Role) -> ShiftMetrics:
    of_role = predictions[predictions["role"] == role]
    if of_role.empty:
        raise UnmaskError(
            f"evaluation.shift_videos: no {role} video was shifted, because none of that fold has "
            "a face; lower split.folds, or set it to 0"
        )
    measured = {str(shift): measure(rows) for shift, rows in of_role.groupby("shift", sort=False)}
    clean = measured.pop(CLEAN)
    mean = float(np.mean([one.log_loss for one in measured.values()]))
    return ShiftMetrics(
        clean=clean,
        shifts=measured,
        worst=max(measured, key=lambda shift: measured[shift].log_loss),
        mean_log_loss=mean,
        clean_and_shifted_log_loss=(clean.log_loss + mean) / 2,
    )


def draw_shifts(test: ShiftMetrics) -> Figure:
    """Draw the log loss under each shift, the worst on top, and the clean log loss."""
    losses = pd.Series({_caption(*pair): pair[1].log_loss for pair in test.shifts.items()})
    losses = losses.sort_values(ascending=False)
    title = f"Log loss under shifts, {test.clean.count} test videos"
    figure, axes = create_axes(title, "log loss", size=(7, 2.2 + 0.34 * len(losses)))
    draw_bars(axes, losses, [f"{loss:.3f}" for loss in losses])
    lines = [
        ("clean", test.clean.log_loss, COLORS[Label.REAL], "-"),
        ("mean of shifts", test.mean_log_loss, COLORS[Label.REAL], ":"),
        ("constant baseline", test.clean.constant_log_loss, COLORS[Label.FAKE], "--"),
    ]
    for name, loss, color, style in lines:
        axes.axvline(loss, color=color, linestyle=style, label=f"{name} {loss:.3f}")
    axes.set_xlim(left=0)
    figure.legend(loc="outside lower center", ncols=len(lines), fontsize=9)
    return figure


def _caption(shift: str, metrics: Metrics) -> str:
    without = metrics.without_face
    return f"{shift} ({without} without a face)" if without else shift
