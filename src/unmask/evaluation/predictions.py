"""Tables of predictions: from face scores to calibrated probabilities of videos."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from unmask.config import EvaluationConfig
from unmask.evaluation.intervals import metric_intervals, resampling
from unmask.evaluation.metrics import Metrics, binary_metrics
from unmask.inference.aggregate import FaceLogits
from unmask.inference.scoring_head import (
    ScoringHead,
    aggregate_logits,
    candidate_aggregations,
    fit_scoring_head,
)
from unmask.splits.roles import rows_to_fit_on, with_roles
from unmask.tables import SCORES, read_tables
from unmask.training.run_record import RunRecord
from unmask.vocabulary import Label, PredictionSource, Role

logger = logging.getLogger(__name__)

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

    Logits assume even odds, log-odds the prior of the data.
    """

    head: ScoringHead
    videos: pd.DataFrame
    faces: pd.DataFrame


def predict_held_out(
    jobs: Sequence[RunRecord],
    splits: pd.DataFrame,
    scores: Sequence[Path],
    config: EvaluationConfig,
) -> dict[str, ModelPredictions]:
    """Fit the scoring heads of an experiment, and predict validation and test videos.

    A head is fitted on the validation predictions of all models, each for videos that it was not
    trained on, except for videos of the fold that the head is tested on.

    Args:
        jobs: its trainings.
        splits: rows of `unmask.tables.SPLITS`.
        scores: their scores of faces, see `unmask.tables.SCORES`, in the same order.
        config: the candidates for scoring heads.

    Returns:
        Name of a model to its predictions.
    """
    columns = [*TRACK, "role", "logit"]
    pooled = pd.concat(
        [
            _aggregate_validation(job, splits, read_tables([path], SCORES, columns), config)
            for job, path in zip(jobs, scores, strict=True)
        ],
        ignore_index=True,
    )
    heads = {fold: _fit_head(fold, pooled, config) for fold in sorted({job.fold for job in jobs})}
    models = {}
    for job, path in zip(jobs, scores, strict=True):
        scored = read_tables([path], SCORES, columns)
        head, held_out = heads[job.fold]
        head = replace(head, calibration=replace(head.calibration, prior=job.assumed_prior))
        videos = with_roles(splits, job.fold, job.folds)
        videos = videos[videos["role"] != Role.TRAIN].assign(fold=job.fold)
        predicted = predict_videos(videos, scored, head)
        own = held_out.loc[held_out["model"] == job.model, [*VIDEO, "held_out"]]
        predicted = predicted.merge(own, on=VIDEO, how="left")
        cross_fitted = predicted.pop("held_out") + logit(job.assumed_prior)
        predicted["log_odds"] = cross_fitted.fillna(predicted["log_odds"])
        predicted["probability"] = expit(predicted["log_odds"])

        faces = scored[scored["role"] == Role.TEST].drop(columns="role").reset_index(drop=True)
        faces["logit"] -= logit(job.assumed_prior)
        faces["log_odds"] = head.calibration.log_odds(faces["logit"].to_numpy())
        models[job.model] = ModelPredictions(head, predicted, faces)
    return models


def _aggregate_validation(
    job: RunRecord, splits: pd.DataFrame, scored: pd.DataFrame, config: EvaluationConfig
) -> pd.DataFrame:
    """Return a row per validation video with a face, and its logit by each aggregation."""
    faces, videos = number_faces(rows_to_fit_on(scored, Role.VAL))
    logits = {
        name: aggregate_logits(faces, name, job.assumed_prior)
        for name in candidate_aggregations(config)
    }
    return videos.assign(model=job.model, **logits).merge(splits, on=VIDEO)


def _fit_head(
    fold: int, pooled: pd.DataFrame, config: EvaluationConfig
) -> tuple[ScoringHead, pd.DataFrame]:
    """Return the scoring head of a fold, and the rows it was fitted on with `held_out` log-odds."""
    rows = pooled[pooled["fold"] != fold]
    logits = {name: rows[name].to_numpy() for name in candidate_aggregations(config)}
    labels, groups, sources = is_fake(rows), rows["group"].to_numpy(), rows["source"].to_numpy()
    head, held_out = fit_scoring_head(logits, labels, groups, sources, config)
    logger.info(
        "fold %d: %s, slope %.2f, intercept %+.2f, clip %.4f; from %d predictions of videos in %d "
        "groups, %d of them FAKE%s",
        *(fold, head.aggregate, head.calibration.slope, head.calibration.intercept),
        *(head.calibration.clip, len(rows), rows["group"].nunique(), labels.sum()),
        "" if 0 < labels.sum() < len(labels) else ": no calibration without both labels",
    )
    return head, rows.assign(held_out=held_out)


def predict_videos(
    videos: pd.DataFrame, scores: pd.DataFrame, head: ScoringHead, prior: float | None = None
) -> pd.DataFrame:
    """Return `videos` with one model's predictions; nothing is fitted.

    Args:
        videos: rows with `part` and `video`.
        scores: of their faces, sorted by video and track.
        head: the model's scoring head. A video without faces gets its prior.
        prior: share of FAKE to assume instead of the head's.

    Returns:
        `videos` with `faces` (their number), `logit` (NaN without a face), `log_odds` and
        `probability`.
    """
    faces, with_faces = number_faces(scores)
    predicted = videos.merge(with_faces.assign(logit=head.logits(faces)), on=VIDEO, how="left")
    calibrated = head.calibration.log_odds(predicted["logit"].to_numpy(np.float64), prior)
    return predicted.assign(
        faces=predicted["faces"].fillna(0).astype(int),
        log_odds=calibrated,
        probability=expit(calibrated),
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
    columns = ["logit", "log_odds"]
    means = {name: np.mean([one[name] for one in predictions], axis=0) for name in columns}
    return predictions[0].assign(**means, probability=expit(means["log_odds"]))


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
    """Return what `measure` does, with 95 % intervals; the rows need a `group` as well."""
    resampled = resampling(rows["group"].to_numpy(), resamples)
    intervals = metric_intervals(is_fake(rows), rows["probability"].to_numpy(), resampled)
    return replace(measure(rows), groups=resampled.groups, intervals=intervals)
