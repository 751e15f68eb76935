"""The file of a trained model: safetensors with a description in their metadata.

The metadata names the backbone and its preprocessing, so that scoring and the Kaggle bundle load it
without a configuration. This module imports neither Lightning nor albumentations, which a Kaggle
image may lack.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unmask.config import Precision
from unmask.errors import UnmaskError
from unmask.training.backbones import ModelInput, create_network, one_line

_METADATA_KEY = "unmask"
_SCALE = "::scale"
_STEPS = 127
# Statistics, biases and depthwise convolutions: rounding them changes predictions as much as
# rounding all other weights.
_EXACT_SHARE = 0.05


@dataclass(frozen=True)
class _Kind:
    """Shape of a tensor, and whether it is a counter (int64) instead of weights (float32)."""

    shape: Sequence[int]
    counts: bool

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def _exact(tensors: Mapping[str, _Kind]) -> set[str]:
    """Return the names of the smallest tensors with 5 % of all weights, which stay float32."""
    weights = {name: kind.size for name, kind in tensors.items() if not kind.counts}
    left, names = _EXACT_SHARE * sum(weights.values()), set()
    for name, size in sorted(weights.items(), key=lambda pair: (pair[1], pair[0])):
        left -= size
        if left < 0:
            break
        names.add(name)
    return names


def _kinds(network: nn.Module) -> dict[str, _Kind]:
    state: dict[str, Tensor] = network.state_dict()
    return {name: _Kind(one.shape, not one.is_floating_point()) for name, one in state.items()}


def _bytes(tensors: Mapping[str, _Kind], precision: Precision) -> int:
    exact = set(tensors) if precision == "float32" else _exact(tensors)

    def bytes_of(name: str, kind: _Kind) -> int:
        if kind.counts:
            return 8 * kind.size
        if name in exact:
            return 4 * kind.size
        return 2 * kind.size if precision == "float16" else kind.size + 4 * kind.shape[0]

    return sum(bytes_of(*one) for one in tensors.items())


def half_bytes(network: nn.Module) -> int:
    """Return the bytes of a network's weights in a bundle, as float16."""
    return _bytes(_kinds(network), "float16")


def saved_bytes(path: Path, precision: Precision) -> int:
    """Return the bytes that a model saved as float32 takes in another precision.

    Raises:
        UnmaskError: the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            tensors = {
                name: _Kind(one.get_shape(), not one.get_dtype().startswith("F"))
                for name, one in slices.items()
            }
    except (OSError, SafetensorError) as error:
        raise UnmaskError(f"{path}: not a model of unmask ({one_line(error)})") from None
    return _bytes(tensors, precision)


def save_model(
    model: nn.Module, model_input: ModelInput, path: Path, precision: Precision = "float32"
) -> None:
    """Write a model as safetensors with its description in the metadata.

    Args:
        model: the trained network.
        model_input: its input, and the name of its backbone.
        path: the file.
        precision: of all but the smallest tensors, which stay float32. `int8` has 255 steps,
            symmetric about 0, and a scale for each output channel (Krishnamoorthi, "Quantizing deep
            convolutional networks for efficient inference", 2018, section 3.1).
    """
    state: dict[str, Tensor] = {}
    kinds = _kinds(model)
    exact = _exact(kinds)
    for name, value in model.state_dict().items():
        weights = value.detach().cpu().contiguous()
        if precision == "float32" or kinds[name].counts or name in exact:
            state[name] = weights
        elif precision == "float16":
            state[name] = weights.half()
        else:
            state[name], state[name + _SCALE] = _quantized(weights)
    save_file(state, path, metadata={_METADATA_KEY: json.dumps(asdict(model_input))})


def _quantized(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 steps of weights (out, ...), and the float32 scale of each output channel."""
    scale = weights.abs().amax(tuple(range(1, weights.ndim)), keepdim=True) / _STEPS
    scale = scale.clamp_min(torch.finfo(torch.float32).tiny)
    return (weights / scale).round().to(torch.int8), scale


def load_model(path: Path) -> tuple[nn.Module, ModelInput]:
    """Load a model that `save_model` wrote, as float32, in evaluation mode.

    Raises:
        UnmaskError: the file is damaged, or not a model of this project.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        described = json.loads(metadata[_METADATA_KEY])
        stored = load_file(path)
        scales = {key: stored.pop(key) for key in list(stored) if key.endswith(_SCALE)}
        state = {
            key: value.float() if value.is_floating_point() else value
            for key, value in stored.items()
        }
        for key, scale in scales.items():
            weights = key.removesuffix(_SCALE)
            state[weights] = state[weights].float() * scale
        model_input = ModelInput(
            described["backbone"],
            described["size"],
            tuple(described["mean"]),
            tuple(described["std"]),
            described["interpolation"],
            described["margin"],
        )
        model = create_network(model_input.backbone, model_input.size, False, {"num_classes": 1})
        model.load_state_dict(state, strict=True)
    except Exception as error:  # absent metadata, a missing tensor, a damaged file
        raise UnmaskError(
            f"{path}: not a model of unmask ({one_line(error)}); train or export again"
        ) from None
    return model.eval(), model_input
