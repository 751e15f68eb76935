"""Losses, steps and rates follow their formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import log_loss
from torch import Tensor, nn

from unmask.config import TrainingConfig
from unmask.errors import UnmaskError
from unmask.training.backbones import create_backbone
from unmask.training.losses import Loss, class_weights, find_loss, prior_shift
from unmask.training.optimizers import (
    create_optimizer,
    create_schedule,
    frozen_statistics,
    sharpness_aware,
)

CONFIG = TrainingConfig(backbone="test_resnet", weights="none", image_size=32)


def weighted(logits: Tensor, targets: Tensor, prior: float) -> float:
    """Return the two-sided loss of a batch."""
    sums = torch.stack([(1 - targets).sum(), targets.sum()])
    losses = find_loss("two_sided").function(logits, targets)
    return float((class_weights(targets, sums, prior) * losses).sum())


def test_the_two_sided_loss_is_the_mean_of_the_two_classes_means() -> None:
    rng = np.random.default_rng(0)
    labels, logits = np.repeat([1.0, 0.0], [13, 3]), rng.normal(size=16)
    sides = [
        log_loss(labels[labels == label], expit(logits[labels == label]), labels=[0, 1])
        for label in (0, 1)
    ]
    assert find_loss("two_sided").prior == 0.5
    assert weighted(torch.tensor(logits), torch.tensor(labels), 0.5) == pytest.approx(
        np.mean(sides)
    )


def test_the_two_sided_loss_of_one_class_is_finite() -> None:
    assert weighted(torch.zeros(4), torch.ones(4), 0.5) == pytest.approx(math.log(2) / 2)


@given(fakes=st.integers(1, 9), prior=st.floats(0.1, 0.9))
def test_the_best_constant_of_a_weighted_loss_is_its_prior(fakes: int, prior: float) -> None:
    targets = torch.tensor([0.0, 0.0] + [1.0] * fakes, dtype=torch.float64)
    best = math.log(prior / (1 - prior))
    at_prior = weighted(torch.full_like(targets, best), targets, prior)
    for logit in (best - 0.5, best + 0.5):
        assert weighted(torch.full_like(targets, logit), targets, prior) > at_prior


def squared(logits: Tensor, targets: Tensor) -> Tensor:
    return ((logits.sigmoid() - targets) ** 2).mean()


def test_a_loss_may_be_a_function_elsewhere() -> None:
    assert find_loss(f"{__name__}:squared") == Loss(squared)
    assert find_loss("unmask.training.losses:two_sided").prior == 0.5


@pytest.mark.parametrize("name", ["two_side", "absent:focal", "math:pi"])
def test_a_loss_that_does_not_exist_is_named(name: str) -> None:
    with pytest.raises(UnmaskError, match=f"training.loss: .*'{name}'"):
        find_loss(name)


@given(trained=st.floats(0.02, 0.98), wanted=st.floats(0.02, 0.98), p=st.floats(0.01, 0.99))
def test_a_shifted_logit_is_bayes_rule_for_another_prior(
    trained: float, wanted: float, p: float
) -> None:
    shifted = expit(math.log(p / (1 - p)) + prior_shift(trained, wanted))
    fake, real = p * wanted / trained, (1 - p) * (1 - wanted) / (1 - trained)
    assert shifted == pytest.approx(fake / (fake + real))


def test_correcting_the_prior_lowers_the_loss_where_the_share_of_fake_is_another() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(4000) < 0.84).astype(float)
    balanced = rng.normal(2 * labels - 1, 1) * 2  # the log-odds at one half FAKE
    corrected = balanced + prior_shift(0.5, 0.84)
    assert log_loss(labels, expit(corrected)) < log_loss(labels, expit(balanced)) - 0.02


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_the_rate_rises_linearly_and_falls_to_zero(schedule: str) -> None:
    config = CONFIG.model_copy(update={"schedule": schedule, "warmup": 0.2})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    rates = []
    scheduler = create_schedule(optimizer, config, 50)
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates[:10], 0.2 * np.arange(1, 11))
    progress = np.arange(40) / 40
    decay = 0.5 * (1 + np.cos(np.pi * progress)) if schedule == "cosine" else 1 - progress
    np.testing.assert_allclose(rates[10:], 2 * decay)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_norms_and_biases_do_not_decay() -> None:
    network, _ = create_backbone(CONFIG)
    optimizer = create_optimizer(network, CONFIG)
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    for parameter in network.parameters():
        assert decays[id(parameter)] == (0.01 if parameter.ndim > 1 else 0)


def test_sam_steps_with_the_gradient_of_the_sharpest_weights_nearby() -> None:
    """Foret et al. 2021, equation 2, on f(w) = sum(a w^2): the gradient is 2 a (w + e)."""
    scale, start, radius = torch.tensor([1.0, 3.0]), torch.tensor([2.0, -1.0]), 0.1
    weight = nn.Parameter(start.clone())

    def closure() -> Tensor:
        weight.grad = None
        loss = (scale * weight**2).sum()
        loss.backward()
        return loss.detach()

    loss = sharpness_aware(closure, [weight], radius)()
    gradient = 2 * scale * start
    perturbed = start + radius * gradient / gradient.norm()
    assert loss == (scale * start**2).sum()
    assert torch.equal(weight.detach(), start)
    torch.testing.assert_close(weight.grad, 2 * scale * perturbed)


def test_statistics_of_batch_norms_can_be_frozen() -> None:
    norm = nn.BatchNorm1d(3)
    with frozen_statistics(norm):
        norm(torch.randn(8, 3) + 5)
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [0, 0, 0]
    norm(torch.randn(8, 3) + 5)
    assert (norm.running_mean > 0.3).all()
