"""Which experiments and models a bundle ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unmask.config import BEST, ENSEMBLE, KaggleConfig, Precision
from unmask.errors import UnmaskError
from unmask.evaluation.metrics import Metrics
from unmask.evaluation.results import METRICS, Comparison, ExperimentMetrics
from unmask.files import read_json
from unmask.training.model_file import saved_bytes
from unmask.training.run_record import RunRecord


@dataclass(frozen=True)
class Trained:
    """The files of one trained model: `model.safetensors` and `run.json`."""

    model: Path
    run: Path


@dataclass(frozen=True)
class Shipped:
    """What a bundle ships."""

    name: str  # of the experiment, or ensemble
    weights: dict[str, float]  # of each experiment; they sum to 1
    test: Metrics
    worst_subgroup: str = ""  # in words; empty for an ensemble, or where none is large enough


def choose_experiments(wanted: str, evaluation: Path, comparison: Path) -> Shipped:
    """Return the experiments to ship.

    Args:
        wanted: `kaggle.experiment`: a name, best, or ensemble.
        evaluation: folder with one evaluation folder per experiment.
        comparison: `comparison.json`.

    Raises:
        UnmaskError: an ensemble is wanted and there is none.
    """
    compared = read_json(comparison, Comparison)
    if wanted == ENSEMBLE:
        ensemble = compared.ensemble
        if ensemble is None:
            raise UnmaskError(
                "kaggle.experiment: there is no ensemble; it takes two experiments that train a "
                "common fold, and one that fits kaggle.max_bytes and kaggle.seconds_per_video"
            )
        return Shipped(ENSEMBLE, ensemble.weights, ensemble.test)
    name = compared.order[0] if wanted == BEST else wanted
    metrics = read_json(evaluation / name / METRICS, ExperimentMetrics)
    worst = metrics.worst_subgroup
    return Shipped(name, {name: 1.0}, metrics.test, "" if worst is None else str(worst))


def models_of(trained: Sequence[Trained]) -> dict[str, list[Trained]]:
    """Return the models of each experiment, one of each fold before a second seed of any."""
    runs = [(RunRecord.read(one.run), one) for one in trained]
    models: dict[str, list[Trained]] = {}
    for run, one in sorted(runs, key=lambda pair: (pair[0].seed, pair[0].fold)):
        models.setdefault(run.experiment, []).append(one)
    return models


def check_size(
    rest: int, models: Mapping[str, Sequence[Trained]], chosen: set[str], kaggle: KaggleConfig
) -> None:
    """Check that a bundle will fit, before any weights are written.

    Args:
        rest: bytes of all files but the weights.
        models: experiment to all its models, in the order of shipping.
        chosen: the experiments to ship.
        kaggle: `max_bytes`, `models` and `precision` are used.

    Raises:
        UnmaskError: it will not fit; the message suggests what would.
    """
    limit, precision, most = kaggle.max_bytes, kaggle.precision, kaggle.models

    def planned(names: set[str], precision: Precision, most: int | None) -> int:
        shipped = [one.model for name in sorted(names) for one in models[name][:most]]
        return rest + sum(saved_bytes(path, precision) for path in shipped)

    total = planned(chosen, precision, most)
    if total <= limit:
        return
    counts = {name: len(models[name][:most]) for name in sorted(chosen)}
    fewer = range(max(counts.values()) - 1, 0, -1)
    fitting = [f"kaggle.models: {n}" for n in fewer if planned(chosen, precision, n) <= limit][:1]
    if precision != "int8" and planned(chosen, "int8", most) <= limit:
        fitting.append("kaggle.precision: int8")
    others = [name for name in models if name not in chosen]
    fitting += [
        f"kaggle.experiment: {name}" for name in others if planned({name}, precision, most) <= limit
    ]
    parts = ", ".join(
        f"{count} models of {name} {planned({name}, precision, most) - rest:,}"
        for name, count in counts.items()
    )
    raise UnmaskError(
        f"kaggle.max_bytes: the bundle would have {total:,} bytes, {total - limit:,} too many "
        f"({parts}, all else {rest:,}); "
        + (f"what fits: {'; '.join(fitting)}" if fitting else "train a smaller backbone")
    )
