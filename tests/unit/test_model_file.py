"""A saved model is read back exactly, or to the precision that was asked for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from unmask.config import Precision, TrainingConfig
from unmask.errors import UnmaskError
from unmask.training.backbones import create_backbone
from unmask.training.model_file import half_bytes, load_model, save_model, saved_bytes

TINY = TrainingConfig(backbone="test_efficientnet", weights="none", image_size=32)


def logits(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(torch.rand(4, 3, 32, 32, generator=generator))
    return found


def test_a_saved_model_gives_the_same_logits(tmp_path: Path) -> None:
    model, model_input = create_backbone(TINY)
    model_input = replace(model_input, margin=0.125)
    save_model(model, model_input, tmp_path / "model.safetensors")
    loaded, loaded_input = load_model(tmp_path / "model.safetensors")
    assert loaded_input == model_input
    assert not loaded.training
    assert torch.equal(logits(model), logits(loaded))


def test_a_damaged_or_foreign_model_is_named(tmp_path: Path) -> None:
    model, model_input = create_backbone(TINY)
    whole, foreign = tmp_path / "whole.safetensors", tmp_path / "foreign.safetensors"
    save_model(model, model_input, whole)
    save_file(load_file(whole), foreign)
    cut, headless = tmp_path / "cut.safetensors", tmp_path / "headless.safetensors"
    cut.write_bytes(whole.read_bytes()[:-100])
    model.classifier = nn.Identity()
    save_model(model, model_input, headless)
    for path in (cut, foreign, headless, tmp_path / "absent.safetensors"):
        with pytest.raises(UnmaskError, match=f"{path.name}: not a model of unmask"):
            load_model(path)


def test_weights_of_less_precision_are_read_back_the_smallest_as_they_are(tmp_path: Path) -> None:
    exact, model_input = create_backbone(TINY)
    save_model(exact, model_input, tmp_path / "float32")
    precisions: dict[Precision, float] = {"float16": 2**-11, "int8": 0.5 / 127}
    for precision, step in precisions.items():
        save_model(exact, model_input, tmp_path / precision, precision)
        loaded, _ = load_model(tmp_path / precision)
        torch.testing.assert_close(logits(loaded), logits(exact), atol=0.05, rtol=0.05)
        stored = loaded.state_dict()
        for name, weights in exact.state_dict().items():
            largest = weights.abs().amax(tuple(range(1, weights.ndim)), keepdim=True)
            most = step * 1.001 * largest if weights.ndim > 1 else 0.0
            assert (stored[name] - weights).abs().le(most).all(), name
        written = (tmp_path / precision).stat().st_size
        assert saved_bytes(tmp_path / "float32", precision) == pytest.approx(written, rel=0.15)
    sizes = [(tmp_path / name).stat().st_size for name in ("int8", "float16", "float32")]
    assert sizes[0] < 0.8 * sizes[1] < 0.8 * 0.65 * sizes[2]
    assert half_bytes(exact) == pytest.approx(sizes[1], rel=0.15)
