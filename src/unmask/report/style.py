"""The style of all figures: colours that any colour vision tells apart, readable in print."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from unmask.files import atomic_path
from unmask.vocabulary import Label

# Okabe & Ito (2008), told apart with any colour vision.
COLORS = {Label.REAL: "#0072B2", Label.FAKE: "#D55E00"}

mpl.use("agg")
mpl.rcParams.update(
    {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
        "font.size": 11,
        "legend.frameon": False,
        # Equal data give equal bytes.
        "svg.hashsalt": "unmask",
    }
)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG, by its suffix, without a date in it."""
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=144, metadata=metadata)
