"""Saliency: which parts of a face crop move a network's logit.

A map is the gradient of the logit times the activation of one of the last layers, summed over
channels, its positive part (HiResCAM; Draelos & Carin, 2020). Where a convolutional network ends
with an average over the picture and a linear layer, that is Grad-CAM (Selvaraju et al., 2017).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradientXActivation
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from unmask.inference.predictor import FlipAverage
from unmask.vocabulary import Label

_BATCH = 16
# Cells of a map made from the gradient of pixels, along each side.
_CELLS = 14


def heat_maps(
    network: nn.Module, images: Tensor, towards: Label = Label.FAKE
) -> NDArray[np.float32]:
    """Return a heat map of each image, float32 (n, height, width) from 0 to 1.

    Networks of timm are explained at their last convolutional features or, where they are
    transformers, at the tokens that enter the last block. Other networks are explained by the
    gradient times the pixels, averaged over cells.

    Args:
        network: in evaluation mode; maps images to logits (n, 1).
        images: float32 (n, 3, height, width), normalised, on the network's device.
        towards: the label that the highlighted parts speak for.

    Returns:
        Maps whose maximum is 1; all 0 where nothing speaks for the label.
    """
    if isinstance(network, FlipAverage):
        network = network.network
    sign = 1 if towards == Label.FAKE else -1
    maps = [_evidence(network, batch) for batch in torch.split(images, _BATCH)]
    positive = (sign * torch.cat(maps).detach()).clamp_min(0)
    # From cells to pixels, before the maximum is taken: cubic interpolation overshoots.
    smooth = interpolate(positive[:, None], images.shape[2:], mode="bicubic").clamp_min(0)[:, 0]
    highest = smooth.amax((1, 2), keepdim=True)
    return (smooth / highest.where(highest > 0, 1)).cpu().numpy().astype(np.float32)


def _evidence(network: nn.Module, images: Tensor) -> Tensor:
    """Return the contribution of each cell to the logits, float32 (n, rows, columns)."""
    info = [dict(one) for one in getattr(network, "feature_info", None) or []]
    for layer in reversed(info[-2:]):
        found = _layer_evidence(network, images, str(layer["module"]))
        if not isinstance(found, Tensor):
            break
        if found.ndim == 4:  # of a convolutional network, or of windows with channels last
            return found.sum(1 if found.shape[1] == layer["num_chs"] else 3)
        if layer is not info[-1]:
            return _as_grid(found.sum(2))
        # After the last block of a transformer, only the class token reaches the logit.
    pixels = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(pixels).sum(), pixels)
    size = math.ceil(max(images.shape[2:]) / _CELLS)
    return avg_pool2d((gradient * images).sum(1, keepdim=True), size, ceil_mode=True)[:, 0]


def _layer_evidence(network: nn.Module, images: Tensor, layer: str) -> Any:
    method = LayerGradientXActivation(network, network.get_submodule(layer))
    return method.attribute(images)


def _as_grid(tokens: Tensor) -> Tensor:
    """Return values of tokens (n, prefix + side²) as (n, side, side), without class token."""
    side = math.isqrt(tokens.shape[1])
    return tokens[:, tokens.shape[1] - side * side :].reshape(-1, side, side)
