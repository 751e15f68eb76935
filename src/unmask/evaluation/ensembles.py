"""Ensembles: which experiments to combine, with which weights, within a budget.

A member is an experiment with all its models, since a model only predicts the test videos of its
own fold. Weights come from greedy selection with replacement (Caruana et al., "Ensemble Selection
from Libraries of Models", 2004) on validation videos, which no model and no calibration has seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from unmask.evaluation.predictions import is_fake, measure_with_intervals
from unmask.evaluation.results import EnsembleMetrics
from unmask.inference.records import ScoringSpeed
from unmask.vocabulary import Role

Floats = NDArray[np.float64]

KEY = ["fold", "part", "video"]
_ROUNDS = 20
# A smaller gain in log loss than this could not be seen on a test set.
_GAIN = 1e-4


@dataclass(frozen=True)
class Cost:
    """The cost of an experiment's models on Kaggle."""

    bytes: int  # of the weights of all models, as float16
    seconds: float  # of all networks for the crops of one video


def sum_costs(speeds: Sequence[ScoringSpeed], crops: int) -> dict[str, Cost]:
    """Return the cost of each experiment, with a number of crops per video."""
    costs: dict[str, Cost] = {}
    for one in speeds:
        known = costs.get(one.experiment, Cost(0, 0.0))
        seconds = known.seconds + crops * one.seconds_per_crop
        costs[one.experiment] = Cost(known.bytes + one.bytes, seconds)
    return costs


def choose_members(
    log_odds: Mapping[str, Floats],
    labels: Floats,
    costs: Mapping[str, Cost],
    budget: Cost,
) -> dict[str, float]:
    """Return the weights of the experiments whose weighted mean log-odds have the lowest log loss.

    Args:
        log_odds: held-out log-odds of the same videos, float64 (n,), by experiment.
        labels: float64 (n,), 1 for FAKE.
        costs: of each experiment.
        budget: upper limit of the cost of all members together.

    Returns:
        Weights that sum to 1, by experiment; empty if no experiment fits the budget.
    """
    signs = np.where(labels == 1, 1.0, -1.0)
    chosen: Counter[str] = Counter()
    total, lowest = np.zeros(len(labels)), np.inf
    for number in range(1, _ROUNDS + 1):
        losses = {
            name: float(np.logaddexp(0, -signs * (total + log_odds[name]) / number).mean())
            for name in sorted(log_odds)
            if _fits({*chosen, name}, costs, budget)
        }
        if not losses:
            return {}
        best = min(losses, key=lambda name: losses[name])
        if losses[best] > lowest - _GAIN:
            break
        chosen[best] += 1
        total += log_odds[best]
        lowest = losses[best]
    return {name: count / chosen.total() for name, count in sorted(chosen.items())}


def _fits(members: set[str], costs: Mapping[str, Cost], budget: Cost) -> bool:
    return (
        sum(costs[name].bytes for name in members) <= budget.bytes
        and sum(costs[name].seconds for name in members) <= budget.seconds
    )


def build_ensemble(
    predictions: Mapping[str, pd.DataFrame],
    costs: Mapping[str, Cost],
    budget: Cost,
    resamples: int,
) -> EnsembleMetrics | None:
    """Choose, weight and measure an ensemble; None without a common fold or a fitting member.

    The test videos of a fold are predicted with weights from its own validation videos. Weights
    from all folds have seen these test videos, which are validation videos of another fold.

    Args:
        predictions: rows of `unmask.tables.PREDICTIONS`, by experiment.
        costs: of each experiment.
        budget: upper limit of the cost of all members together.
        resamples: of whole groups, for intervals.
    """
    folds = set.intersection(*(set(rows["fold"]) for rows in predictions.values()))
    if not folds:
        return None
    common = next(iter(predictions.values()))
    common = common[common["fold"].isin(folds)].drop(columns=["logit", "log_odds", "probability"])
    log_odds = {
        name: common[KEY].merge(rows, on=KEY, how="left")["log_odds"].to_numpy()
        for name, rows in predictions.items()
    }
    labels, fold = is_fake(common), common["fold"].to_numpy()

    def choose(rows: NDArray[np.bool_]) -> dict[str, float]:
        of_rows = {name: values[rows] for name, values in log_odds.items()}
        return choose_members(of_rows, labels[rows], costs, budget)

    val = (common["role"] == Role.VAL).to_numpy()
    weights = choose(val)
    if not weights:
        return None
    weights_of_folds = {int(one): choose(val & (fold == one)) for one in sorted(folds)}
    averaged = np.zeros(len(common))
    for one, of_fold in weights_of_folds.items():
        for name, weight in of_fold.items():
            averaged += np.where(fold == one, weight * log_odds[name], 0)
    predicted = common.assign(logit=averaged, probability=expit(averaged))
    return EnsembleMetrics(
        weights=weights,
        weights_of_folds=weights_of_folds,
        bytes=sum(costs[name].bytes for name in weights),
        seconds_per_video=sum(costs[name].seconds for name in weights),
        test=measure_with_intervals(predicted[~val], resamples),
    )
