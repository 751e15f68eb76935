"""Optimisation: what is minimised, by which steps, and at which rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from unmask.config import TrainingConfig

_MOMENTUM = 0.9


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


def create_optimizer(network: nn.Module, config: TrainingConfig) -> Optimizer:
    """Return AdamW or SGD over what has gradients; biases and norms do not decay."""
    exempt: Callable[[], Collection[str]] = getattr(network, "no_weight_decay", tuple)
    groups = param_groups_weight_decay(
        network, config.weight_decay, no_weight_decay_list=tuple(exempt())
    )
    if config.optimizer == "sgd":
        return SGD(groups, config.learning_rate, momentum=_MOMENTUM, nesterov=True)
    return AdamW(groups, config.learning_rate)


def create_schedule(optimizer: Optimizer, config: TrainingConfig, steps: int) -> LambdaLR:
    """Return a linear warm-up and a decay to zero, over so many steps of the optimizer."""
    warmup = max(1, round(config.warmup * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return _DECAYS[config.schedule](progress)

    return LambdaLR(optimizer, factor)


_DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "poly": lambda progress: 1 - progress,
}


def sharpness_aware(
    closure: Callable[[], Any], parameters: Sequence[Tensor], radius: float
) -> Callable[[], Any]:
    """Return a closure that leaves the gradients of sharpness-aware minimisation.

    The gradients are those at w + radius g / |g|, where g are the gradients at w (Foret et al.,
    2021, equation 2); the weights are put back to the last bit. The scale of g cancels, so it works
    under a gradient scaler. Statistics of batch norms move with the first pass alone.

    Args:
        closure: computes the loss of a batch and its gradients.
        parameters: that the optimizer steps.
        radius: rho in the paper.

    Returns:
        A closure that returns the loss at w.
    """

    def ascend_and_evaluate() -> Any:
        loss = closure()
        with torch.no_grad():
            moved = [one for one in parameters if one.grad is not None]
            before = [one.clone() for one in moved]
            gradients = [one.grad for one in moved if one.grad is not None]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            steps = torch._foreach_mul(gradients, radius / (norm + 1e-12))
            torch._foreach_add_(moved, steps)
        closure()
        with torch.no_grad():
            torch._foreach_copy_(moved, before)
        return loss

    return ascend_and_evaluate


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norms as they are."""
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
