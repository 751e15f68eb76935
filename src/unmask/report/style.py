"""Style of all figures: readable in print, on a phone and with any colour vision.

At most two panels side by side, and no text below 9 points in a figure 6 inches wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from unmask.files import atomic_path
from unmask.vocabulary import Label

# From the palette of Okabe & Ito (2008), which is distinct for any colour vision.
COLORS = {Label.REAL: "#0072B2", Label.FAKE: "#D55E00"}
GRAY = "#666666"
WIDTH = 6.0  # inches

mpl.use("agg")
mpl.rcParams.update(
    {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "figure.constrained_layout.use": True,
        "font.size": 11,
        "legend.frameon": False,
        # Equal data give equal bytes.
        "svg.hashsalt": "unmask",
    }
)


def create_axes(
    title: str, x: str, y: str = "", size: tuple[float, float] = (WIDTH, 4.2)
) -> tuple[Figure, Axes]:
    """Return a figure of one panel with a title and the labels of its axes; `size` in inches."""
    figure = Figure(figsize=size)
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def draw_pictures(
    title: str,
    pictures: Sequence[NDArray[Any] | None],
    captions: Sequence[str],
    across: int,
    cell: tuple[float, float] = (2.0, 2.4),
) -> tuple[Figure, list[Axes]]:
    """Draw pictures under their captions in rows of `across`, a gap for None; `cell` in inches."""
    rows = max(1, -(-len(pictures) // across))
    figure = Figure(figsize=(cell[0] * across, cell[1] * rows + 0.4))
    figure.suptitle(title, x=0.02, ha="left")
    panels = list(figure.subplots(rows, across, squeeze=False).flat)
    for axes in panels:
        axes.axis("off")
    # The last row may have more panels than pictures are left.
    for axes, picture, caption in zip(panels, pictures, captions, strict=False):
        axes.set_title(caption, fontsize=8)
        if picture is not None:
            axes.imshow(picture)
            axes.autoscale(False)  # what is drawn on a picture does not enlarge its axes
    return figure, panels[: len(pictures)]


def draw_bars(
    axes: Axes, values: pd.Series, captions: Sequence[str], color: str | Sequence[str] = GRAY
) -> None:
    """Draw horizontal bars named by the index of `values`, the first on top, with captions."""
    bars = axes.barh([str(name) for name in values.index], values, height=0.7, color=color)
    axes.bar_label(bars, captions, padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.3)


def draw_intervals(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw a row per dot and interval, the first on top.

    The columns are `name` (on the left), `value`, `low` and `high` (NaN without an interval),
    `caption` (on the right) and `color`.
    """
    numbers = range(len(rows))
    low, high = rows["low"].astype(float), rows["high"].astype(float)
    axes.hlines(numbers, low, high, colors=rows["color"].to_list(), linewidth=2)
    axes.scatter(rows["value"], numbers, c=rows["color"].to_list())
    for number, caption in enumerate(rows["caption"].astype(str)):
        at = ("axes fraction", "data")
        axes.annotate(caption, (1.02, number), xycoords=at, annotation_clip=False, va="center")
    axes.set_yticks(numbers, rows["name"])
    axes.set_ylim(len(rows) - 0.5, -0.5)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG, by its suffix, without a date in it."""
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=144, metadata=metadata)
