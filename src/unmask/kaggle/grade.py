"""Grade a submission by the labels of its test set, as the challenge did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from unmask.errors import UnmaskError
from unmask.evaluation.metrics import binary_metrics


def grade_submission(submission: Path, labels: Path) -> str:
    """Return the log loss and the AUC of a submission, in a line.

    Args:
        submission: CSV with `filename,label`, the probability of FAKE.
        labels: CSV with `filename,label`, 1 for FAKE and 0 for REAL.

    Raises:
        UnmaskError: a file is no such table, or they name different videos.
    """
    answers, truth = _read(submission), _read(labels)
    if missing := sorted(set(truth.index) ^ set(answers.index)):
        raise UnmaskError(
            f"{submission}: {len(missing)} videos stand only there or only in {labels}, "
            f"the first is {missing[0]}"
        )
    if not truth.isin([0, 1]).all():
        raise UnmaskError(f"{labels}: a label is neither 0 nor 1")
    metrics = binary_metrics(truth.to_numpy(np.float64), answers[truth.index].to_numpy(np.float64))
    area = "?" if metrics.roc_auc is None else f"{metrics.roc_auc:.4f}"
    return (
        f"log loss {metrics.log_loss:.4f} (constant baseline {metrics.constant_log_loss:.4f}), "
        f"AUC {area}, {len(truth)} videos, {truth.sum():.0f} FAKE"
    )


def _read(path: Path) -> pd.Series:
    try:
        table = pd.read_csv(path, usecols=["filename", "label"], index_col="filename")
    except (OSError, ValueError) as error:
        raise UnmaskError(f"{path}: not a CSV of filename,label ({error})") from None
    return table["label"]
