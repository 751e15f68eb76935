"""Calibration: from a video's logit to a probability that can be bet on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

# How far slope and intercept are expected to be from 1 and 0, before any video is seen.
_PRIOR_STD = 0.5
_NO_SLOPE = 1e-3


@dataclass(frozen=True)
class Calibration:
    """A Platt calibration: probability = sigmoid(slope * logit + intercept).

    Attributes:
        slope: not negative; 1 with intercept 0 leaves logits as they are.
        intercept: in logits.
        prior: share of FAKE among the videos it was fitted on, the answer where there is no face.
    """

    slope: float
    intercept: float
    prior: float

    def log_odds(
        self, logits: NDArray[np.float64], prior: float | None = None
    ) -> NDArray[np.float64]:
        """Return the calibrated log-odds of FAKE.

        Args:
            logits: float64 (n,); NaN where a video has no face, which answers with the prior.
            prior: share of FAKE to assume instead of the one fitted on. The odds are multiplied by
                the ratio of prior odds (Saerens et al., 2002).
        """
        shift = 0.0 if prior is None else log_odds(prior) - log_odds(self.prior)
        calibrated = self.slope * logits + self.intercept
        return np.where(np.isnan(logits), log_odds(self.prior), calibrated) + shift

    def probability(
        self, logits: NDArray[np.float64], prior: float | None = None
    ) -> NDArray[np.float64]:
        """Return the calibrated probability of FAKE; see `log_odds`."""
        return np.asarray(expit(self.log_odds(logits, prior)), np.float64)


def log_odds(probability: float) -> float:
    """Return log(p / (1 - p))."""
    return math.log(probability / (1 - probability))


def identity(prior: float) -> Calibration:
    """Return the calibration that changes nothing of logits that assume `prior`."""
    return Calibration(slope=1.0, intercept=0.0, prior=prior)


def smoothed_prior(labels: NDArray[np.float64]) -> float:
    """Return the share of FAKE by Laplace's rule of succession, never 0 or 1."""
    return float((labels.sum() + 1) / (len(labels) + 2))


def fit_platt(logits: NDArray[np.float64], labels: NDArray[np.float64]) -> Calibration:
    """Fit slope and intercept on the videos of the select role.

    The targets are Platt's (1999): (n1 + 1) / (n1 + 2) for the n1 FAKE videos and 1 / (n0 + 2) for
    the n0 REAL ones. Slope and intercept have a Gaussian prior around 1 and 0, that is, around no
    change: a dozen videos can hardly move them, hundreds outweigh it. A slope that ends at 0 means
    that the scores carry nothing, and the prior is answered.

    Args:
        logits: float64 (n,), without NaN.
        labels: float64 (n,), 1 for FAKE.
    """
    fakes, reals = labels.sum(), len(labels) - labels.sum()
    prior = smoothed_prior(labels)
    if fakes == 0 or reals == 0:
        return Calibration(slope=0.0, intercept=log_odds(prior), prior=prior)
    targets = np.where(labels == 1, (fakes + 1) / (fakes + 2), 1 / (reals + 2))

    def cost(parameters: NDArray[np.float64]) -> float:
        slope, intercept = parameters
        calibrated = slope * logits + intercept
        cross_entropy = np.logaddexp(0, calibrated) - targets * calibrated
        penalty = ((slope - 1) ** 2 + intercept**2) / (2 * _PRIOR_STD**2)
        return float(cross_entropy.sum() + penalty)

    fitted = minimize(cost, x0=(1.0, 0.0), method="L-BFGS-B", bounds=[(0, None), (None, None)])
    slope, intercept = (float(value) for value in fitted.x)
    if slope < _NO_SLOPE:
        return Calibration(slope=0.0, intercept=log_odds(prior), prior=prior)
    return Calibration(slope=slope, intercept=intercept, prior=prior)
