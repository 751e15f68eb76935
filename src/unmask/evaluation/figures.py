"""Figures of one experiment, and of the comparison of experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import ConfusionMatrixDisplay, precision_recall_curve, roc_curve

from unmask.evaluation.metrics import Metrics, row_losses
from unmask.evaluation.results import Subgroup
from unmask.faces.shards import ShardReader
from unmask.report.style import COLORS, GRAY, create_axes, draw_intervals, draw_pictures
from unmask.training.run_record import RunRecord
from unmask.vocabulary import Label

Floats = NDArray[np.float64]

_MISTAKES_PER_LABEL = 6
# Logged metric to its name in the figure, in the order of `COLORS`.
_CURVES = {
    "train/loss": "training loss of crops",
    "val/log_loss": "validation log loss of videos",
}


def training_curves(jobs: Sequence[RunRecord]) -> Figure:
    """Draw training loss and validation log loss by epoch, a pair of lines per model."""
    figure, axes = create_axes("Training", "epoch", "loss")
    for number, job in enumerate(jobs):
        epochs = pd.DataFrame(job.epochs()).reindex(columns=["epoch", *_CURVES])
        for (key, label), color in zip(_CURVES.items(), COLORS.values(), strict=True):
            shown, alpha = "" if number else label, 1 - 0.6 * number / len(jobs)
            axes.plot(epochs["epoch"], epochs[key], "o-", color=color, alpha=alpha, label=shown)
        axes.axvline(job.best_epoch, color=GRAY, linewidth=0.8, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


def _unit_square(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure, axes = create_axes(title, x, y, size=(4.6, 4.4))
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return figure, axes


def roc(labels: Floats, probabilities: Floats, area: float | None) -> Figure:
    """Draw the ROC curve; `area` is the area under it, None if a label does not occur."""
    title, x = f"ROC curve, AUC {_number(area)}", "false positive rate"
    figure, axes = _unit_square(title, x, "true positive rate (recall)")
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":")
    if area is not None:
        false_positive_rate, true_positive_rate, _ = roc_curve(labels, probabilities)
        axes.plot(false_positive_rate, true_positive_rate, color=COLORS[Label.FAKE])
    return figure


def precision_recall(labels: Floats, probabilities: Floats, average: float | None) -> Figure:
    """Draw precision over recall, and the share of FAKE as the precision of chance."""
    title = f"Precision and recall, AP {_number(average)}"
    figure, axes = _unit_square(title, "recall", "precision")
    axes.axhline(float(labels.mean()), color=GRAY, linestyle=":")
    if average is not None:
        precision, recall, _ = precision_recall_curve(labels, probabilities)
        axes.plot(recall, precision, color=COLORS[Label.FAKE], drawstyle="steps-post")
    return figure


def reliability(labels: Floats, probabilities: Floats) -> Figure:
    """Draw the observed frequency of FAKE over the predicted probability, in up to ten bins."""
    x, y = "predicted probability", "observed frequency of FAKE"
    figure, axes = _unit_square("Reliability diagram", x, y)
    bins = int(np.clip(len(labels) // 5, 2, 10))
    observed, predicted = calibration_curve(labels, probabilities, n_bins=bins, strategy="quantile")
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":")
    axes.plot(predicted, observed, marker="o", color=COLORS[Label.FAKE])
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
    for row, (name, start, length, color) in enumerate(bars):
        axes.barh(name, length, left=start, height=0.6, color=color)
        at = (max(start, start + length), row)
        text = f"{length:.3f}".replace("-", "−")
        axes.annotate(text, at, xytext=(4, 0), textcoords="offset points", va="center")
    axes.invert_yaxis()
    axes.margins(x=0.15)
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
    figure, axes = create_axes("Confusion matrix at 0.5", "", size=(4, 3.6))
    names = np.array(Label)
    predicted = names[(probabilities > 0.5).astype(int)]
    ConfusionMatrixDisplay.from_predictions(
        names[labels.astype(int)], predicted, labels=names, ax=axes, cmap="Blues", colorbar=False
    )
    return figure


def worst_mistakes(test: pd.DataFrame, faces: pd.DataFrame, shards: Path) -> Figure:
    """Show a face of each of the videos with the largest losses: a row of REAL, a row of FAKE."""
    is_fake = np.asarray(test["label"] == Label.FAKE, np.float64)
    loss = row_losses(is_fake, test["probability"].to_numpy())["log_loss"]
    seen = test.assign(loss=loss)[test["faces"] > 0]
    pictures: list[NDArray[np.uint8] | None] = []
    captions: list[str] = []
    reader = ShardReader(shards)
    for label in Label:
        worst = seen[seen["label"] == label].nlargest(_MISTAKES_PER_LABEL, "loss")
        for video in worst.itertuples():
            of_video = faces[(faces["part"] == video.part) & (faces["video"] == video.video)]
            of_track = of_video[of_video["track"] == 0]
            pictures.append(reader.read_crop(of_track.iloc[len(of_track) // 2].to_dict()))
            captions.append(f"{video.video}\n{label}, predicted {video.probability:.2f}")
        gaps = _MISTAKES_PER_LABEL - len(worst)
        pictures += [None] * gaps
        captions += [""] * gaps
    title = "Test videos with the largest losses"
    return draw_pictures(title, pictures, captions, across=_MISTAKES_PER_LABEL, cell=(1.9, 2.4))[0]


def subgroups(groups: Sequence[Subgroup], log_loss: float) -> Figure:
    """Draw the log loss of each subgroup; `log_loss` is that of all test videos."""
    rows = pd.DataFrame([vars(one) for one in groups])
    rows["name"] = rows["by"] + ": " + rows["name"]
    rows[["low", "high"]] = rows["log_loss_interval"].to_list()
    rows["caption"] = rows["count"].map("{} videos".format)
    figure = log_losses("Log loss of subgroups; dotted: of all test videos", rows)
    figure.axes[0].axvline(log_loss, color=GRAY, linestyle=":")
    return figure


def comparison(table: pd.DataFrame) -> Figure:
    """Draw the test log loss of each experiment; `table` has the rows of `comparison.csv`."""
    rows = table.rename(columns=lambda column: column.removeprefix("test_"))
    rows = rows.rename(columns={"log_loss_low": "low", "log_loss_high": "high"})
    rows = rows.assign(name=rows["experiment"], caption=rows["log_loss"].map("{:.3f}".format))
    return log_losses("Test log loss of experiments", rows.sort_values("log_loss"))


def log_losses(title: str, rows: pd.DataFrame) -> Figure:
    """Draw log losses with their intervals, and constant baselines as ticks.

    Args:
        title: of the figure.
        rows: columns `name`, `log_loss`, `low`, `high`, `constant_log_loss` and `caption`.
    """
    figure, axes = create_axes(title, "log loss", size=(7.4, 1.6 + 0.3 * len(rows)))
    draw_intervals(axes, rows.assign(value=rows["log_loss"], color=COLORS[Label.REAL]))
    constants, color = rows["constant_log_loss"], COLORS[Label.FAKE]
    axes.scatter(constants, range(len(rows)), 150, color, marker="|", label="constant baseline")
    axes.set_xlim(left=0)
    figure.legend(loc="outside lower center")
    return figure


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
