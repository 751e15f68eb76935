"""The `run.json` of a training that never ran."""

from pathlib import Path

from unmask.files import write_json
from unmask.training.run_record import LoggedMetrics, RunDescription, RunRecord


def write_run(
    path: Path,
    experiment: str,
    fold: int,
    seed: int = 1,
    folds: int = 3,
    assumed_prior: float = 0.5,
    description: RunDescription | None = None,
    history: list[LoggedMetrics] | None = None,
) -> RunRecord:
    """Write the record of a training; return it."""
    model = f"fold{fold}-seed{seed}"
    record = RunRecord(
        experiment=experiment,
        model=model,
        fold=fold,
        folds=folds,
        seed=seed,
        prior_shift=0.0,
        assumed_prior=assumed_prior,
        best_epoch=0,
        val_log_loss=0.6,
        seconds=1.0,
        ended_ms=1,
        description=description or RunDescription(model, model, 0, {}, {}, {}),
        history=history
        or [LoggedMetrics(1, 1, {"epoch": 0, "train/loss": 0.7, "val/log_loss": 0.6})],
    )
    write_json(record, path)
    return record
