"""Tables of predictions: from face scores to calibrated probabilities of videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from unmask.config import EvaluationConfig
from unmask.evaluation.intervals import metric_intervals, resampling
from unmask.evaluation.metrics import Metrics, binary_metrics
from unmask.inference.aggregate import FaceLogits
from unmask.inference.scoring_head import ScoringHead, fit_scoring_head
from unmask.splits.roles import rows_to_fit_on, with_roles
from unmask.tables import SCORES, read_tables
from unmask.training.run_record import RunRecord
from unmask.vocabulary import Label, PredictionSource, Role

Floats = NDArray[np.float64]

VIDEO = ["part", "video"]
TRACK = [*VIDEO, "track"]


@dataclass(frozen=True)
class ModelPredictions:
    """One model's predictions for the videos that it was not trained on.

    Attributes:
        head: the model's scoring head.
        videos: one row per video, with `role`, `logit`, `faces`, `log_odds` and `probability`.
            Log-odds and probability of validation videos are cross-fitted.
        faces: one row per face of the test videos, with `logit` and calibrated `log_odds`.
    """

    head: ScoringHead
    videos: pd.DataFrame
    faces: pd.DataFrame


def predict_held_out(
    job: RunRecord, splits: pd.DataFrame, scores: Path, config: EvaluationConfig
) -> ModelPredictions:
    """Fit a model's scoring head and predict its validation and test videos.

    Args:
        job: its training.
        splits: rows of `unmask.tables.SPLITS`.
        scores: its scores of faces, see `unmask.tables.SCORES`.
        config: the candidates for the scoring head.
    """
    fold = job.fold
    scored = read_tables([scores], SCORES, [*TRACK, "role", "logit"])
    videos = with_roles(splits, fold, job.folds)
    videos = videos[videos["role"] != Role.TRAIN].assign(fold=fold)

    val_faces, val_videos = number_faces(rows_to_fit_on(scored, Role.VAL))
    known = val_videos.merge(videos, on=VIDEO, how="left")
    fitted = fit_scoring_head(
        val_faces, is_fake(known), known["group"].to_numpy(), job.assumed_prior, config
    )
    predicted = predict_videos(videos, scored, fitted.head)
    held_out = val_videos[VIDEO].assign(held_out=fitted.held_out)
    predicted = predicted.merge(held_out, on=VIDEO, how="left")
    predicted["log_odds"] = predicted.pop("held_out").fillna(predicted["log_odds"])
    predicted["probability"] = expit(predicted["log_odds"])

    faces = scored[scored["role"] == Role.TEST].drop(columns="role").reset_index(drop=True)
    faces["log_odds"] = fitted.head.calibration.log_odds(faces["logit"].to_numpy())
    return ModelPredictions(fitted.head, predicted, faces)


def predict_videos(videos: pd.DataFrame, scores: pd.DataFrame, head: ScoringHead) -> pd.DataFrame:
    """Return `videos` with one model's predictions; nothing is fitted.

    Args:
        videos: rows with `part` and `video`.
        scores: of their faces, sorted by video and track.
        head: the model's scoring head. A video without faces gets its prior.

    Returns:
        `videos` with `faces` (their number), `logit` (NaN without a face), `log_odds` and
        `probability`.
    """
    faces, with_faces = number_faces(scores)
    predicted = videos.merge(with_faces.assign(logit=head.logits(faces)), on=VIDEO, how="left")
    log_odds = head.calibration.log_odds(predicted["logit"].to_numpy(np.float64))
    return predicted.assign(
        faces=predicted["faces"].fillna(0).astype(int),
        log_odds=log_odds,
        probability=expit(log_odds),
    )


def number_faces(scores: pd.DataFrame) -> tuple[FaceLogits, pd.DataFrame]:
    """Number the videos and tracks of scores that are sorted by video and track.

    Returns:
        Their logits, and one row per video, in order, with the number of its `faces`.
    """
    video, track = (
        np.asarray(scores.groupby(key, sort=False).ngroup(), np.int64) for key in (VIDEO, TRACK)
    )
    faces = FaceLogits(scores["logit"].to_numpy(), video, track)
    videos = scores[VIDEO].drop_duplicates(ignore_index=True)
    return faces, videos.assign(faces=np.bincount(video, minlength=len(videos)))


def average_models(predictions: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Average models' predictions for the same rows in log-odds, as the bundle does."""
    log_odds = np.mean([one["log_odds"] for one in predictions], axis=0)
    logit = np.mean([one["logit"] for one in predictions], axis=0)
    return predictions[0].assign(log_odds=log_odds, logit=logit, probability=expit(log_odds))


def out_of_fold(ledger: pd.DataFrame, splits: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Return a row per video of the ledger: its out-of-fold prediction, see `OUT_OF_FOLD`.

    Args:
        ledger: rows of `unmask.tables.VIDEOS`.
        splits: rows of `unmask.tables.SPLITS`.
        test: predictions of the test videos of all folds.
    """
    columns = ["fold", "faces", "logit", "probability"]
    rows = ledger[[*VIDEO, "label", "status"]]
    rows = rows.merge(splits[[*VIDEO, "group"]], on=VIDEO, how="left")
    rows = rows.merge(test[[*VIDEO, *columns]], on=VIDEO, how="left")
    source = np.where(rows["logit"].notna(), PredictionSource.MODEL, PredictionSource.PRIOR)
    source = np.where(rows["probability"].notna(), source, PredictionSource.NONE)
    return rows.assign(
        faces=rows["faces"].fillna(0).astype(int), fold=rows["fold"].astype("Int32"), source=source
    )


def is_fake(rows: pd.DataFrame) -> Floats:
    """Return float64 (n,), 1 for FAKE."""
    return np.asarray(rows["label"] == Label.FAKE, np.float64)


def measure(rows: pd.DataFrame) -> Metrics:
    """Return the metrics of rows with `label`, `logit` and `probability`, at least one."""
    metrics = binary_metrics(is_fake(rows), rows["probability"].to_numpy())
    return replace(metrics, without_face=int(rows["logit"].isna().sum()))


def measure_with_intervals(rows: pd.DataFrame, resamples: int) -> Metrics:
    """Return the metrics of rows that have a `group`, too, with 95 % intervals."""
    resampled = resampling(rows["group"].to_numpy(), resamples)
    intervals = metric_intervals(is_fake(rows), rows["probability"].to_numpy(), resampled)
    return replace(measure(rows), groups=resampled.groups, intervals=intervals)
