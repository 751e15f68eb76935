"""Subgroups: for whom, and in which videos, a detector is worse than its average says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from unmask.evaluation.intervals import mean_interval, resampling, row_losses
from unmask.evaluation.metrics import binary_metrics
from unmask.vocabulary import Label

_VIDEO = ["part", "video"]
# A group of fewer videos than this is told of, but never named the worst: it would be by chance.
_ENOUGH = 10

# Column of a described video to the upper ends of its bins and their names.
_BINS: dict[str, tuple[tuple[float, ...], tuple[str, ...]]] = {
    "resolution": ((480, 720, 1080), ("below 480", "480 to 719", "720 to 1079", "1080 and more")),
    "fps": ((20, 27), ("below 20", "20 to 26", "27 and more")),
    "face_width": ((64, 128, 256), ("below 64", "64 to 127", "128 to 255", "256 and more")),
    "brightness": ((60, 110, 160), ("dark", "dim", "medium", "bright")),
    "sharpness": ((30, 100, 300), ("blurred", "soft", "medium", "sharp")),
    "people": ((2,), ("one", "two and more")),
}
_TITLES = {
    "resolution": "short side, pixels",
    "fps": "frames per second",
    "face_width": "face width, pixels",
    "brightness": "mean luma of the face",
    "sharpness": "sharpness of the face",
    "people": "people",
}


def describe_videos(
    report: pd.DataFrame, ledger: pd.DataFrame, faces: pd.DataFrame
) -> pd.DataFrame:
    """Return the predictions of the report role with the columns that groups are made of.

    Args:
        report: rows of `unmask.tables.PREDICTIONS`.
        ledger: rows of `unmask.tables.VIDEOS`.
        faces: the face index: `x0`, `x1`, `brightness`, `sharpness` and `track`.
    """
    video = faces[_VIDEO]
    measured = video.assign(
        face_width=faces["x1"] - faces["x0"],
        brightness=faces["brightness"],
        sharpness=faces["sharpness"],
    )
    of_video = measured.groupby(_VIDEO).mean()
    of_video["people"] = video.assign(track=faces["track"]).groupby(_VIDEO)["track"].nunique()
    known = ledger[[*_VIDEO, "status", "method", "video_fps"]].assign(
        resolution=ledger[["video_width", "video_height"]].min(axis=1)
    )
    described = report.merge(known, on=_VIDEO, how="left")
    described = described.merge(of_video.reset_index(), on=_VIDEO, how="left")
    return described.rename(columns={"video_fps": "fps"})


def measure_subgroups(videos: pd.DataFrame, resamples: int) -> list[dict[str, Any]]:
    """Return metrics and the interval of the log loss of each subgroup.

    Groups of fakes (by method) hold all REAL videos as well, since a log loss of FAKE alone says
    only how often a model says FAKE.

    Args:
        videos: what `describe_videos` returns.
        resamples: of whole families or identities.
    """
    found = []
    for column, (edges, names) in _BINS.items():
        bins = pd.cut(videos[column], [-np.inf, *edges, np.inf], right=False, labels=list(names))
        found += [
            _measure(_TITLES[column], name, videos[bins == name], resamples) for name in names
        ]
    for status in sorted(videos["status"].dropna().unique()):
        found.append(_measure("status", status, videos[videos["status"] == status], resamples))
    real = videos["label"] == Label.REAL
    for method in sorted(videos["method"].dropna().unique()):
        rows = videos[real | (videos["method"] == method)]
        found.append(_measure("method, with all REAL", method, rows, resamples))
    return [one for one in found if one["count"]]


def _measure(by: str, name: str, rows: pd.DataFrame, resamples: int) -> dict[str, Any]:
    group: dict[str, Any] = {"by": by, "name": str(name), "count": len(rows)}
    if rows.empty:
        return group
    labels = np.asarray(rows["label"] == Label.FAKE, np.float64)
    probabilities = rows["probability"].to_numpy()
    resampled = resampling(rows["group"].to_numpy(), resamples)
    low, high = mean_interval(row_losses(labels, probabilities)["log_loss"], resampled)
    metrics = binary_metrics(labels, probabilities)
    kept = ("fake", "log_loss", "constant_log_loss", "roc_auc")
    return group | {name: metrics[name] for name in kept} | {"log_loss_interval": [low, high]}


def worst_subgroup(groups: list[dict[str, Any]]) -> str:
    """Return a sentence that names the group with the highest log loss; empty without groups."""
    large = [one for one in groups if one["count"] >= _ENOUGH]
    if not large:
        return ""
    worst = max(large, key=lambda one: float(one["log_loss"]))
    return (
        f"{worst['by']}: {worst['name']}, log loss {worst['log_loss']:.3f} "
        f"(best constant {worst['constant_log_loss']:.3f}), {worst['count']} videos"
    )
