"""The list of experiments shows what will be trained, and whether it can be."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
from safetensors.torch import save_file

from unmask.audits.metadata import MetadataCounts
from unmask.config import Config, Mixture, TrainingConfig
from unmask.config_files import load_config
from unmask.errors import UnmaskError
from unmask.files import write_json
from unmask.training.experiments import check_batches, check_experiments, describe_experiments
from unmask.videos.originals import OriginalCounts


@pytest.fixture
def config() -> Config:
    return load_config(
        {
            "training": {"backbone": "test_vit", "weights": "none", "image_size": 64},
            "kaggle": {"max_bytes": 2_000_000},
            "experiments": {
                "one": {},
                "many": {"folds": [0, 1, 2], "seeds": [1, 2], "tune": "norm"},
            },
        }
    )


def test_the_list_names_sizes_models_and_their_share_of_the_budget(config: Config) -> None:
    header, one, many, budget, warning = describe_experiments(config).splitlines()
    parameters = sum(
        value.numel()
        for value in timm.create_model("test_vit", num_classes=1, img_size=64).parameters()
    )
    assert header.split()[:3] == ["experiment", "backbone", "parameters"]
    assert f"{parameters / 1e6:.2f} M" in one
    assert f"{2 * parameters / 1e6:.1f} MB" in one
    assert "1 x 1" in one
    assert "3 x 2" in many
    # float16, but for the smallest tensors, which have 5 % of the weights and stay float32.
    for line, models in ((one, 1), (many, 6)):
        share = float(line.split()[-1].rstrip("%")) / 100
        assert 2 < share * 2_000_000 / models / parameters < 2.11
    assert "2,000,000" in budget
    assert warning.startswith("many: too large")


def test_the_table_has_the_size_of_every_model(config: Config, tmp_path: Path) -> None:
    check_experiments(config, tmp_path / "experiments.csv")
    table = pd.read_csv(tmp_path / "experiments.csv").set_index("name")
    assert table["folds"].to_dict() == {"one": 1, "many": 3}
    assert table.loc["one", "trained"] == table.loc["one", "parameters"]
    assert 0 < table.loc["many", "trained"] < 0.05 * table.loc["many", "parameters"]


def test_an_experiment_that_cannot_be_created_is_named(config: Config, tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.safetensors")
    for values, message in [
        ({"backbone": "test_vitt"}, "experiment new: training.backbone: .*mean 'test_vit"),
        ({"augment": [{"Blurr": {}}]}, "experiment new: training.augment: .*Blurr"),
        ({"loss": "focal"}, "experiment new: training.loss: .*'focal'"),
        ({"weights": str(tmp_path / "resnet.safetensors")}, "experiment new: .* does not fit"),
        ({"backbone": "inception_v3"}, "experiment new: training.image_size: .* 64 x 64 .* 299"),
        ({"backbone": "crossvit_9_240"}, "experiment new: training.image_size: .* 64 x 64 .* 240"),
    ]:
        changed = load_config(
            {**config.model_dump(exclude_unset=True), "experiments": {"one": {}, "new": values}}
        )
        with pytest.raises(UnmaskError, match=message):
            check_experiments(changed, tmp_path / "experiments.csv")
        assert not (tmp_path / "experiments.csv").exists()


@pytest.mark.parametrize(
    ("batches", "fakes", "pairs"),
    [
        ("paired", 3, 0),
        ("plain", 0, 0),
        ("balanced", 0, 0),
        (Mixture(pairs=1), 3, 0),
        (Mixture(unpaired=1), 3, 3),
    ],
)
def test_batches_without_anything_to_show_are_refused(batches: Any, fakes: int, pairs: int) -> None:
    with pytest.raises(UnmaskError, match=rf"training\.batches: .*{pairs} of {fakes} FAKE"):
        check_batches(TrainingConfig(batches=batches), fakes, pairs)
    check_batches(TrainingConfig(batches="auto"), fakes, pairs)


def test_paired_batches_say_how_many_fakes_they_leave_out(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    originals = OriginalCounts(50, 8, 265, 0, 0, [])
    write_json(MetadataCounts(77, 323, 0, 244, originals), tmp_path / "metadata.json")
    experiments = {"experiments": {"one": {"batches": "paired"}}}
    paired = load_config({**config.model_dump(exclude_unset=True), **experiments})
    check_experiments(paired, tmp_path / "experiments.csv", tmp_path / "metadata.json")
    assert "58 of 323 FAKE" in caplog.text
