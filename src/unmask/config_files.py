"""Configuration files: read, merged with recipes and presets, validated and checked."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unmask.config import (
    BEST,
    ENSEMBLE,
    REPOSITORY,
    Augment,
    Config,
    FacesConfig,
    Section,
    TrainingConfig,
    TrainingOverrides,
    merged,
)
from unmask.errors import UnmaskError

_PRESETS = Path("config/augmentations")


def load_config(values: Mapping[str, Any], *folders: Path) -> Config:
    """Validate a whole configuration as read from YAML and from the command line.

    Args:
        values: the keys.
        folders: where recipes are looked for, after the working directory.

    Raises:
        UnmaskError: a key is not known, a value has the wrong type, or the values contradict each
            other; the message names the key, and the recipe that it stands in.
    """
    resolved = _with_recipes(load_settings(values), values, folders)
    config = load_settings(_with_presets(load_settings(resolved), resolved, folders))
    problems = [*_contradictions(config), *_face_contradictions(config.faces)]
    for name in config.experiments:
        found = _training_contradictions(config.experiment(name), config)
        problems += [f"experiments.{name}.{problem}" for problem in found]
    if problems:
        raise UnmaskError(f"config: {'; '.join(problems)}")
    return config


def _contradictions(config: Config) -> Iterator[str]:
    """Yield each contradiction as "key: problem", as the next two functions do."""
    if config.shards_per_part > 1 and config.parts_per_shard not in ("auto", 1):
        yield (
            "parts_per_shard: joins small parts, and shards_per_part cuts large ones; "
            "set one of them to 1"
        )
    for name in sorted({BEST, ENSEMBLE} & set(config.experiments)):
        yield f"experiments.{name}: kaggle.experiment knows this name as something else; rename it"
    wanted = config.kaggle.experiment
    if wanted not in {BEST, ENSEMBLE, *config.experiments}:
        yield (
            f"kaggle.experiment: '{wanted}' is neither 'best', 'ensemble' nor one of experiments "
            f"({', '.join(config.experiments)})"
        )


def _face_contradictions(faces: FacesConfig) -> Iterator[str]:
    detectors = [faces.detector, *faces.voters]
    if faces.detector == "none" and (faces.voters or faces.landmarks != 5):
        yield "faces.detector: none detects no faces; remove faces.voters and set landmarks to 5"
        return
    twice = next((name for name in detectors if detectors.count(name) > 1), None)
    if twice is not None:
        yield f"faces.voters: '{twice}' would vote twice (faces.detector votes as well)"
    if faces.votes > len(detectors):
        yield (
            f"faces.votes: {faces.votes} votes cannot be had of {len(detectors)} "
            f"({', '.join(detectors)}); add to faces.voters, or lower it"
        )
    if faces.voters and faces.votes == 1:
        yield (
            "faces.votes: with 1 the vote of faces.detector decides alone and those of "
            f"faces.voters never count; set it to 2 to {len(detectors)}, or remove faces.voters"
        )


def _training_contradictions(training: TrainingConfig, config: Config) -> Iterator[str]:
    if max(training.folds) >= config.split.folds:
        yield (
            f"folds: fold {max(training.folds)} does not exist, "
            f"split.folds is {config.split.folds} (folds count from 0)"
        )
    if config.split.file is not None and training.folds != [0]:
        yield f"folds: {training.folds} with split.file, which tests fold 0 alone; set it to [0]"
    if len(set(training.folds)) < len(training.folds):
        yield f"folds: {training.folds} names a fold twice"
    if len(set(training.seeds)) < len(training.seeds):
        yield f"seeds: {training.seeds} names a seed twice"
    if training.sam and training.accumulate > 1:
        yield (
            f"accumulate: {training.accumulate} with sam, whose second step needs the gradients of "
            "one batch alone; set accumulate to 1, or sam to 0"
        )
    processes = training.devices * training.num_nodes
    unit = 2 * processes if training.in_pairs else processes
    if training.batch_size % unit:
        yield (
            f"batch_size: {training.batch_size} crops cannot be shared evenly by "
            f"{processes} devices{' in whole pairs' if training.in_pairs else ''} "
            f"(batches is {training.batches}); take a multiple of {unit}"
        )
    if training.image_size > config.faces.size:
        yield (
            f"image_size: {training.image_size} is more than the stored crops have "
            f"(faces.size is {config.faces.size}); set faces.size to it, or lower it"
        )
    if not training.in_pairs and '"PairMixup"' in json.dumps(training.augment):
        yield (
            f"augment: PairMixup has no pairs to mix in {training.batches} batches; "
            "set batches to auto or paired, or remove it"
        )


def read_config(paths: Sequence[Path]) -> Config:
    """Return the configuration that the workflow has with these files as `--configfile`.

    The repository's config/config.yaml is read first, and later files win, key by key.

    Raises:
        UnmaskError: a file cannot be read, or the configuration is not valid.
    """
    from snakemake.common.configfile import load_configfile
    from snakemake.exceptions import WorkflowError
    from snakemake.utils import update_config

    manual = REPOSITORY / "config" / "config.yaml"
    values: dict[str, Any] = {}
    for path in [*filter(Path.is_file, [manual]), *paths]:
        try:
            update_config(values, load_configfile(str(path)))
        except (WorkflowError, OSError) as error:
            raise UnmaskError(f"{path}: no readable YAML ({error})") from None
    return load_config(json.loads(json.dumps(values)), REPOSITORY)


def locate(path: str, repository: Path = REPOSITORY) -> Path:
    """Return a path of the configuration: from the working directory, else from the repository."""
    here = Path(path).expanduser()
    return here if here.exists() or not (repository / here).exists() else repository / here


def _with_recipes(
    config: Config, values: Mapping[str, Any], folders: Sequence[Path]
) -> dict[str, Any]:
    """Return valid values with the content of each recipe below what its experiment says."""
    experiments = {}
    for name, experiment in config.experiments.items():
        own = (values.get("experiments") or {}).get(name) or {}
        recipe = _read_recipe(name, experiment.recipe, folders) if experiment.recipe else {}
        experiments[name] = merged(recipe, own)
    return {**values, "experiments": experiments}


def _read_recipe(experiment: str, recipe: str, folders: Sequence[Path]) -> dict[str, Any]:
    where = f"config: experiments.{experiment}.recipe"
    path, values = _read_yaml(Path(recipe), folders, where)
    try:
        TrainingOverrides.model_validate({} if values is None else values)
    except ValidationError as error:
        problems = "; ".join(_problem(one, "training.") for one in error.errors())
        raise UnmaskError(f"{where}: {path}: {problems}") from None
    return values or {}


def _read_yaml(name: Path, folders: Sequence[Path], where: str) -> tuple[Path, Any]:
    """Return where a YAML file is, here or in one of the folders, and its content."""
    import yaml

    candidates = [folder / name for folder in (Path(), *folders)]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise UnmaskError(f"{where}: no file '{name}' here or in the repository")
    try:
        return path, yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnmaskError(f"{where}: {path}: no YAML ({' '.join(str(error).split())})") from None


def _with_presets(
    config: Config, values: Mapping[str, Any], folders: Sequence[Path]
) -> dict[str, Any]:
    """Return valid values in which presets of augmentation are lists of transforms."""
    experiments = {}
    for name, own in values["experiments"].items():
        experiments[name] = dict(own)
        if own.get("augment") is not None:
            where = f"config: experiments.{name}.augment"
            experiments[name]["augment"] = resolve_augment(own["augment"], folders, where)
    augment = resolve_augment(config.training.augment, folders, "config: training.augment")
    training = {**(values.get("training") or {}), "augment": augment}
    return {**values, "training": training, "experiments": experiments}


def resolve_augment(
    augment: Augment, folders: Sequence[Path] = (), where: str = "training.augment"
) -> Augment:
    """Return `training.augment` with the content of each preset that it names.

    Args:
        augment: a preset, a list that may have entries `preset: NAME`, or an import path, which
            stays as it is.
        folders: where presets are looked for, between the working directory and the repository.
        where: the key, for errors.

    Raises:
        UnmaskError: there is no such preset, or a list has an entry that is no transform.
    """
    if isinstance(augment, list):
        return [_resolve_entry(entry, folders, where) for entry in augment]
    if ":" in augment:
        return augment
    return [_resolve_entry({"preset": augment}, folders, where)]


def _resolve_entry(
    entry: Any, folders: Sequence[Path], where: str, within: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return one entry of a list of transforms, with the presets it contains expanded."""
    if isinstance(entry, Mapping) and "preset" in entry:
        name = str(entry["preset"])
        if "transforms" in entry:
            return dict(entry)
        if name in within:
            raise UnmaskError(f"{where}: preset '{name}' contains itself")
        file = Path(name if name.endswith((".yaml", ".yml")) else f"{_PRESETS / name}.yaml")
        path, entries = _read_yaml(file, [*folders, REPOSITORY], where)
        where, within = f"{where}: {path}", (*within, name)
        if not isinstance(entries, list):
            raise UnmaskError(f"{where}: must be a list of transforms")
        resolved = [_resolve_entry(one, folders, where, within) for one in entries]
        return {"preset": name, "transforms": resolved}
    parameters = next(iter(entry.values())) if isinstance(entry, Mapping) and entry else ""
    if not isinstance(parameters, Mapping | None) or len(entry) > 1:
        raise UnmaskError(
            f"{where}: an entry must be a transform and its parameters, as in "
            f"'HorizontalFlip: {{p: 0.5}}', not {entry!r}"
        )
    parameters = dict(parameters or {})
    if isinstance(parameters.get("transforms"), list):
        parameters["transforms"] = [
            _resolve_entry(one, folders, where, within) for one in parameters["transforms"]
        ]
    return {str(next(iter(entry))): parameters}


