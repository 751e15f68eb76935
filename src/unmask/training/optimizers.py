"""Optimisers, learning rates, and sharpness-aware minimisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from unmask.config import TrainingConfig

_MOMENTUM = 0.9


def create_optimizer(network: nn.Module, config: TrainingConfig) -> Optimizer:
    """Return AdamW or SGD over the weights with gradients; biases and norms do not decay."""
    exempt: Callable[[], Collection[str]] = getattr(network, "no_weight_decay", tuple)
    groups = param_groups_weight_decay(
        network, config.weight_decay, no_weight_decay_list=tuple(exempt())
    )
    if config.optimizer == "sgd":
        return SGD(groups, config.learning_rate, momentum=_MOMENTUM, nesterov=True)
    return AdamW(groups, config.learning_rate)


def create_schedule(optimizer: Optimizer, config: TrainingConfig, steps: int) -> LambdaLR:
    """Return a linear warm-up and a decay to zero over `steps` steps of the optimizer."""
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
    """Return a closure that computes the gradients of sharpness-aware minimisation.

    They are the gradients at w + radius g / |g|, where g are the gradients at w (Foret et al.,
    2021, equation 2); the weights are restored to the last bit. The scale of g cancels, so it works
    under a gradient scaler.

    Args:
        closure: computes the loss of a batch and its gradients.
        parameters: of the optimizer.
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
    """Freeze the running statistics of batch norms."""
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
