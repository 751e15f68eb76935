"""Subgroups: videos on which a detector is worse than its average suggests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from unmask.evaluation.intervals import mean_interval, resampling
from unmask.evaluation.metrics import binary_metrics, row_losses
from unmask.evaluation.predictions import VIDEO, is_fake
from unmask.evaluation.results import Subgroup
from unmask.tables import SHOWN
from unmask.vocabulary import Label

# A smaller subgroup is never the worst, because chance alone makes some small one look bad.
_FEWEST_VIDEOS = 10

# Column of a described video to its title, the upper ends of its bins, and their names.
_BINS: dict[str, tuple[str, tuple[float, ...], tuple[str, ...]]] = {
    "resolution": (
        "short side, pixels",
        (480, 720, 1080),
        ("below 480", "480 to 719", "720 to 1079", "1080 and more"),
    ),
    "fps": ("frames per second", (20, 27), ("below 20", "20 to 26", "27 and more")),
    "face_width": (
        "face width, pixels",
        (64, 128, 256),
        ("below 64", "64 to 127", "128 to 255", "256 and more"),
    ),
    "brightness": ("mean luma of the face", (60, 110, 160), ("dark", "dim", "medium", "bright")),
    "sharpness": ("sharpness of the face", (30, 100, 300), ("blurred", "soft", "medium", "sharp")),
    "tracks": ("tracks", (2,), ("one", "two and more")),
}


def describe_videos(test: pd.DataFrame, ledger: pd.DataFrame, faces: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions of test videos, source included, with what defines subgroups."""
    measured = faces[[*VIDEO, "brightness", "sharpness"]].assign(
        face_width=faces["x1"] - faces["x0"]
    )
    of_video = measured.groupby(VIDEO).mean()
    of_video["tracks"] = faces.groupby(VIDEO)["track"].nunique()
    known = ledger[[*VIDEO, "status", "method", "video_fps", *SHOWN]].assign(
        resolution=ledger[["video_width", "video_height"]].min(axis=1)
    )
    described = test.merge(known, on=VIDEO, how="left")
    described = described.merge(of_video.reset_index(), on=VIDEO, how="left")
    return described.rename(columns={"video_fps": "fps"})


def measure_subgroups(videos: pd.DataFrame, resamples: int) -> list[Subgroup]:
    """Return the metrics of each subgroup of described videos that is not empty.

    The subgroup of a method includes all REAL videos, since the log loss of FAKE alone only
    measures how often a model predicts FAKE.
    """
    rows: list[tuple[str, str, pd.DataFrame]] = []
    for column, (title, edges, names) in _BINS.items():
        bins = pd.cut(videos[column], [-np.inf, *edges, np.inf], right=False, labels=list(names))
        rows += [(title, name, videos[bins == name]) for name in names]
    for column in ("status", "source"):
        for name in sorted(videos[column].dropna().unique()):
            rows.append((column, name, videos[videos[column] == name]))
    for column, title in SHOWN.items():
        values = videos[column].fillna("not stated")
        if values.nunique() > 1:
            rows += [(title, name, videos[values == name]) for name in sorted(values.unique())]
    real = videos["label"] == Label.REAL
    for method in sorted(videos["method"].dropna().unique()):
        rows.append(("method, with all REAL", method, videos[real | (videos["method"] == method)]))
    return [_measure(by, name, of, resamples) for by, name, of in rows if not of.empty]


def _measure(by: str, name: str, rows: pd.DataFrame, resamples: int) -> Subgroup:
    labels, probabilities = is_fake(rows), rows["probability"].to_numpy()
    metrics = binary_metrics(labels, probabilities)
    resampled = resampling(rows["group"].to_numpy(), resamples)
    losses = row_losses(labels, probabilities)["log_loss"]
    # The share of FAKE minimises the constant loss, so its own error matters only to second order.
    constant = row_losses(labels, np.full(len(labels), labels.mean()))["log_loss"]
    return Subgroup(
        by=by,
        name=name,
        count=metrics.count,
        fake=metrics.fake,
        log_loss=metrics.log_loss,
        log_loss_interval=mean_interval(losses, resampled),
        constant_log_loss=metrics.constant_log_loss,
        excess=metrics.log_loss - metrics.constant_log_loss,
        excess_interval=mean_interval(losses - constant, resampled),
        roc_auc=metrics.roc_auc,
    )


def describe_sources(groups: Sequence[Subgroup]) -> str:
    """Return the ROC AUC of each source that has both labels, and their mean.

    With `split.group_by: source`, the models have never seen these sources.
    """
    areas = {one.name: one.roc_auc for one in groups if one.by == "source"}
    known = {name: area for name, area in areas.items() if area is not None}
    if not known:
        return "none has both labels"
    listed = ", ".join(f"{name} {area:.3f}" for name, area in known.items())
    return f"mean {np.mean(list(known.values())):.3f} ({listed})"


def worst_subgroup(groups: Sequence[Subgroup]) -> Subgroup | None:
    """Return the subgroup with the highest excess; None if none is large enough.

    A subgroup of one label is never the worst, because its constant baseline is perfect.
    """
    eligible = [one for one in groups if one.count >= _FEWEST_VIDEOS and 0 < one.fake < one.count]
    return max(eligible, key=lambda one: one.excess, default=None)
