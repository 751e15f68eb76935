"""Heat maps point at what a network has learnt to look at."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits

from unmask.inference.saliency import heat_maps
from unmask.vocabulary import Label

SIZE, PATCH = 64, 16


def drawn(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return noise (n, 3, size, size), labels (n, 1), and where a FAKE has its checked patch."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.5 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    labels = torch.arange(count)[:, None] % 2
    corners = torch.randint(0, SIZE // PATCH, (count, 2), generator=generator) * PATCH
    inside = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    for row, (y, x) in enumerate(corners.tolist()):
        inside[row, y : y + PATCH, x : x + PATCH] = True
        if labels[row]:
            images[row, :, y : y + PATCH, x : x + PATCH] += 2
    return images, labels.float(), inside


def trained(network: nn.Module) -> nn.Module:
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for step in range(25):
        images, labels, _ = drawn(8, step)
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(network(images), labels).backward()
        optimizer.step()
    return network.eval()


class BrightestCell(nn.Module):
    """A network that timm knows nothing of."""

    def forward(self, images: Tensor) -> Tensor:
        cells = avg_pool2d(images, PATCH).mean(1)
        return cells.amax((1, 2))[:, None]


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "own"])
def test_the_heat_is_where_a_fake_was_changed(name: str) -> None:
    torch.manual_seed(0)
    options = {"img_size": SIZE} if name == "test_vit" else {}
    network: nn.Module
    if name == "own":
        network = BrightestCell()
    else:
        network = trained(timm.create_model(name, num_classes=1, **options))
    images, labels, inside = drawn(16, 1000)
    with torch.inference_mode():
        logits = network(images)
    fakes = labels[:, 0] == 1
    assert logits[fakes].mean() > logits[~fakes].mean() + 1
    maps = torch.from_numpy(heat_maps(network, images[fakes]))
    assert maps.shape == (8, SIZE, SIZE)
    assert (maps.min(), maps.max()) == (0, 1)
    share = (maps * inside[fakes]).sum() / maps.sum()
    assert share > 2 * PATCH**2 / SIZE**2


class Mean(nn.Module):
    """A network whose logit is the mean of all pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))[:, None]


def test_a_map_shows_what_speaks_for_the_label_asked_for() -> None:
    images = torch.zeros(1, 3, SIZE, SIZE)
    images[:, :, :PATCH], images[:, :, -PATCH:] = 1, -1
    fake, real = (heat_maps(Mean(), images, label)[0] for label in (Label.FAKE, Label.REAL))
    assert fake[:8].min() > 0.8
    assert not fake[32:].any()
    assert real[-8:].min() > 0.8
    assert not real[:32].any()
    assert not heat_maps(Mean(), images.clamp_min(0), Label.REAL).any()
