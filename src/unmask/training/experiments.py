"""What the configured experiments will train, checked before anything is trained."""

from __future__ import annotations

import copy
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from unmask.audits.metadata import MetadataCounts
from unmask.config import Config, Mixture, TrainingConfig
from unmask.errors import UnmaskError
from unmask.files import atomic_path, read_json
from unmask.progress import notice
from unmask.training.augmentation import create_transforms
from unmask.training.backbones import create_architecture, create_backbone, one_line
from unmask.training.losses import find_loss
from unmask.training.model_file import half_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExperimentSize:
    """Size of the models of one experiment."""

    name: str
    backbone: str  # as configured
    recipe: str | None  # its file
    parameters: int  # number of parameters of one model
    trained: int  # number of those that training changes
    megabytes: float  # of one model in a bundle, stored as float16
    folds: int  # number of folds that are trained
    seeds: int  # number of seeds that each fold is trained with
    budget: float  # share of `kaggle.max_bytes` that all models take together


def measure_experiment(name: str, config: Config, network: nn.Module) -> ExperimentSize:
    """Measure the models of an experiment from their network."""
    half = half_bytes(network)
    models = config.models(name)
    folds, seeds = (len({model[position] for model in models}) for position in (0, 1))
    return ExperimentSize(
        name=name,
        backbone=config.experiment(name).backbone,
        recipe=config.experiments[name].recipe,
        parameters=sum(one.numel() for one in network.parameters()),
        trained=sum(one.numel() for one in network.parameters() if one.requires_grad),
        megabytes=half / 1e6,
        folds=folds,
        seeds=seeds,
        budget=half * len(models) / config.kaggle.max_bytes,
    )


def describe_experiments(config: Config) -> str:
    """Return a table of all experiments, and a line for each that is too large to ship.

    Raises:
        UnmaskError: a model cannot be created, or lacks what its experiment asks for.
    """
    networks = {name: create_architecture(config.experiment(name)) for name in config.experiments}
    sizes = [measure_experiment(name, config, network) for name, network in networks.items()]
    for name, network in networks.items():
        check_image_size(network, config.experiment(name))
    header = ("experiment", "backbone", "parameters", "trained", "fp16", "folds x seeds", "budget")
    rows = [
        (
            size.name,
            size.backbone,
            f"{size.parameters / 1e6:.2f} M",
            f"{size.trained / 1e6:.2f} M",
            f"{size.megabytes:.1f} MB",
            f"{size.folds} x {size.seeds}",
            f"{size.budget:.1%}",
        )
        for size in sizes
    ]
    table = pd.DataFrame(rows, columns=header).to_string(index=False)
    budget = f"budget: share of kaggle.max_bytes ({config.kaggle.max_bytes:,}) of all models"
    return "\n".join([table, budget, *_too_large(sizes)])


def check_experiments(config: Config, output: Path, metadata: Path | None = None) -> None:
    """Create each experiment's augmentation, loss and model with its weights; write a table.

    Weights from timm's hub are downloaded into its cache here, once.

    Args:
        config: the sections training, experiments and kaggle.
        output: CSV, one row per experiment, see `ExperimentSize`.
        metadata: see `unmask.audits.metadata.MetadataCounts`; None where it is not known yet.

    Raises:
        UnmaskError: an augmentation, a loss or a model cannot be created, weights not loaded, a
            model not trained at its image size, or batches not filled.
    """
    sizes = []
    counts = None if metadata is None else read_json(metadata, MetadataCounts)
    for name in config.experiments:
        try:
            training = config.experiment(name)
            if counts is not None:
                check_batches(training, counts.fake, counts.originals.found)
            create_transforms(training.augment)
            find_loss(training.loss)
            network, _ = create_backbone(training)
            sizes.append(measure_experiment(name, config, network))
            check_image_size(network, training)
        except UnmaskError as error:
            raise UnmaskError(f"experiment {name}: {error}") from None
        logger.info("%s", sizes[-1])
    for line in _too_large(sizes):
        logger.warning("%s", line)
    with atomic_path(output) as temporary:
        pd.DataFrame(map(asdict, sizes)).to_csv(temporary, index=False)


def check_batches(training: TrainingConfig, fakes: int, pairs: int) -> None:
    """Raise if the data has nothing for the batches of an experiment; warn if it has little.

    Args:
        training: the experiment.
        fakes: number of FAKE videos.
        pairs: number of these with an original.

    Raises:
        UnmaskError: the batches would be empty.
    """
    batches = Mixture(pairs=1) if training.batches == "paired" else training.batches
    if isinstance(batches, Mixture):
        usable = pairs * batches.pairs + (fakes - pairs) * batches.unpaired + batches.self_blended
    else:
        usable = 1 if training.in_pairs else fakes
    found = f"{pairs} of {fakes} FAKE videos have their original in data_root"
    if not usable:
        raise UnmaskError(
            f"training.batches: {training.batches} batches would be empty: {found}; add videos, or "
            "set it to auto, which takes what there is"
        )
    if training.batches == "paired" and pairs < fakes:
        notice.warning(
            "training.batches: paired leaves %d FAKE videos out: %s; auto takes them all",
            fakes - pairs,
            found,
        )


def check_image_size(network: nn.Module, training: TrainingConfig) -> None:
    """Raise if a model cannot be trained on images of the configured size, by doing it once.

    Args:
        network: the model; its weights may be lost.
        training: the experiment.

    Raises:
        UnmaskError: a batch of two does not go through the model, forward and backward.
    """
    size = training.image_size
    # PyTorch's meta device computes shapes alone: a second instead of a minute, and no memory. Not
    # every model runs on it, so that what fails there is computed in earnest.
    for device in ("meta", "cpu"):
        try:
            images = torch.zeros(2, 3, size, size, device=device)
            copy.deepcopy(network).to(device).train()(images).sum().backward()
            return
        except Exception as error:  # each model has its own
            problem = one_line(error)
    made_for = getattr(network, "pretrained_cfg", {}).get("input_size", (3, 0, 0))[1]
    remedy = f"; it was made for {made_for}" if made_for else ""
    raise UnmaskError(
        f"training.image_size: {training.backbone} cannot be trained on {size} x {size} pixels "
        f"({problem}){remedy}"
    )


def _too_large(sizes: list[ExperimentSize]) -> list[str]:
    return [
        f"{size.name}: too large to ship; train fewer folds or seeds, or a smaller backbone"
        for size in sizes
        if size.budget > 1
    ]
