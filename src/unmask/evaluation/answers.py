"""Answers of trained models to videos that are in no role of theirs: shifted clips, external sets.

Each model reads them as `calibration.json` says, which was fitted on the videos of its select role
as they are: nothing is fitted here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from unmask.config import EvaluationConfig
from unmask.evaluation.aggregate import aggregate_videos
from unmask.evaluation.calibrate import Calibration
from unmask.evaluation.metrics import best_constant_log_loss
from unmask.tables import Label


def read_calibrations(path: Path) -> dict[str, Calibration]:
    """Return the calibration of each model of an experiment, from its `calibration.json`."""
    return {name: Calibration(**one) for name, one in json.loads(path.read_text()).items()}


def answer_asked(
    asked: pd.DataFrame, scores: pd.DataFrame, calibration: Calibration, config: EvaluationConfig
) -> pd.DataFrame:
    """Return one model's answers.

    Args:
        asked: the videos, rows with `part` and `video`.
        scores: the model's, of their faces; a video without any is answered with the prior.
        calibration: the model's.
        config: the aggregation.

    Returns:
        `asked` with `logit` (NaN without a face), `log_odds` and `probability`.
    """
    videos = aggregate_videos(scores, config)[["part", "video", "logit"]]
    answers = asked.merge(videos, on=["part", "video"], how="left")
    log_odds = calibration.log_odds(answers["logit"].to_numpy(np.float64))
    return answers.assign(log_odds=log_odds, probability=expit(log_odds))


def measure_answers(answers: pd.DataFrame) -> dict[str, Any]:
    """Return the metrics of answers, which may be to videos of one label only.

    Args:
        answers: rows with `label`, `logit`, `log_odds` and `probability`, at least one.

    Returns:
        `log_loss` of the challenge; `roc_auc`, None where a label is missing; the log loss of the
        best constant; `videos`, `fake`, and those answered `without_face`.
    """
    fake = (answers["label"] == Label.FAKE).to_numpy()
    # -log p of what is right, from log-odds: exact where the probability rounds to 0 or 1.
    right = np.where(fake, 1, -1) * answers["log_odds"].to_numpy()
    both = 0 < fake.sum() < len(fake)
    return {
        "log_loss": float(np.logaddexp(0, -right).mean()),
        "roc_auc": float(roc_auc_score(fake, answers["log_odds"])) if both else None,
        "best_constant_log_loss": best_constant_log_loss(fake.astype(np.float64)),
        "videos": len(fake),
        "fake": int(fake.sum()),
        "without_face": int(answers["logit"].isna().sum()),
    }


def loss_on_average(measured: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the mean of the log losses of several sets of answers."""
    return float(np.mean([one["log_loss"] for one in measured.values()]))
