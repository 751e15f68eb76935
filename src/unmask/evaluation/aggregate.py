"""Aggregation: from the logits of a video's faces to one logit for the video."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from unmask.config import EvaluationConfig

# Probabilities are kept this far from 0 and 1 before they become logits again.
_EPSILON = 1e-6


def mean_logit(logits: NDArray[np.float64]) -> float:
    """Return the mean of logits (n,): the geometric mean of the odds."""
    return float(np.mean(logits))


def mean_probability(logits: NDArray[np.float64]) -> float:
    """Return the logit of the mean probability of logits (n,)."""
    return float(logit(np.clip(np.mean(expit(logits)), _EPSILON, 1 - _EPSILON)))


AGGREGATIONS = {"mean_logit": mean_logit, "mean_probability": mean_probability}


def aggregate_videos(scores: pd.DataFrame, config: EvaluationConfig) -> pd.DataFrame:
    """Return one row per fold, seed, part and video with its `logit` and number of `faces`.

    Args:
        scores: rows of `unmask.tables.SCORES`.
        config: names the aggregation.
    """
    aggregate = AGGREGATIONS[config.aggregate]
    grouped = scores.groupby(["fold", "seed", "part", "video"])["logit"]
    videos = grouped.agg(logit=lambda logits: aggregate(logits.to_numpy()), faces="size")
    return videos.reset_index()
