"""The challenge's metrics of a submission whose labels are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from unmask.errors import UnmaskError
from unmask.evaluation.metrics import binary_metrics


def grade_submission(submission: Path, labels: Path) -> str:
    """Return the log loss and the AUC of a submission.

    Args:
        submission: CSV with `filename,label`, the probability of FAKE.
        labels: CSV with `filename,label`, 1 for FAKE and 0 for REAL.

    Raises:
        UnmaskError: a file is no such table, or they name different videos.
    """
    probabilities, truth = _read(submission), _read(labels)
    if different := sorted(set(truth.index) ^ set(probabilities.index)):
        raise UnmaskError(
            f"{submission}: {len(different)} videos are only in it or only in {labels}, the first "
            f"is {different[0]}"
        )
    if not truth.isin([0, 1]).all():
        raise UnmaskError(f"{labels}: a label is neither 0 nor 1")
    predicted = probabilities[truth.index].to_numpy(np.float64)
    metrics = binary_metrics(truth.to_numpy(np.float64), predicted)
    area = "?" if metrics.roc_auc is None else f"{metrics.roc_auc:.4f}"
    return (
        f"log loss {metrics.log_loss:.4f} (constant baseline {metrics.constant_log_loss:.4f}), "
        f"AUC {area}, {metrics.count} videos, {metrics.fake} FAKE"
    )


def _read(path: Path) -> pd.Series:
    try:
        table = pd.read_csv(path, usecols=["filename", "label"], index_col="filename")
    except (OSError, ValueError) as error:
        raise UnmaskError(f"{path}: not a CSV of filename,label ({error})") from None
    return table["label"]
