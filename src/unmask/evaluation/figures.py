"""Figures of one experiment, and of the comparison of experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from unmask.evaluation.metrics import Metrics, row_losses
from unmask.evaluation.results import Subgroup
from unmask.faces.shards import ShardReader
from unmask.report.style import COLORS, GRAY, create_axes, create_grid, draw_interval
from unmask.training.run_record import RunRecord
from unmask.vocabulary import Label

Floats = NDArray[np.float64]

_SQUARE = (4.6, 4.4)
_MISTAKES_PER_LABEL = 6


def training_curves(jobs: Sequence[RunRecord]) -> Figure:
    """Draw training loss and validation log loss by epoch, a pair of lines per model."""
    figure, axes = create_axes("Training", "epoch", "loss")
    for number, job in enumerate(jobs):
        epochs = job.epochs()
        numbers = [metrics["epoch"] for metrics in epochs]
        shade = 1 - 0.6 * number / max(1, len(jobs))
        for key, color, label in (
            ("train/loss", COLORS[Label.REAL], "training loss of crops"),
            ("val/log_loss", COLORS[Label.FAKE], "validation log loss of videos"),
        ):
            values = [metrics.get(key, np.nan) for metrics in epochs]
            shown = label if number == 0 else None
            axes.plot(numbers, values, marker="o", color=color, alpha=shade, label=shown)
        axes.axvline(job.best_epoch, color=GRAY, linewidth=0.8, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


def roc(labels: Floats, probabilities: Floats, metrics: Metrics) -> Figure:
    """Draw the ROC curve."""
    title = f"ROC curve, AUC {_number(metrics.roc_auc)}"
    figure, axes = create_axes(
        title, "false positive rate", "true positive rate (recall)", size=_SQUARE
    )
    false_positive_rate, true_positive_rate, _ = roc_curve(labels, probabilities)
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":")
    axes.plot(false_positive_rate, true_positive_rate, color=COLORS[Label.FAKE])
    axes.set_aspect("equal")
    return figure


def precision_recall(labels: Floats, probabilities: Floats, metrics: Metrics) -> Figure:
    """Draw precision over recall, and the share of FAKE as the precision of chance."""
    title = f"Precision and recall, AP {_number(metrics.average_precision)}"
    figure, axes = create_axes(title, "recall", "precision", size=_SQUARE)
    precision, recall, _ = precision_recall_curve(labels, probabilities)
    axes.axhline(float(labels.mean()), color=GRAY, linestyle=":")
    axes.plot(recall, precision, color=COLORS[Label.FAKE], drawstyle="steps-post")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")
    return figure


def losses(labels: Floats, probabilities: Floats, metrics: Metrics) -> Figure:
    """Draw the decomposition of the log loss, and the mean loss of REAL and of FAKE videos."""
    constant, loss_of_video = metrics.constant_log_loss, row_losses(labels, probabilities)
    of_label = [loss_of_video["log_loss"][labels == label] for label in (0, 1)]
    real, fake = (float(losses.mean()) if len(losses) else 0.0 for losses in of_label)
    # Name, start, length (below 0 to the left) and color.
    bars = [
        ("constant baseline", 0.0, constant, GRAY),
        ("− resolution", constant, -metrics.resolution, GRAY),
        ("+ calibration error", constant - metrics.resolution, metrics.calibration_error, GRAY),
        ("= log loss", 0.0, metrics.log_loss, "#222222"),
        ("of REAL", 0.0, real, COLORS[Label.REAL]),
        ("of FAKE", 0.0, fake, COLORS[Label.FAKE]),
    ]
    figure, axes = create_axes("Decomposition of the log loss", "log loss", size=(6.4, 3.6))
    for row, (_, start, length, color) in enumerate(bars):
        axes.barh(row, length, left=start, height=0.6, color=color)
        at = (max(start, start + length), row)
        text = f"{length:.3f}".replace("-", "−")
        axes.annotate(text, at, xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    return figure


def subgroups(groups: Sequence[Subgroup], log_loss: float) -> Figure:
    """Draw the log loss of each subgroup with its interval and its constant baseline.

    Args:
        groups: at least one.
        log_loss: of all test videos.
    """
    size = (7.4, 1.6 + 0.3 * len(groups))
    figure, axes = create_axes("Log loss of subgroups", "log loss", size=size)
    for row, group in enumerate(groups):
        draw_interval(axes, row, group.log_loss, group.log_loss_interval)
        axes.plot(group.constant_log_loss, row, "|", color=COLORS[Label.FAKE], markersize=12)
    axes.plot([], [], "|", color=COLORS[Label.FAKE], markersize=12, label="constant baseline")
    axes.axvline(log_loss, color=GRAY, linestyle=":", label="all test videos")
    names = [f"{one.by}: {one.name} ({one.count})" for one in groups]
    axes.set_yticks(range(len(groups)), names, fontsize=9)
    axes.invert_yaxis()
    # The interval of a tiny subgroup may be so wide that no other could be read.
    highest = max(max(one.log_loss, one.constant_log_loss) for one in groups)
    axes.set_xlim(0, 1.5 * highest)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def reliability(labels: Floats, probabilities: Floats) -> Figure:
    """Draw the observed frequency of FAKE over the predicted probability, in up to ten bins."""
    x, y = "predicted probability", "observed frequency of FAKE"
    figure, axes = create_axes("Reliability diagram", x, y, size=_SQUARE)
    bins = int(np.clip(len(labels) // 5, 2, 10))
    observed, predicted = calibration_curve(labels, probabilities, n_bins=bins, strategy="quantile")
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":")
    axes.plot(predicted, observed, marker="o", color=COLORS[Label.FAKE])
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")
    return figure


def predicted_probabilities(labels: Floats, probabilities: Floats) -> Figure:
    """Draw a histogram of the predicted probabilities by label."""
    title = "Predicted probabilities of test videos"
    figure, axes = create_axes(title, "predicted probability of FAKE", "videos")
    axes.hist(
        [probabilities[labels == value] for value in (0, 1)],
        bins=list(np.linspace(0, 1, 21)),
        stacked=True,
        color=list(COLORS.values()),
        label=list(COLORS),
    )
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


def confusion(labels: Floats, probabilities: Floats) -> Figure:
    """Draw the confusion matrix at the threshold 0.5."""
    counts = confusion_matrix(labels, probabilities > 0.5, labels=[0, 1])
    title, x, y = "Confusion matrix at 0.5", "predicted label", "true label"
    figure, axes = create_axes(title, x, y, size=(4, 3.6))
    axes.imshow(counts, cmap="Blues", vmin=0, vmax=2 * counts.max())
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, str(count), ha="center", va="center", fontsize=14)
    axes.set_xticks([0, 1], list(Label))
    axes.set_yticks([0, 1], list(Label))
    return figure


def worst_mistakes(test: pd.DataFrame, faces: pd.DataFrame, shards: Path) -> Figure:
    """Show a face of each of the videos with the largest losses: a row of REAL, a row of FAKE.

    Args:
        test: predictions of test videos.
        faces: the face index.
        shards: folder of the face shards.
    """
    is_fake = np.asarray(test["label"] == Label.FAKE, np.float64)
    loss = row_losses(is_fake, test["probability"].to_numpy())["log_loss"]
    seen = test.assign(loss=loss)[test["faces"] > 0]
    count = _MISTAKES_PER_LABEL * len(Label)
    title = "Test videos with the largest losses"
    figure, panels = create_grid(title, count, across=_MISTAKES_PER_LABEL, cell=(1.9, 2.4))
    reader = ShardReader(shards)
    for number, label in enumerate(Label):
        worst = seen[seen["label"] == label].nlargest(_MISTAKES_PER_LABEL, "loss")
        row = panels[number * _MISTAKES_PER_LABEL :]
        for axes, video in zip(row, worst.itertuples(), strict=False):
            of_video = faces[(faces["part"] == video.part) & (faces["video"] == video.video)]
            of_track = of_video[of_video["track"] == 0]
            axes.imshow(reader.read_crop(of_track.iloc[len(of_track) // 2].to_dict()))
            caption = f"{video.video}\n{label}, predicted {video.probability:.2f}"
            axes.set_title(caption, fontsize=8)
    return figure


def comparison(table: pd.DataFrame) -> Figure:
    """Draw the test log loss of each experiment with its 95 % interval.

    Args:
        table: the rows of `comparison.csv`.
    """
    size = (7, 1.8 + 0.4 * len(table))
    figure, axes = create_axes("Experiments", "test log loss", size=size)
    ordered = table.sort_values("test_log_loss").to_dict("records")
    for row, one in enumerate(ordered):
        loss = one["test_log_loss"]
        draw_interval(axes, row, loss, (one["test_log_loss_low"], one["test_log_loss_high"]))
        at, text = (loss, row), f"{loss:.3f}"
        axes.annotate(text, at, xytext=(0, 6), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(ordered)), [one["experiment"] for one in ordered])
    axes.invert_yaxis()
    constant = float(table["test_constant_log_loss"].mean())
    label = f"constant baseline {constant:.3f}"
    axes.axvline(constant, color=COLORS[Label.FAKE], linestyle="--", label=label)
    figure.legend(loc="outside lower center", fontsize=9)
    axes.margins(x=0.12, y=0.2)
    return figure


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
