"""Calibration: from a video's logit to a calibrated probability of FAKE."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

Floats = NDArray[np.float64]

# Standard deviation of the Gaussian prior of slope and intercept around 1 and 0.
_PRIOR_STD = 0.5
_NO_SLOPE = 1e-3
_CLIPS = np.concatenate([[0.0], np.geomspace(1e-4, 0.3, 200)])


@dataclass(frozen=True)
class Calibration:
    """A function from a video's logit to calibrated log-odds of FAKE.

    Attributes:
        slope: not negative; slope 1 with intercept 0 leaves logits unchanged.
        intercept: in logits.
        prior: share of FAKE among the videos it was fitted on; predicted where there is no face.
        clip: probabilities are kept within [clip, 1 - clip].
        knots: pairs of logit and log-odds of an isotonic calibration: linear between them, constant
            beyond. Empty if slope and intercept are used.
    """

    slope: float
    intercept: float
    prior: float
    clip: float = 0.0
    knots: list[tuple[float, float]] = field(default_factory=list)

    def log_odds(self, logits: Floats, prior: float | None = None) -> Floats:
        """Return the calibrated log-odds of FAKE, float64 (n,).

        Args:
            logits: float64 (n,); NaN for a video without a face, which gets the prior.
            prior: share of FAKE to assume instead of the one fitted on. The odds are multiplied by
                the ratio of prior odds (Saerens et al., 2002).
        """
        shift = 0.0 if prior is None else log_odds(prior) - log_odds(self.prior)
        if self.knots:
            known, odds = zip(*self.knots, strict=True)
            calibrated = np.interp(logits, known, odds)
        else:
            calibrated = self.slope * logits + self.intercept
        shifted = np.where(np.isnan(logits), log_odds(self.prior), calibrated) + shift
        limit = log_odds(1 - self.clip) if self.clip else math.inf
        return np.clip(shifted, -limit, limit)

    def probability(self, logits: Floats, prior: float | None = None) -> Floats:
        """Return the calibrated probability of FAKE; see `log_odds`."""
        return np.asarray(expit(self.log_odds(logits, prior)), np.float64)


def log_odds(probability: float) -> float:
    """Return log(p / (1 - p))."""
    return math.log(probability / (1 - probability))


def identity(prior: float) -> Calibration:
    """Return the calibration that leaves logits unchanged, for logits that assume `prior`."""
    return Calibration(slope=1.0, intercept=0.0, prior=prior)


def smoothed_prior(labels: Floats) -> float:
    """Return the share of FAKE by Laplace's rule of succession, never 0 or 1."""
    return float((labels.sum() + 1) / (len(labels) + 2))


def fit_none(logits: Floats, labels: Floats) -> Calibration:
    """Return the identity, with the smoothed share of FAKE as its prior."""
    return identity(smoothed_prior(labels))


def fit_platt(logits: Floats, labels: Floats) -> Calibration:
    """Fit slope and intercept.

    The targets are Platt's (1999): (n1 + 1) / (n1 + 2) for the n1 FAKE videos and 1 / (n0 + 2) for
    the n0 REAL ones. Slope and intercept have a Gaussian prior around 1 and 0, that is, around no
    change: a dozen videos hardly move them, hundreds outweigh it. A slope of 0 means that the
    scores carry no information; the calibration then predicts the prior.

    Args:
        logits: float64 (n,), without NaN.
        labels: float64 (n,), 1 for FAKE.
    """
    return _fit_line(logits, labels, intercept=True)


def fit_temperature(logits: Floats, labels: Floats) -> Calibration:
    """Fit the slope alone (Guo et al., 2017), with the targets and the prior of `fit_platt`."""
    return _fit_line(logits, labels, intercept=False)


def _fit_line(logits: Floats, labels: Floats, intercept: bool) -> Calibration:
    fakes, reals = labels.sum(), len(labels) - labels.sum()
    prior = smoothed_prior(labels)
    constant = Calibration(slope=0.0, intercept=log_odds(prior), prior=prior)
    if fakes == 0 or reals == 0:
        return constant
    targets = np.where(labels == 1, (fakes + 1) / (fakes + 2), 1 / (reals + 2))

    def cost(parameters: Floats) -> float:
        slope, offset = parameters
        calibrated = slope * logits + offset
        cross_entropy = np.logaddexp(0, calibrated) - targets * calibrated
        penalty = ((slope - 1) ** 2 + offset**2) / (2 * _PRIOR_STD**2)
        return float(cross_entropy.sum() + penalty)

    bounds = [(0, None), (None, None) if intercept else (0, 0)]
    fitted = minimize(cost, x0=(1.0, 0.0), method="L-BFGS-B", bounds=bounds)
    slope, offset = (float(value) for value in fitted.x)
    return constant if slope < _NO_SLOPE else Calibration(slope, offset, prior)


def fit_isotonic(logits: Floats, labels: Floats) -> Calibration:
    """Fit the best non-decreasing function (scikit-learn); needs hundreds of videos.

    Probabilities are kept within [1 / (n + 2), 1 - 1 / (n + 2)], by Laplace's rule of succession.
    """
    from sklearn.isotonic import IsotonicRegression  # a Kaggle image may lack it

    prior = smoothed_prior(labels)
    if len(np.unique(labels)) < 2:
        return Calibration(slope=0.0, intercept=log_odds(prior), prior=prior)
    fitted = IsotonicRegression(out_of_bounds="clip").fit(logits, labels)
    smallest = 1 / (len(labels) + 2)
    shares = np.clip(fitted.y_thresholds_, smallest, 1 - smallest)
    knots = [
        (float(x), log_odds(float(y))) for x, y in zip(fitted.X_thresholds_, shares, strict=True)
    ]
    return Calibration(slope=1.0, intercept=0.0, prior=prior, knots=knots)


CALIBRATIONS: dict[str, Callable[[Floats, Floats], Calibration]] = {
    "none": fit_none,
    "temperature": fit_temperature,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


def best_clip(log_odds_held_out: Floats, labels: Floats) -> float:
    """Return the clip with the lowest log loss on held-out predictions.

    Half a REAL video with the highest predicted probability and half a FAKE one with the lowest are
    added (Jeffreys' prior), since n certain predictions without an error do not prove that the next
    one is right. Certain predictions of which a share e is wrong are best clipped at e.

    Args:
        log_odds_held_out: float64 (n,).
        labels: float64 (n,), 1 for FAKE.
    """
    ends = np.array([log_odds_held_out.max(), log_odds_held_out.min()])
    predicted = np.concatenate([log_odds_held_out, ends])
    signs = np.where(np.concatenate([labels, [0.0, 1.0]]) == 1, 1.0, -1.0)
    weights = np.concatenate([np.ones(len(labels)), [0.5, 0.5]])
    limits = [math.inf if clip == 0 else log_odds(1 - clip) for clip in _CLIPS]
    losses = [weights @ np.logaddexp(0, -signs * np.clip(predicted, -one, one)) for one in limits]
    return float(_CLIPS[np.argmin(losses)])