def load_settings(values: Mapping[str, Any]) -> Config:
    """Validate some sections of a configuration, the others being defaults.

    Raises:
        UnmaskError: a key is not known, or a value has the wrong type; the message names the key.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(one) for one in error.errors())
        raise UnmaskError(f"config: {problems}") from None


def read_settings(texts: Sequence[str]) -> Config:
    """Merge and validate sections of a configuration that a command line has as JSON.

    Raises:
        UnmaskError: a text is no JSON object, or as `load_settings`.
    """
    values: dict[str, Any] = {}
    for text in texts:
        try:
            sections = json.loads(text)
        except json.JSONDecodeError as error:
            raise UnmaskError(f"--settings: no valid JSON ({error})") from None
        if not isinstance(sections, dict):
            raise UnmaskError(f"--settings: no JSON object, but {text}")
        values = merged(values, sections)
    return load_settings(values)


def _problem(error: Mapping[str, Any], section: str = "") -> str:
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        # The keys of an experiment are those of `training`.
        experiment = re.match(r"experiments\.[^.]+\.", key)
        known = {*known_keys(), *Config.model_fields}
        if experiment:
            known = {experiment[0] + name.removeprefix("training.") for name in known}
        near = difflib.get_close_matches(section + key, known, 1)
        hint = f", did you mean '{near[0].removeprefix(section)}'?" if near else ""
        return f"'{key}' is not a known key{hint}"
    message: str = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]}, not {error['input']!r}" if key else message


def known_keys(model: type[Section] = Config) -> list[str]:
    """Return all keys, those of sections with a dot."""
    keys = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys += [f"{name}.{key}" for key in known_keys(field.annotation)]
        else:
            keys.append(name)
    return keys
