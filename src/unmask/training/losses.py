"""Losses, and the share of FAKE that each assumes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def smoothed(targets: Tensor, smoothing: float) -> Tensor:
    """Return float targets (n,) moved from 0 and 1 to `smoothing` and 1 - `smoothing`."""
    return targets * (1 - 2 * smoothing) + smoothing


def class_weights(targets: Tensor, sums: Tensor) -> Tensor:
    """Return weights (n,) by which the losses of crops become the two-sided mean.

    That is the mean of the mean loss of REAL crops and the mean loss of FAKE ones. Its minimum
    assumes one half FAKE, whatever the batches hold. A crop with a soft target belongs to both.

    Args:
        targets: float (n,), the probability that each crop is FAKE.
        sums: float (2,), the sum of 1 - `targets` and that of `targets` over all devices.
    """
    real, fake = sums.clamp_min(torch.finfo(sums.dtype).eps)
    weights: Tensor = 0.5 * ((1 - targets) / real + targets / fake)
    return weights


def binary_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of the binary cross-entropies of logits (n,) and targets (n,)."""
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (weights * losses).sum()


def prior_shift(trained: float, wanted: float) -> float:
    """Return what moves a logit from one share of FAKE to another: the difference of log-odds.

    Bayes' rule for a change of priors (Saerens et al., 2002).

    Args:
        trained: share of FAKE that the logits assume; one half for balanced batches or loss.
        wanted: share of FAKE that they shall assume.
    """
    return math.log(wanted / (1 - wanted)) - math.log(trained / (1 - trained))
