"""Losses, and the share of FAKE that each assumes.

To add one, write a function here and decorate it with `loss`: `training.loss` finds it by its name.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unmask.errors import UnmaskError
from unmask.importing import import_object

# Takes logits (n,) and float targets (n,), the probability that a crop is FAKE; returns the loss of
# each crop (n,), or one for all of them.
LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Loss:
    """A loss function, and the share of FAKE that its logits assume."""

    function: LossFunction  # see `LossFunction`
    # REAL and FAKE crops are weighted so that FAKE has this share of the loss, whatever batches
    # hold; None weights all crops alike, so logits assume the share in the batches
    prior: float | None = None


_LOSSES: dict[str, Loss] = {}


def loss(prior: float | None = None) -> Callable[[LossFunction], Loss]:
    """Return a decorator that makes a function a loss, known by its name.

    Args:
        prior: see `Loss`.
    """

    def register(function: LossFunction) -> Loss:
        return _LOSSES.setdefault(function.__name__, Loss(function, prior))

    return register


def find_loss(name: str) -> Loss:
    """Return the loss that `training.loss` names: one of this module, or an import path.

    Raises:
        UnmaskError: there is no such loss.
    """
    found = import_object(name, "training.loss") if ":" in name else _LOSSES.get(name)
    if isinstance(found, Loss):
        return found
    if callable(found):
        return Loss(found)
    near = difflib.get_close_matches(name, _LOSSES, 1)
    remedy = f"did you mean '{near[0]}'?" if near else f"take {', '.join(_LOSSES)}"
    raise UnmaskError(f"training.loss: there is no loss '{name}'; {remedy}, or package.module:name")


@loss()
def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross-entropy of each crop."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")


@loss(prior=0.5)
def two_sided(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross-entropy of each crop; those of REAL and of FAKE count half each."""
    return bce.function(logits, targets)


def smoothed(targets: Tensor, smoothing: float) -> Tensor:
    """Return float targets (n,) moved from 0 and 1 to `smoothing` and 1 - `smoothing`."""
    return targets * (1 - 2 * smoothing) + smoothing


def class_weights(targets: Tensor, sums: Tensor, prior: float) -> Tensor:
    """Return weights (n,) that give FAKE crops the share `prior` of the loss, REAL crops the rest.

    A crop with a soft target belongs to both.

    Args:
        targets: float (n,), the probability that each crop is FAKE.
        sums: float (2,), the sum of 1 - `targets` and that of `targets` over all devices.
        prior: share of FAKE that the minimum of the loss then assumes.
    """
    real, fake = sums.clamp_min(torch.finfo(sums.dtype).eps)
    weights: Tensor = (1 - prior) * (1 - targets) / real + prior * targets / fake
    return weights


def prior_shift(trained: float, wanted: float) -> float:
    """Return what moves a logit from one share of FAKE to another: the difference of log-odds.

    Bayes' rule for a change of priors (Saerens et al., 2002).

    Args:
        trained: share of FAKE that the logits assume; one half for balanced batches or loss.
        wanted: share of FAKE that the shifted logits should assume.
    """
    return math.log(wanted / (1 - wanted)) - math.log(trained / (1 - trained))
