"""What the configured experiments will train, told before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from unmask.config import Config
from unmask.training.backbones import create_architecture

_HALF_BYTES = 2


@dataclass(frozen=True)
class ExperimentSize:
    """What the models of one experiment are.

    Attributes:
        name: of the experiment.
        backbone: timm name.
        recipe: the file it is made from, or None.
        parameters: of one model.
        trained: those of them that training changes.
        megabytes: of one model in a bundle, stored as float16.
        folds: that are trained.
        seeds: that each fold is trained with.
        budget: share of `kaggle.max_bytes` that all models together take.
    """

    name: str
    backbone: str
    recipe: str | None
    parameters: int
    trained: int
    megabytes: float
    folds: int
    seeds: int
    budget: float


def measure_experiment(name: str, config: Config) -> ExperimentSize:
    """Build an experiment's network, without its weights, and count.

    Raises:
        UnmaskError: timm has no such model.
    """
    training = config.experiment(name)
    network = create_architecture(training)
    half = sum(
        value.numel() * (_HALF_BYTES if value.is_floating_point() else value.element_size())
        for value in network.state_dict().values()
    )
    models = config.models(name)
    folds, seeds = (len({model[position] for model in models}) for position in (0, 1))
    return ExperimentSize(
        name=name,
        backbone=training.backbone,
        recipe=config.experiments[name].recipe,
        parameters=sum(one.numel() for one in network.parameters()),
        trained=sum(one.numel() for one in network.parameters() if one.requires_grad),
        megabytes=half / 1e6,
        folds=folds,
        seeds=seeds,
        budget=half * len(models) / config.kaggle.max_bytes,
    )


def describe_experiments(config: Config) -> str:
    """Return a table of all experiments, with a line below for those too large to ship."""
    sizes = [measure_experiment(name, config) for name in config.experiments]
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
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    lines.append(f"budget: share of kaggle.max_bytes ({config.kaggle.max_bytes:,}) of all models")
    lines += [
        f"{size.name}: too large to be shipped; train fewer folds or seeds, or a smaller backbone"
        for size in sizes
        if size.budget > 1
    ]
    return "\n".join(lines)
