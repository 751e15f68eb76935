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
    """The weights of one trained model, and the record of its training."""

    model: Path
    run: RunRecord


@dataclass(frozen=True)
class Shipped:
    """What a bundle ships."""

    name: str  # of the experiment, or ensemble
    weights: dict[str, float]  # of each experiment; they sum to 1
    test: Metrics
    worst_subgroup: str = ""  # in words; empty for an ensemble, or where none is large enough


def choose_experiments(wanted: str, evaluation: Path, comparison: Path) -> Shipped:
    """Return what `kaggle.experiment` asks to ship: an experiment, the best one, or the ensemble.

    Raises:
        UnmaskError: the ensemble is wanted and there is none.
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


def models_of(models: Sequence[Path], runs: Sequence[Path]) -> dict[str, list[Trained]]:
    """Return the models of each experiment, one of each fold before a second seed of any."""
    records = map(RunRecord.read, runs)
    trained = [Trained(*pair) for pair in zip(models, records, strict=True)]
    of_experiments: dict[str, list[Trained]] = {}
    for one in sorted(trained, key=lambda one: (one.run.seed, one.run.fold)):
        of_experiments.setdefault(one.run.experiment, []).append(one)
    return of_experiments


def check_size(
    rest: int, models: Mapping[str, Sequence[Trained]], chosen: set[str], kaggle: KaggleConfig
) -> None:
    """Check that a bundle will fit, before any weights are written.

    Args:
        rest: bytes of all files but the weights.
        models: all models of each experiment, in the order of shipping.
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
