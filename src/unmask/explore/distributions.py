"""Distributions of columns by label: as a table of quantiles and as histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from unmask.report.style import COLORS, WIDTH
from unmask.vocabulary import Label

# A column with so many distinct values at most has a bar for each, not a histogram.
_MAX_BARS = 8


def describe(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return count, mean, standard deviation and quantiles of each column and label, as rows.

    Missing and infinite values are left out.
    """
    rows = []
    for column in columns:
        values = _finite(table[column])
        for label in Label:
            known = values[table["label"] == label].dropna()
            described = known.describe(percentiles=[0.05, 0.25, 0.5, 0.75, 0.95])
            rows.append({"column": column, "label": str(label)} | described.to_dict())
    return pd.DataFrame(rows).rename(columns={"count": "videos", "50%": "median"})


def draw_distributions(table: pd.DataFrame, columns: Mapping[str, str], title: str) -> Figure:
    """Draw distributions as shares of each label; `columns` maps a column to its axis label."""
    rows = -(-len(columns) // 2)
    figure = Figure(figsize=(WIDTH + 0.6, 2.5 * rows + 0.9))
    panels = list(figure.subplots(rows, 2, squeeze=False).flat)
    # With an odd number of columns the last panel stays empty.
    for axes, (column, shown) in zip(panels, columns.items(), strict=False):
        _draw_by_label(axes, _finite(table[column]), table["label"])
        axes.set_xlabel(shown)
    for axes in panels[::2]:
        axes.set_ylabel("share of label")
    for axes in panels[len(columns) :]:
        axes.axis("off")
    counts = table["label"].value_counts()
    legend = {f"{label} ({counts.get(label, 0):,})": color for label, color in COLORS.items()}
    figure.suptitle(title, x=0.02, ha="left")
    handles = [Patch(color=color, label=name) for name, color in legend.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _finite(values: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    return numbers.replace([np.inf, -np.inf], np.nan)


def _draw_by_label(axes: Axes, values: pd.Series, labels: pd.Series) -> None:
    known = values.dropna()
    if known.empty:
        axes.text(0.5, 0.5, "no known value", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    by_label = {label: known[labels == label] for label in COLORS}
    ticks = sorted(known.round(3).unique())
    if len(ticks) <= _MAX_BARS:
        for side, (label, color) in zip((-0.2, 0.2), COLORS.items(), strict=True):
            shares = by_label[label].round(3).value_counts(normalize=True)
            heights = shares.reindex(ticks, fill_value=0)
            axes.bar(np.arange(len(ticks)) + side, heights, width=0.4, color=color)
        axes.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
        axes.tick_params(axis="x", rotation=45 if len(ticks) > 4 else 0)
        return
    # One broken container must not squeeze all others into one bar.
    low, high = np.percentile(known, [0.5, 99.5])
    if not low < high:
        low, high = known.min(), known.max()
    edges = list(np.linspace(low, high, 21))
    for label, color in COLORS.items():
        inside = by_label[label].clip(low, high)
        weights = np.full(len(inside), 1 / max(1, len(inside)))
        axes.hist(
            inside,
            edges,
            weights=weights,
            fc=(color, 0.35),
            ec=color,
            lw=1.8,
            histtype="stepfilled",
        )
