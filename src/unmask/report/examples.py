"""Examples: which rows of a table a page or figure shows."""

from __future__ import annotations

import numpy as np
import pandas as pd


def spread(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return at most `count` rows, evenly spaced from the first to the last."""
    last = max(0, len(rows) - 1)
    return rows.iloc[np.unique(np.linspace(0, last, min(count, len(rows))).astype(int))]
