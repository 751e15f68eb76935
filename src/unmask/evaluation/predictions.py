"""Answers of trained models to videos that are in no role of theirs: shifted clips, external sets.

Each model reads them as `calibration.json` says, which was fitted on the videos of its select role
as they are: nothing is fitted here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from unmask.evaluation.evaluate import number_faces
from unmask.evaluation.metrics import binary_metrics
from unmask.files import read_json
from unmask.inference.scoring_head import ScoringHead
from unmask.vocabulary import Label

_MEASURED = ("log_loss", "roc_auc", "constant_log_loss", "fake")


def read_readouts(path: Path) -> dict[str, ScoringHead]:
    """Return the scoring head of each model of an experiment, from its `calibration.json`."""
    return read_json(path, dict[str, ScoringHead])


def answer_asked(asked: pd.DataFrame, scores: pd.DataFrame, readout: ScoringHead) -> pd.DataFrame:
    """Return one model's answers.

    Args:
        asked: the videos, rows with `part` and `video`.
        scores: the model's, of their faces, sorted by video and track; a video without any is
            answered with the prior.
        readout: the model's.

    Returns:
        `asked` with `logit` (NaN without a face), `log_odds` and `probability`.
    """
    faces, videos = number_faces(scores)
    answered = videos[["part", "video"]].assign(logit=readout.logits(faces))
    answers = asked.merge(answered, on=["part", "video"], how="left")
    log_odds = readout.calibration.log_odds(answers["logit"].to_numpy(np.float64))
    return answers.assign(log_odds=log_odds, probability=expit(log_odds))


def measure_answers(answers: pd.DataFrame) -> dict[str, Any]:
    """Return the metrics of answers, which may be to videos of one label only.

    Args:
        answers: rows with `label`, `logit`, and `probability`, at least one.

    Returns:
        `log_loss` of the challenge; `roc_auc`, None where a label is missing; the log loss of the
        best constant; `videos`, `fake`, and those answered `without_face`.
    """
    labels = np.asarray(answers["label"] == Label.FAKE, np.float64)
    measured = binary_metrics(labels, answers["probability"].to_numpy())
    return {name: measured[name] for name in _MEASURED} | {
        "videos": len(answers),
        "without_face": int(answers["logit"].isna().sum()),
    }


def loss_on_average(measured: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the mean of the log losses of several sets of answers."""
    return float(np.mean([one["log_loss"] for one in measured.values()]))
