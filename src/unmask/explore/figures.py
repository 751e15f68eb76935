"""Figures of the exploratory report: what the data is like, before any model.

Two panels side by side at most and no text below 9 points at 6 inches: readable on a phone.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from unmask.faces.images import decode_jpeg
from unmask.faces.shards import ShardReader
from unmask.report.style import COLORS
from unmask.vocabulary import Label

CONTAINERS = {
    "video_duration": "duration [s]",
    "video_nb_frames": "frames",
    "video_fps": "frames per second",
    "video_bit_rate": "bit rate [Mbit/s]",
    "video_width": "width [px]",
    "video_height": "height [px]",
}
FACES_OF_VIDEO = {
    "faces": "tracks",
    "share_with_face": "share of frames with a face",
    "detections": "detections",
    "score": "detector's score, mean",
    "width": "face width [px], mean",
    "height": "face height [px], mean",
    "sharpness": "sharpness, mean",
    "crops": "crops",
}
_GRAY = "#666666"
_WIDTH = 6.0
_COLUMNS = 3
_BYTES = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1}
_SECONDS = {"h": 3600, "min": 60, "s": 1}
_FEW = 8
# Points of the 68 (Sagonas et al., iBUG 300-W) that lines join.
_LINES = [
    *((range(0, 17)), range(17, 22), range(22, 27), range(27, 31), range(31, 36)),
    *([*range(36, 42), 36], [*range(42, 48), 42], [*range(48, 60), 48], [*range(60, 68), 60]),
]

mpl.rcParams.update({"axes.titlesize": 11, "axes.titlelocation": "left"})


def bar_counts(title: str, x: str, counts: Mapping[str, int], color: str = _GRAY) -> Figure:
    """Draw counts as horizontal bars with their percentages, the first on top."""
    figure = Figure(figsize=(_WIDTH, 1.2 + 0.4 * max(1, len(counts))))
    axes = figure.subplots()
    axes.set(title=title, xlabel=x)
    total = max(1, sum(counts.values()))
    bars = axes.barh(list(counts), list(counts.values()), color=color, height=0.7)
    shown = [f"{count:,} ({count / total:.1%})" for count in counts.values()]
    axes.bar_label(bars, shown, padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    return figure


def labels(videos: pd.DataFrame) -> Figure:
    """Draw the number of REAL and FAKE videos, in all and by part, with percentages."""
    counts = videos.groupby(["part", "label"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=list(COLORS), fill_value=0)
    figure = Figure(figsize=(_WIDTH, 2.6 + 0.34 * min(60, len(counts))))
    above, below = figure.subplots(2, 1, height_ratios=[2, 0.6 + 0.35 * min(60, len(counts))])
    totals = counts.sum()
    bars = above.barh([str(name) for name in totals.index], totals, color=list(COLORS.values()))
    share = totals / max(1, totals.sum())
    above.bar_label(
        bars, [f"{n:,} ({s:.1%})" for n, s in zip(totals, share, strict=True)], padding=4
    )
    above.set(title=f"Labels of {totals.sum():,} videos", xlabel="videos")
    above.invert_yaxis()
    above.margins(x=0.3)
    shares = counts.div(counts.sum(axis=1).clip(lower=1), axis=0).head(60)
    left = np.zeros(len(shares))
    for label, color in COLORS.items():
        below.barh([str(part) for part in shares.index], shares[label], left=left, color=color)
        left += shares[label].to_numpy()
    for row, count in enumerate(counts.sum(axis=1).head(60)):
        below.annotate(f"{count:,}", (1.02, row), annotation_clip=False, va="center")
    below.set(title="By part, with its number of videos", xlabel="share of videos", xlim=(0, 1))
    below.invert_yaxis()
    return figure


def families(table: pd.DataFrame) -> Figure:
    """Draw how many fakes an original has.

    Args:
        table: one row per family, columns `fakes` and `original_present`.
    """
    figure = Figure(figsize=(_WIDTH, 3.8))
    axes = figure.subplots()
    counts = table["fakes"].value_counts().sort_index()
    bars = axes.bar([str(count) for count in counts.index], counts, color=COLORS[Label.FAKE])
    if len(counts) <= 15:
        axes.bar_label(bars, [f"{count:,}" for count in counts], padding=2)
    else:
        step = -(-len(counts) // 12)
        axes.set_xticks(range(0, len(counts), step), [str(c) for c in counts.index[::step]])
    absent = int((~table["original_present"]).sum())
    axes.set(
        title=f"{len(table):,} families, {absent:,} without their original",
        xlabel="fakes of one original",
        ylabel="originals",
    )
    axes.margins(y=0.12)
    return figure


def distributions(table: pd.DataFrame, columns: Mapping[str, str], title: str) -> Figure:
    """Draw how the values of columns are spread, as shares of each label.

    Args:
        table: one row per video, with `label`.
        columns: column to what its axis says.
        title: of the figure.
    """
    rows = -(-len(columns) // 2)
    figure = Figure(figsize=(_WIDTH + 0.6, 2.5 * rows + 0.9))
    grid = figure.subplots(rows, 2, squeeze=False)
    for axes in grid.flat[len(columns) :]:
        axes.axis("off")
    for axes, (column, shown) in zip(grid.flat, columns.items(), strict=False):
        _by_label(axes, table, column)
        axes.set_xlabel(shown)
    for row in grid:
        row[0].set_ylabel("share of label")
    counts = table["label"].value_counts()
    figure.suptitle(title, x=0.02, ha="left")
    figure.legend(
        handles=[
            Patch(color=color, label=f"{label} ({counts.get(label, 0):,})")
            for label, color in COLORS.items()
        ],
        loc="outside lower center",
        ncols=2,
    )
    return figure


def _by_label(axes: Axes, table: pd.DataFrame, column: str) -> None:
    values = pd.to_numeric(table[column], errors="coerce").astype("float64")
    values = values.replace([np.inf, -np.inf], np.nan)
    known = values.dropna()
    if known.empty:
        axes.text(0.5, 0.5, "none known", ha="center", va="center", transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    of_label = {label: values[table["label"] == label].dropna() for label in COLORS}
    rounded = known.round(3)
    if rounded.nunique() <= _FEW:
        ticks = sorted(rounded.unique())
        for side, (label, color) in zip((-0.2, 0.2), COLORS.items(), strict=True):
            counts = of_label[label].round(3).value_counts().reindex(ticks, fill_value=0)
            share = counts / max(1, len(of_label[label]))
            axes.bar(np.arange(len(ticks)) + side, share, width=0.4, color=color)
        axes.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
        if len(ticks) > 4:
            axes.tick_params(axis="x", rotation=45)
        return
    # One broken container must not squeeze all others into one bar.
    low, high = np.percentile(known, [0.5, 99.5])
    if not low < high:
        low, high = known.min(), known.max()
    edges = np.linspace(low, high, 21)
    for label, color in COLORS.items():
        inside = of_label[label].clip(low, high)
        weights = np.full(len(inside), 1 / max(1, len(inside)))
        axes.hist(inside, bins=list(edges), weights=weights, color=color, alpha=0.35)
        axes.hist(inside, bins=list(edges), weights=weights, color=color, histtype="step", lw=1.8)


def face_grid(
    title: str, faces: pd.DataFrame, captions: Sequence[str], shards: Path, points: bool = False
) -> Figure:
    """Show crops, three in a row, each under its caption.

    Args:
        title: of the figure.
        faces: rows of the face index.
        captions: one per row.
        shards: folder of the face shards.
        points: draw the landmarks, the 68 where the index has them.
    """
    rows = max(1, -(-len(faces) // _COLUMNS))
    figure = Figure(figsize=(_WIDTH, 2.4 * rows + 0.4))
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    figure.suptitle(title if len(faces) else f"{title}: no face", x=0.02, ha="left")
    for axes in grid.flat:
        axes.axis("off")
    reader = ShardReader(shards)
    found = faces.to_dict("records")
    for axes, face, caption in zip(grid.flat, found, captions, strict=False):
        data = reader.read(face["shard"], int(face["offset"]), int(face["size"]))
        picture = decode_jpeg(data, face["key"])
        axes.imshow(picture)
        axes.set_title(caption, fontsize=9, loc="left", pad=3)
        if points:
            _draw_landmarks(axes, face)
            axes.set(xlim=(0, picture.shape[1]), ylim=(picture.shape[0], 0))
    return figure


def _draw_landmarks(axes: Axes, face: Mapping[Hashable, Any]) -> None:
    many = _points(face["landmarks_68"])
    points = many if len(many) == 68 else _points(face["landmarks"])
    if len(points) == 68:
        for line in _LINES:
            axes.plot(*points[list(line)].T, color="white", lw=1.6)
            axes.plot(*points[list(line)].T, color="#009E73", lw=0.9)
    size = 6 if len(points) == 68 else 34
    x, y = points.T
    axes.scatter(x, y, s=size, color="#F0E442", edgecolors="black", linewidths=0.6, zorder=3)


def _points(values: Any) -> NDArray[np.float64]:
    if values is None or np.ndim(values) != 1:
        return np.empty((0, 2))
    points = np.asarray(values, dtype=np.float64).reshape(-1, 2)
    return points if np.isfinite(points).all() else np.empty((0, 2))


def costs(times: pd.DataFrame, storage: pd.DataFrame) -> Figure:
    """Draw the time that jobs took and the room their files take.

    Args:
        times: columns `rule`, `jobs` and `seconds`.
        storage: columns `folder`, `files` and `bytes`.
    """
    figure = Figure(figsize=(_WIDTH, 2.4 + 0.36 * (len(times) + len(storage))))
    above, below = figure.subplots(
        2, 1, height_ratios=[1 + len(times), 1 + len(storage)], squeeze=True
    )
    longest = float(times["seconds"].max()) if len(times) else 0.0
    unit, divisor = _unit(longest, _SECONDS)
    bars = above.barh(times["rule"], times["seconds"] / divisor, color=COLORS[Label.REAL])
    jobs = [f"{count} job{'s' * (count != 1)}" for count in times["jobs"]]
    took = [_in_unit(value, _SECONDS) for value in times["seconds"]]
    above.bar_label(bars, [f"{a}, {b}" for a, b in zip(took, jobs, strict=True)], padding=4)
    above.set(title="Time of jobs, added up", xlabel=f"wall time [{unit}]")
    largest = float(storage["bytes"].max()) if len(storage) else 0.0
    unit, divisor = _unit(largest, _BYTES)
    bars = below.barh(storage["folder"], storage["bytes"] / divisor, color=_GRAY)
    below.bar_label(bars, [_in_unit(value, _BYTES) for value in storage["bytes"]], padding=4)
    below.set(title="Room on the disk", xlabel=unit)
    for axes in (above, below):
        axes.invert_yaxis()
        axes.margins(x=0.35)
    return figure


def _unit(value: float, units: Mapping[str, float]) -> tuple[str, float]:
    """Return the largest unit that `value` has at least one of, else the smallest, and its size."""
    unit = next((name for name, size in units.items() if value >= size), list(units)[-1])
    return unit, units[unit]


def _in_unit(value: float, units: Mapping[str, float]) -> str:
    unit, divisor = _unit(value, units)
    return f"{value / divisor:.1f} {unit}"


def shortcuts(report: Mapping[str, Any]) -> Figure:
    """Draw how well container metadata tells FAKE from REAL, with 95 % intervals.

    Args:
        report: content of `results/audits/shortcuts.json`.
    """
    areas = {} if report["together"] is None else {"all together": report["together"]}
    areas |= dict(list(report["columns"].items())[:12])
    figure = Figure(figsize=(_WIDTH, 1.9 + 0.34 * max(3, len(areas))))
    axes = figure.subplots()
    axes.set(title="What containers tell", xlabel="AUC, cross-validated by group", xlim=(0.2, 1.02))
    if not areas:
        axes.text(0.5, 0.5, report["reason"], ha="center", transform=axes.transAxes, wrap=True)
        axes.set_yticks([])
        return figure
    for row, area in enumerate(areas.values()):
        color = COLORS[Label.FAKE] if area["low"] > report["limit"] else COLORS[Label.REAL]
        low, high = max(0.2, area["low"]), area["high"]
        axes.plot([low, high], [row, row], color=color, lw=2)
        axes.plot(max(0.2, area["auc"]), row, "o", color=color, ms=8 if row == 0 else 6)
        axes.annotate(f"{area['auc']:.2f}", (1.04, row), annotation_clip=False, va="center")
    axes.axvline(0.5, color=_GRAY, linestyle=":")
    axes.axvline(report["limit"], color=COLORS[Label.FAKE], linestyle="--")
    axes.set_yticks(range(len(areas)), list(areas))
    axes.invert_yaxis()
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    axes.text(0.5, -0.75, "chance", ha="center", color=_GRAY, bbox=behind)
    axes.text(report["limit"], -0.75, "limit", ha="center", color=COLORS[Label.FAKE], bbox=behind)
    axes.set_ylim(len(areas) - 0.4, -1.1)
    return figure
