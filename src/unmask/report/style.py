"""Style of all figures: readable in print, on a phone and with any colour vision.

At most two panels side by side, and no text below 9 points in a figure 6 inches wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


def create_grid(
    title: str, count: int, across: int, cell: tuple[float, float] = (2.0, 2.4)
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels for pictures in rows of `across`; `cell` in inches."""
    rows = max(1, -(-count // across))
    figure = Figure(figsize=(cell[0] * across, cell[1] * rows + 0.4))
    figure.suptitle(title, x=0.02, ha="left")
    panels = list(figure.subplots(rows, across, squeeze=False).flat)
    for axes in panels:
        axes.axis("off")
    return figure, panels[:count]


def draw_bars(
    axes: Axes, values: pd.Series, captions: Sequence[str], color: str | Sequence[str] = GRAY
) -> None:
    """Draw horizontal bars named by the index of `values`, the first on top, with captions."""
    bars = axes.barh([str(name) for name in values.index], values, height=0.7, color=color)
    axes.bar_label(bars, captions, padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.3)


def draw_interval(
    axes: Axes,
    row: int,
    value: float,
    interval: tuple[float | None, float | None],
    color: str = COLORS[Label.REAL],
) -> None:
    """Draw a value as a dot in a row, and its interval as a line where both ends are known."""
    low, high = interval
    if low is not None and high is not None:
        axes.plot([low, high], [row, row], color=color, linewidth=2)
    axes.plot(value, row, "o", color=color)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG, by its suffix, without a date in it."""
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=144, metadata=metadata)
