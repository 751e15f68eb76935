"""Calibration: from a video's logit to a calibrated probability of FAKE.

Everything is fitted at even odds of FAKE and REAL: fitted logits assume them, and weights give both
labels the same sum. docs/decisions/030 states the rules, and a simulation of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logit

Floats = NDArray[np.float64]

# A calibration or a clip replaces none if the labels are 20 times as likely with it.
_EVIDENCE = math.log(20)
# Standard deviations of the Gaussian prior of slope and intercept around 1 and 0. Scores are more
# often too confident than too cautious, above all on videos of other sources.
_SLOPE_STD_BELOW, _SLOPE_STD_ABOVE, _INTERCEPT_STD = 1.0, 0.2, 2.0
_NO_SLOPE = 1e-3
_CLIPS = np.geomspace(1e-4, 0.3, 100)


@dataclass(frozen=True)
class Calibration:
    """A function from a video's logit, at even odds, to calibrated log-odds of FAKE.

    Attributes:
        slope: not negative; slope 1 with intercept 0 leaves logits unchanged.
        intercept: in logits.
        prior: share of FAKE that predictions assume; predicted where there is no face.
        clip: probabilities at even odds are kept within [clip, 1 - clip].
        knots: pairs of logit and log-odds of an isotonic calibration: linear between them, constant
            beyond. Empty if slope and intercept are used.
    """

    slope: float
    intercept: float
    prior: float
    clip: float = 0.0
    knots: list[tuple[float, float]] = field(default_factory=list)

    @property
    def method(self) -> str:
        """Return what it is: none, line or isotonic."""
        if self.knots:
            return "isotonic"
        return "none" if (self.slope, self.intercept) == (1, 0) else "line"

    def log_odds(self, logits: Floats, prior: float | None = None) -> Floats:
        """Return the calibrated log-odds of FAKE, float64 (n,).

        Args:
            logits: float64 (n,), at even odds; NaN for a video without a face.
            prior: share of FAKE to assume instead of `self.prior`. Its odds multiply those of the
                video (Saerens et al., 2002).
        """
        if self.knots:
            known, odds = zip(*self.knots, strict=True)
            calibrated = np.interp(logits, known, odds)
        else:
            calibrated = self.slope * logits + self.intercept
        calibrated = clip_log_odds(np.where(np.isnan(logits), 0, calibrated), self.clip)
        return calibrated + float(logit(self.prior if prior is None else prior))


def clip_log_odds(values: Floats, clip: float) -> Floats:
    """Return log-odds whose probabilities are within [clip, 1 - clip]; 0 clips nothing."""
    return np.clip(values, logit(clip), logit(1 - clip))


def log_losses(labels: Floats, predicted: Floats) -> Floats:
    """Return the log loss of each predicted log-odds, float64 (n,)."""
    return np.asarray(np.logaddexp(0, (1 - 2 * labels) * predicted))


def balanced_weights(
    labels: Floats, groups: NDArray[np.object_], sources: NDArray[np.object_]
) -> Floats:
    """Return the weight of each video in a fit, float64 (n,).

    Both labels have the same sum, a source has a share that grows with the square root of its
    groups, and the videos of a group count as one. The sum of all weights is the effective number
    of groups (Kish, "Survey Sampling", 1965), at most four times that of the rarer label.

    Args:
        labels: float64 (n,), 1 for FAKE; both labels must occur.
        groups: (n,), the group of each video.
        sources: (n,), its source.
    """
    weights, effective = np.zeros(len(labels)), []
    for label in (0, 1):
        rows = labels == label
        source = np.unique(sources[rows], return_inverse=True)[1]
        names = np.stack([source, np.unique(groups[rows], return_inverse=True)[1]])
        cells, first, cell = np.unique(names, axis=1, return_index=True, return_inverse=True)[:3]
        cell = cell.reshape(-1)
        of_cell = np.bincount(cells[0])[source[first]] ** -0.5
        weights[rows] = of_cell[cell] / np.bincount(cell)[cell] / of_cell.sum()
        effective.append(of_cell.sum() ** 2 / (of_cell**2).sum())
    return np.asarray(weights * 2 / (1 / effective[0] + 1 / effective[1]))


def fit_none(logits: Floats, labels: Floats, weights: Floats) -> Calibration:
    """Return the identity."""
    return Calibration(slope=1.0, intercept=0.0, prior=0.5)


def fit_platt(logits: Floats, labels: Floats, weights: Floats) -> Calibration:
    """Fit slope and intercept (Platt, 1999).

    Both have a Gaussian prior around no change, which is narrower above a slope of 1 than below. A
    slope of 0 means that the scores carry no information.

    Args:
        logits: float64 (n,), without NaN.
        labels: float64 (n,), 1 for FAKE.
        weights: float64 (n,), see `balanced_weights`.
    """
    return _fit_line(logits, labels, weights, intercept=True)


def fit_temperature(logits: Floats, labels: Floats, weights: Floats) -> Calibration:
    """Fit the slope alone (Guo et al., 2017), with the prior of `fit_platt`."""
    return _fit_line(logits, labels, weights, intercept=False)


def fit_auto(logits: Floats, labels: Floats, weights: Floats) -> Calibration:
    """Return `fit_platt` if the labels are 20 times as likely with it as without, else identity."""
    fitted = fit_platt(logits, labels, weights)
    gain = weights @ (log_losses(labels, logits) - log_losses(labels, fitted.log_odds(logits)))
    evidence = gain - _penalty(fitted.slope, fitted.intercept)
    return fitted if evidence > _EVIDENCE else fit_none(logits, labels, weights)


def _fit_line(logits: Floats, labels: Floats, weights: Floats, intercept: bool) -> Calibration:
    def cost(parameters: Floats) -> float:
        slope, offset = parameters
        losses = log_losses(labels, slope * logits + offset)
        return float(weights @ losses) + _penalty(slope, offset)

    bounds = [(0, None), (None, None) if intercept else (0, 0)]
    fitted = minimize(cost, x0=(1.0, 0.0), method="L-BFGS-B", bounds=bounds)
    slope, offset = (float(value) for value in fitted.x)
    return Calibration(slope if slope > _NO_SLOPE else 0.0, offset, prior=0.5)


def _penalty(slope: float, intercept: float) -> float:
    """Return the negative log-density of the prior, 0 at its mode."""
    std = _SLOPE_STD_BELOW if slope < 1 else _SLOPE_STD_ABOVE
    return ((slope - 1) / std) ** 2 / 2 + (intercept / _INTERCEPT_STD) ** 2 / 2


def fit_isotonic(logits: Floats, labels: Floats, weights: Floats) -> Calibration:
    """Fit the best non-decreasing function (scikit-learn); needs hundreds of videos.

    Probabilities are kept within [1 / (n + 2), 1 - 1 / (n + 2)], by Laplace's rule of succession,
    where n is the sum of the weights.
    """
    from sklearn.isotonic import IsotonicRegression  # a Kaggle image may lack it

    fitted = IsotonicRegression(out_of_bounds="clip").fit(logits, labels, weights)
    smallest = 1 / (weights.sum() + 2)
    odds = logit(np.clip(fitted.y_thresholds_, smallest, 1 - smallest))
    knots = list(zip(fitted.X_thresholds_.tolist(), odds.tolist(), strict=True))
    return Calibration(slope=1.0, intercept=0.0, prior=0.5, knots=knots)


CALIBRATIONS: dict[str, Callable[[Floats, Floats, Floats], Calibration]] = {
    "auto": fit_auto,
    "none": fit_none,
    "temperature": fit_temperature,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


def fit_calibration(how: str, logits: Floats, labels: Floats, weights: Floats) -> Calibration:
    """Fit one of `CALIBRATIONS`; videos of a single label give the identity."""
    both = len(np.unique(labels)) == 2
    return CALIBRATIONS[how if both else "none"](logits, labels, weights)


def fit_clip(predicted: Floats, labels: Floats, weights: Floats) -> float:
    """Return the clip with the lowest log loss if labels are 20 times as likely with it, else 0.

    If a share e of fully confident predictions is wrong, clipping at e has the lowest loss.

    Args:
        predicted: float64 (n,), log-odds at even odds by a calibration that did not see the video.
        labels: float64 (n,), 1 for FAKE.
        weights: float64 (n,), see `balanced_weights`.
    """
    clips = [0.0, *_CLIPS]
    losses = [weights @ log_losses(labels, clip_log_odds(predicted, clip)) for clip in clips]
    best = int(np.argmin(losses))
    return float(clips[best]) if losses[0] - losses[best] > _EVIDENCE else 0.0
