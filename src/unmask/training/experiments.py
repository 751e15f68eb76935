"""What the configured experiments will train, checked before anything is trained."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from torch import nn

from unmask.config import Config
from unmask.errors import UnmaskError
from unmask.files import atomic_path
from unmask.training.augmentation import create_transforms
from unmask.training.backbones import create_architecture, create_backbone
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


def check_experiments(config: Config, output: Path) -> None:
    """Create each experiment's augmentation, loss and model with its weights; write a table.

    Weights from timm's hub are downloaded into its cache here, once.

    Args:
        config: the sections training, experiments and kaggle.
        output: CSV, one row per experiment, see `ExperimentSize`.

    Raises:
        UnmaskError: an augmentation, a loss or a model cannot be created, or weights not loaded.
    """
    sizes = []
    for name in config.experiments:
        try:
            training = config.experiment(name)
            create_transforms(training.augment)
            find_loss(training.loss)
            network, _ = create_backbone(training)
        except UnmaskError as error:
            raise UnmaskError(f"experiment {name}: {error}") from None
        sizes.append(measure_experiment(name, config, network))
        logger.info("%s", sizes[-1])
    for line in _too_large(sizes):
        logger.warning("%s", line)
    with atomic_path(output) as temporary:
        pd.DataFrame(map(asdict, sizes)).to_csv(temporary, index=False)


def _too_large(sizes: list[ExperimentSize]) -> list[str]:
    return [
        f"{size.name}: too large to ship; train fewer folds or seeds, or a smaller backbone"
        for size in sizes
        if size.budget > 1
    ]
