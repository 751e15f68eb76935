"""Figures of the report: drawn with matplotlib, colour-blind safe, readable in print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from unmask.evaluation.metrics import binary_metrics, row_losses
from unmask.evaluation.results import Subgroup
from unmask.faces.shards import ShardReader
from unmask.report.style import COLORS
from unmask.training.run_record import RunRecord
from unmask.vocabulary import Label

_GRAY = "#666666"
_FACES_IN_A_ROW = 6


def _axes(title: str, x: str, y: str, size: tuple[float, float] = (6, 4.2)) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size)
    axes = figure.subplots()
    axes.set_title(title, loc="left")
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def training_curves(jobs: Sequence[RunRecord]) -> Figure:
    """Draw training loss and validation log loss by epoch, one pair of lines per fold."""
    figure, axes = _axes("Training", "epoch", "log loss")
    for number, job in enumerate(jobs):
        epochs = job.epochs()
        numbers = [metrics["epoch"] for metrics in epochs]
        shade = 1 - 0.6 * number / max(1, len(jobs))
        for key, color, label in (
            ("train/loss", COLORS[Label.REAL], "train, per crop"),
            ("val/log_loss", COLORS[Label.FAKE], "select role, per video"),
        ):
            values = [metrics.get(key, np.nan) for metrics in epochs]
            shown = label if number == 0 else None
            axes.plot(numbers, values, marker="o", color=color, alpha=shade, label=shown)
        axes.axvline(job.best_epoch, color=_GRAY, linewidth=0.8, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


def roc(labels: NDArray[np.float64], probabilities: NDArray[np.float64]) -> Figure:
    """Draw the ROC curve of videos."""
    area = binary_metrics(labels, probabilities).roc_auc
    figure, axes = _axes(
        f"ROC, area {area:.3f}", "REAL called FAKE", "FAKE called FAKE", (4.6, 4.4)
    )
    false_positive, true_positive, _ = roc_curve(labels, probabilities)
    axes.plot(false_positive, true_positive, color=COLORS[Label.FAKE])
    axes.plot([0, 1], [0, 1], color=_GRAY, linestyle=":")
    axes.set_aspect("equal")
    return figure


def precision_recall(labels: NDArray[np.float64], probabilities: NDArray[np.float64]) -> Figure:
    """Draw precision over recall of FAKE videos, beside the share of FAKE."""
    area = binary_metrics(labels, probabilities).average_precision
    figure, axes = _axes(
        f"Precision and recall, AP {area:.3f}", "FAKE found", "called FAKE that are", (4.6, 4.4)
    )
    precision, recall, _ = precision_recall_curve(labels, probabilities)
    axes.plot(recall, precision, color=COLORS[Label.FAKE], drawstyle="steps-post")
    axes.axhline(float(labels.mean()), color=_GRAY, linestyle=":")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")
    return figure


def losses(labels: NDArray[np.float64], probabilities: NDArray[np.float64]) -> Figure:
    """Draw what the log loss is made of, and what REAL and FAKE videos cost each."""
    metrics = binary_metrics(labels, probabilities)
    constant, loss = metrics.constant_log_loss, metrics.log_loss
    told_apart = constant - metrics.resolution
    cost = row_losses(labels, probabilities)["log_loss"]
    bars = [
        ("best constant answer", 0, constant, _GRAY),
        ("told apart", told_apart, constant, COLORS[Label.REAL]),
        ("miscalibrated", told_apart, loss, COLORS[Label.FAKE]),
        ("log loss", 0, loss, "#222222"),
        ("of REAL", 0, float(cost[labels == 0].mean()), COLORS[Label.REAL]),
        ("of FAKE", 0, float(cost[labels == 1].mean()), COLORS[Label.FAKE]),
    ]
    figure, axes = _axes("What the log loss is made of", "log loss", "", (6.4, 3.6))
    for row, (name, start, end, color) in enumerate(bars):
        axes.barh(row, end - start, left=start, height=0.6, color=color)
        text = (
            f"{end - start:.3f}" if start == 0 or name == "miscalibrated" else f"−{end - start:.3f}"
        )
        axes.annotate(text, (end, row), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    return figure


def subgroups(groups: Sequence[Subgroup], log_loss: float) -> Figure:
    """Draw the log loss of each subgroup with its interval, beside its best constant answer."""
    figure, axes = _axes("By group", "log loss", "", (7.4, 1.4 + 0.3 * max(1, len(groups))))
    for row, one in enumerate(groups):
        low, high = one.log_loss_interval
        if low is not None and high is not None:
            axes.plot([low, high], [row, row], color=COLORS[Label.REAL], linewidth=2)
        axes.plot(one.log_loss, row, "o", color=COLORS[Label.REAL])
        axes.plot(one.constant_log_loss, row, "|", color=COLORS[Label.FAKE], markersize=12)
    axes.axvline(log_loss, color=_GRAY, linestyle=":")
    names = [f"{one.by}: {one.name} ({one.count})" for one in groups]
    axes.set_yticks(range(len(groups)), names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    note = "dot and line: log loss, 95 %; tick: best constant answer; dotted: all videos"
    axes.set_xlabel(f"log loss\n{note}", fontsize=9)
    return figure


def reliability(labels: NDArray[np.float64], probabilities: NDArray[np.float64]) -> Figure:
    """Draw the share of FAKE among videos by the probability answered, in up to ten bins."""
    figure, axes = _axes("Reliability", "answered", "share that is FAKE", (4.6, 4.4))
    bins = int(np.clip(len(labels) // 5, 2, 10))
    observed, answered = calibration_curve(labels, probabilities, n_bins=bins, strategy="quantile")
    axes.plot([0, 1], [0, 1], color=_GRAY, linestyle=":")
    axes.plot(answered, observed, marker="o", color=COLORS[Label.FAKE])
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")
    return figure


def answers(labels: NDArray[np.float64], probabilities: NDArray[np.float64]) -> Figure:
    """Draw how the answers are spread, by label."""
    metrics = binary_metrics(labels, probabilities)
    title = (
        f"Answers: log loss {metrics.log_loss:.3f}, best constant {metrics.constant_log_loss:.3f}"
    )
    figure, axes = _axes(title, "probability of FAKE", "videos")
    groups = [probabilities[labels == value] for value in (0, 1)]
    axes.hist(
        groups,
        bins=list(np.linspace(0, 1, 21)),
        stacked=True,
        color=[COLORS[Label.REAL], COLORS[Label.FAKE]],
        label=["REAL", "FAKE"],
    )
    axes.legend()
    return figure


def confusion(labels: NDArray[np.float64], probabilities: NDArray[np.float64]) -> Figure:
    """Draw the confusion matrix at probability one half."""
    counts = confusion_matrix(labels, probabilities > 0.5, labels=[0, 1])
    figure, axes = _axes("Confusion at 0.5", "answered", "label", (4, 3.6))
    axes.imshow(counts, cmap="Blues", vmin=0, vmax=2 * counts.max())
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, str(count), ha="center", va="center", fontsize=14)
    axes.set_xticks([0, 1], ["REAL", "FAKE"])
    axes.set_yticks([0, 1], ["REAL", "FAKE"])
    return figure


def worst_mistakes(report: pd.DataFrame, faces: pd.DataFrame, shards: Path) -> Figure:
    """Show a face of each of the videos whose answer cost most: a row of REAL, a row of FAKE."""
    fake = np.asarray(report["label"] == Label.FAKE, np.float64)
    cost = row_losses(fake, report["probability"].to_numpy())["log_loss"]
    seen = report.assign(cost=cost)[report["faces"] > 0]
    figure = Figure(figsize=(1.9 * _FACES_IN_A_ROW, 2.3 * len(Label) + 0.5))
    figure.suptitle("Dearest answers")
    reader = ShardReader(shards)
    grid = figure.subplots(len(Label), _FACES_IN_A_ROW, squeeze=False)
    for row, label in zip(grid, Label, strict=True):
        worst = seen[seen["label"] == label].nlargest(_FACES_IN_A_ROW, "cost")
        for axes in row:
            axes.axis("off")
        for axes, video in zip(row, worst.itertuples(), strict=False):
            axes.imshow(_middle_face(video, faces, reader))
            caption = f"{video.video}\n{label}, answered {video.probability:.2f}"
            axes.set_title(caption, fontsize=7)
    return figure


def _middle_face(video: Any, faces: pd.DataFrame, reader: ShardReader) -> NDArray[np.uint8]:
    """Return a video's crop from the middle of its first track."""
    of_video = faces[(faces["part"] == video.part) & (faces["video"] == video.video)]
    of_track = of_video[of_video["track"] == 0]
    crop = of_track.iloc[len(of_track) // 2]
    return reader.read_crop(crop.to_dict())


def comparison(table: pd.DataFrame) -> Figure:
    """Draw each experiment's log loss on the report role with its 95 % interval."""
    size = (7, 1.8 + 0.4 * len(table))
    figure, axes = _axes("Experiments", "log loss on the report role", "", size)
    ordered = table.sort_values("test_log_loss", ascending=False)
    columns = ("test_log_loss", "test_log_loss_low", "test_log_loss_high")
    for row, (loss, low, high) in enumerate(zip(*(ordered[name] for name in columns), strict=True)):
        axes.plot([low, high], [row, row], color=COLORS[Label.REAL], linewidth=2)
        axes.plot(loss, row, "o", color=COLORS[Label.REAL])
        axes.annotate(
            f"{loss:.3f}",
            (loss, row),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
        )
    axes.set_yticks(range(len(ordered)), list(ordered["experiment"]))
    constant = float(table["test_constant_log_loss"].mean())
    axes.axvline(constant, color=COLORS[Label.FAKE], linestyle="--")
    axes.annotate(
        f"best constant answer {constant:.3f}",
        (constant, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4, 2),
        textcoords="offset points",
        ha="right",
        color=COLORS[Label.FAKE],
    )
    axes.margins(x=0.12, y=0.2)
    return figure
