"""A configuration is understood or refused with the key's name; its documents are complete."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from unmask.config import Config
from unmask.config_docs import config_table, config_yaml, write_config_documents
from unmask.config_files import known_keys, load_config, resolve_augment
from unmask.errors import UnmaskError


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and key not in ("experiments", "sets"):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_an_empty_configuration_is_all_defaults() -> None:
    config = load_config({})
    assert config.training.augment == resolve_augment("winner")
    training = config.training.model_copy(update={"augment": "winner"})
    assert config.model_copy(update={"training": training}) == Config()


@pytest.mark.parametrize(
    ("values", "named", "suggested"),
    [
        ({"data_rot": "x"}, "data_rot", "data_root"),
        ({"frames": {"per_vidoe": 8}}, "frames.per_vidoe", "frames.per_video"),
        ({"trainning": {}}, "trainning", "training"),
        (
            {"experiments": {"larger": {"bakbone": "resnet18"}}},
            "experiments.larger.bakbone",
            "experiments.larger.backbone",
        ),
    ],
)
def test_a_misspelt_key_is_named_and_the_right_one_suggested(
    values: dict[str, Any], named: str, suggested: str
) -> None:
    with pytest.raises(UnmaskError) as caught:
        load_config(values)
    assert f"'{named}' is not a known key" in str(caught.value)
    assert f"did you mean '{suggested}'?" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "key", "given"),
    [
        ({"frames": {"per_video": "many"}}, "frames.per_video", "'many'"),
        ({"frames": {"per_video": 0}}, "frames.per_video", "0"),
        ({"frames": 8}, "frames", "8"),
        ({"faces": {"detector": "blazeface"}}, "faces.detector", "'blazeface'"),
        ({"split": {"folds": 2}}, "split.folds", "2"),
        ({"kaggle": {"prior": 1}}, "kaggle.prior", "1"),
        ({"kaggle": {"bundle": "../elsewhere"}}, "kaggle.bundle", "'../elsewhere'"),
        ({"training": {"folds": [-1]}}, "training.folds.0", "-1"),
        ({"experiments": {"larger": {"epochs": 0}}}, "experiments.larger.epochs", "0"),
        ({"experiments": {}}, "experiments", "{}"),
        ({"experiments": {"../x": {}}}, "experiments.../x", "'../x'"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_in_one_line(
    values: dict[str, Any], key: str, given: str
) -> None:
    with pytest.raises(UnmaskError) as caught:
        load_config(values)
    assert f" {key}: " in str(caught.value)
    assert str(caught.value).endswith(f"not {given}")
    assert "\n" not in str(caught.value)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(UnmaskError, match=r"seed: .*; frames\.keep: "):
        load_config({"seed": -1, "frames": {"keep": "perhaps"}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training": {"folds": [5]}}, "fold 5 does not exist, split.folds is 5"),
        (
            {"split": {"folds": 3}, "experiments": {"all": {"folds": [0, 3]}}},
            "experiments.all.folds: fold 3 does not exist, split.folds is 3",
        ),
        (
            {"split": {"file": "official"}, "experiments": {"all": {"folds": [0, 1]}}},
            r"experiments.all.folds: \[0, 1\] with split.file",
        ),
        ({"experiments": {"all": {"folds": [1, 1]}}}, "experiments.all.folds: .* names a fold"),
        ({"experiments": {"all": {"seeds": [1, 1]}}}, "experiments.all.seeds: .* names a seed"),
        ({"training": {"sam": 0.1, "accumulate": 2}}, "baseline.accumulate: 2 with sam"),
        ({"training": {"devices": 3}}, "batch_size: 32 crops cannot be shared evenly by 3"),
        (
            {"training": {"devices": 4, "num_nodes": 2, "batch_size": 24, "batches": "paired"}},
            r"batch_size: 24 .* in whole pairs \(batches is paired\); take a multiple of 16",
        ),
        (
            {"training": {"batches": "balanced", "augment": [{"PairMixup": {}}]}},
            "augment: PairMixup has no pairs to mix in balanced",
        ),
        ({"training": {"batches": {"pair": 1}}}, "training.batches: must be auto"),
        (
            {"kaggle": {"experiment": "b4"}},
            "kaggle.experiment: 'b4' is neither 'best', 'ensemble' nor",
        ),
        ({"experiments": {"best": {}}}, "experiments.best: kaggle.experiment knows this name"),
        (
            {"shards_per_part": 2, "parts_per_shard": 2},
            "parts_per_shard: joins small parts, and shards_per_part cuts large ones",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnmaskError, match=message):
        load_config(values)


def test_an_experiment_overrides_training_and_leaves_the_rest() -> None:
    config = load_config(
        {
            "training": {"epochs": 4, "batch_size": 8},
            "experiments": {
                "longer": {"epochs": 40},
                "plain": {"drop_rate": 0, "batches": "plain"},
            },
            "kaggle": {"experiment": "plain"},
        }
    )
    longer, plain = config.experiment("longer"), config.experiment("plain")
    assert (longer.epochs, longer.batch_size) == (40, 8)
    assert (plain.epochs, plain.drop_rate, plain.batches) == (4, 0, "plain")
    assert longer.model_copy(update={"epochs": 4}) == config.training


def test_an_emptied_section_or_experiment_is_its_default() -> None:
    emptied = yaml.safe_load("frames:\ntraining:\nexperiments:\n  baseline:\ntest_root:\n")
    assert load_config(emptied) == load_config({})
    assert load_config({"experiments": None}) == load_config({})


def test_an_emptied_key_of_an_experiment_is_the_one_of_training() -> None:
    config = load_config({"training": {"epochs": 4}, "experiments": {"a": {"epochs": None}}})
    assert config.experiment("a").epochs == 4


def test_numbers_and_switches_may_come_as_text() -> None:
    config = load_config({"seed": "7", "protect": "true", "kaggle": {"prior": "0.25"}})
    assert (config.seed, config.protect, config.kaggle.prior) == (7, True, 0.25)


def test_every_configuration_file_is_valid(repository: Path) -> None:
    folder = repository / "config"
    paths = sorted([*folder.glob("*.yaml"), *folder.glob("protocols/*.yaml")])
    assert {"config.yaml", "demo.yaml", "dfdc.yaml"} <= {path.name for path in paths}
    for path in paths:
        load_config(yaml.safe_load(path.read_text()), repository)


def test_every_recipe_is_valid_and_sets_something(repository: Path) -> None:
    recipes = sorted((repository / "config/recipes").glob("*.yaml"))
    assert recipes
    readme = (repository / "config/README.md").read_text()
    for path in recipes:
        values = {"faces": {"size": 1024}, "experiments": {"one": {"recipe": str(path)}}}
        config = load_config(values)
        assert config.experiment("one") != config.training, path
        assert f"(recipes/{path.name})" in readme


def test_an_experiment_wins_over_its_recipe_and_that_over_training(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/long.yaml").write_text("epochs: 40\nbatch_size: 8\n")
    values = {
        "seed": 5,
        "training": {"epochs": 4, "batch_size": 16, "ema": 0.9},
        "experiments": {
            "long": {"recipe": "recipes/long.yaml", "batch_size": 4, "folds": [0, 2]},
            "seeds": {"seeds": [1, 2]},
        },
    }
    config = load_config(values, tmp_path)
    long = config.experiment("long")
    assert (long.epochs, long.batch_size, long.ema) == (40, 4, 0.9)
    assert config.models("long") == [(0, 5), (2, 5)]
    assert config.models("seeds") == [(0, 1), (0, 2)]
    again = load_config(json.loads(config.model_dump_json(exclude_unset=True)), tmp_path)
    assert again.experiment("long") == long


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (None, "experiments.long.recipe: no file 'r.yaml' here or in the repository"),
        ("{", "experiments.long.recipe: .*r.yaml: no YAML"),
        ("epoks: 3", "r.yaml: 'epoks' is not a known key, did you mean 'epochs'"),
        ("epochs: many", "r.yaml: epochs: .*'many'"),
        ("- epochs", "experiments.long.recipe: .*r.yaml: "),
    ],
)
def test_a_recipe_that_is_wrong_is_told_with_its_file(
    recipe: str | None, message: str, tmp_path: Path
) -> None:
    if recipe is not None:
        (tmp_path / "r.yaml").write_text(recipe)
    with pytest.raises(UnmaskError, match=message) as caught:
        load_config({"experiments": {"long": {"recipe": "r.yaml"}}}, tmp_path)
    assert "\n" not in str(caught.value)


def test_the_generated_documents_are_those_of_the_models(repository: Path, tmp_path: Path) -> None:
    documents = ("config/config.yaml", "config/README.md", "workflow/schemas/config.schema.json")
    for name in documents:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repository / name, tmp_path / name)
    write_config_documents(tmp_path)
    for name in documents:
        assert (tmp_path / name).read_text() == (repository / name).read_text(), "run `make schema`"


def test_the_generated_documents_have_every_key() -> None:
    described = re.findall(r"^\| `(.+?)` \|.*\| .{10,} \|$", config_table(), re.MULTILINE)
    stated = dict(flatten(yaml.safe_load(config_yaml())))
    assert set(stated) == set(described) == set(known_keys())
    assert stated == {
        **dict(flatten(Config().model_dump(mode="json", exclude={"experiments"}))),
        "experiments": {"baseline": {}},
    }


def test_settings_of_rules_leave_out_what_changes_no_result() -> None:
    config = load_config({"experiments": {"two": {"devices": 2, "epochs": 3, "folds": [1]}}})
    selected = json.loads(config.for_experiment("two").select("training", "audits.label_noise"))
    assert selected["audits"] == {"label_noise": "drop"}
    assert (selected["training"]["epochs"], selected["training"]["folds"]) == (3, [0])
    assert "devices" not in selected["training"]
    assert json.loads(config.for_experiment("two").machine("training"))["training"]["devices"] == 2
    assert "title" not in json.loads(config.select("kaggle"))["kaggle"]
    assert "devices" not in json.loads(config.select("experiments"))["experiments"]["two"]
