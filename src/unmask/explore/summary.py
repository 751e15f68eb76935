"""The summary of a finished run, which `make demo` prints."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from unmask.errors import UnmaskError
from unmask.report.verdict import baseline_warning


def print_summary(
    results: Path = Path("results"), report: Path = Path("results/report.html")
) -> None:
    """Print the log loss of each experiment next to the constant baseline, and where results are.

    Args:
        results: the workflow's results folder.
        report: the Snakemake report, printed if it exists.

    Raises:
        UnmaskError: the workflow has not finished in that folder.
    """
    comparison = results / "evaluation" / "comparison.csv"
    if not comparison.is_file():
        raise UnmaskError(f"{comparison}: does not exist yet; run snakemake first")
    ledger = json.loads((results / "ledger.json").read_text())
    statuses = ", ".join(f"{name} {count}" for name, count in ledger["statuses"].items())
    print(f"\nvideos: {ledger['videos']} ({statuses})")
    for row in pd.read_csv(comparison).itertuples():
        print(
            f"{row.experiment}: test log loss {row.test_log_loss:.4f}, "
            f"constant baseline {row.test_constant_log_loss:.4f} "
            f"({row.test_count} test videos, ROC AUC {row.test_roc_auc:.3f} of videos, "
            f"{row.test_frame_roc_auc:.3f} of frames)"
        )
        ends = ("test_log_loss", "test_log_loss_high", "test_constant_log_loss")
        warning = baseline_warning(*(float(getattr(row, name)) for name in ends))
        if warning is not None:
            print(f"WARNING: {row.experiment}: {warning}")
    sets = results / "evaluation" / "sets.csv"
    for row in pd.read_csv(sets).itertuples() if sets.is_file() else ():
        print(
            f"{row.experiment} on {row.set}: log loss {row.log_loss:.4f} ({row.count} videos, "
            f"ROC AUC {row.roc_auc:.3f} of videos, {row.frame_roc_auc:.3f} of frames)"
        )
    if (results / "submission.csv").is_file():
        print(f"submission: {results / 'submission.csv'}")
    for manifest in sorted(results.glob("kaggle/*/manifest.json")):
        print(f"another video: unmask predict VIDEO --bundle {manifest.parent}")
    if report.is_file():
        print(f"report: {report.resolve()}")
    print("MLflow UI: make ui, then open http://127.0.0.1:5000 and choose Model training")
