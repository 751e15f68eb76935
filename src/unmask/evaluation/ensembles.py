"""Ensembles: which experiments answer together, with which weights, within a budget.

Members are experiments with all their models, since each fold's models report on their own fold.
Weights are those of greedy selection with replacement (Caruana et al., "Ensemble Selection from
Libraries of Models", 2004) on answers that are held out twice: the models were not trained on these
videos, and the calibration was not fitted on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from unmask.vocabulary import Label, Role

Floats = NDArray[np.float64]

KEY = ["fold", "part", "video"]
_ROUNDS = 20
# A round that gains less than this changes nothing that a test set could show.
_GAIN = 1e-4


@dataclass(frozen=True)
class Cost:
    """What an experiment's models cost on Kaggle.

    Attributes:
        size: bytes of all of them, as float16.
        seconds: of all of them for the crops of one video.
    """

    size: int
    seconds: float


def choose_members(
    answers: Mapping[str, Floats],
    labels: Floats,
    costs: Mapping[str, Cost],
    budget: Cost,
) -> dict[str, float]:
    """Return the weights of the experiments whose mean log-odds answer best.

    Args:
        answers: experiment to held-out log-odds, float64 (n,), of the same videos.
        labels: float64 (n,), 1 for FAKE.
        costs: of each experiment.
        budget: what all members together may cost.

    Returns:
        Experiment to weight; weights sum to 1. Empty where not one fits the budget.
    """
    signs = np.where(labels == 1, 1.0, -1.0)
    chosen: Counter[str] = Counter()
    together, lowest = np.zeros(len(labels)), np.inf
    for number in range(1, _ROUNDS + 1):
        losses = {
            name: float(np.logaddexp(0, -signs * (together + answers[name]) / number).mean())
            for name in sorted(answers)
            if _fits({*chosen, name}, costs, budget)
        }
        if not losses:
            return {}
        best = min(losses, key=lambda name: losses[name])
        if losses[best] > lowest - _GAIN:
            break
        chosen[best] += 1
        together += answers[best]
        lowest = losses[best]
    return {name: count / chosen.total() for name, count in sorted(chosen.items())}


def _fits(members: set[str], costs: Mapping[str, Cost], budget: Cost) -> bool:
    return (
        sum(costs[name].size for name in members) <= budget.size
        and sum(costs[name].seconds for name in members) <= budget.seconds
    )


@dataclass(frozen=True)
class Ensemble:
    """An ensemble and its honest answers.

    Attributes:
        weights: of each experiment, chosen on the select roles of all folds: what is shipped.
        weights_of_folds: fold to those chosen on that fold's select role alone.
        predictions: rows of `unmask.tables.PREDICTIONS` of the report role. Each fold is answered
            with its own weights, which have not seen it; those of all folds have, since one fold's
            report role is another's select role.
    """

    weights: dict[str, float]
    weights_of_folds: dict[int, dict[str, float]]
    predictions: pd.DataFrame


def build_ensemble(
    predictions: Mapping[str, pd.DataFrame], costs: Mapping[str, Cost], budget: Cost
) -> Ensemble | None:
    """Choose and weigh the members of an ensemble; None where no fold is common or nothing fits.

    Args:
        predictions: experiment to rows of `unmask.tables.PREDICTIONS`.
        costs: of each experiment.
        budget: what all members together may cost.
    """
    folds = set.intersection(*(set(rows["fold"]) for rows in predictions.values()))
    if not folds:
        return None
    common = next(iter(predictions.values()))
    common = common[common["fold"].isin(folds)].drop(columns=["logit", "log_odds", "probability"])
    answers = {
        name: common[KEY].merge(rows, on=KEY, how="left")["log_odds"].to_numpy()
        for name, rows in predictions.items()
    }
    labels = np.asarray(common["label"] == Label.FAKE, np.float64)

    def choose(rows: NDArray[np.bool_]) -> dict[str, float]:
        seen = {name: values[rows] for name, values in answers.items()}
        return choose_members(seen, labels[rows], costs, budget)

    select = (common["role"] == Role.VAL).to_numpy()
    weights = choose(select)
    if not weights:
        return None
    fold = common["fold"].to_numpy()
    of_folds = {int(one): choose(select & (fold == one)) for one in sorted(folds)}
    log_odds = np.zeros(len(common))
    for one, chosen in of_folds.items():
        for name, weight in chosen.items():
            log_odds += np.where(fold == one, weight * answers[name], 0)
    answered = common.assign(log_odds=log_odds, logit=log_odds, probability=expit(log_odds))
    return Ensemble(weights, of_folds, answered[~select].reset_index(drop=True))
