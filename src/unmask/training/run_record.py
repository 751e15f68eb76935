"""`run.json`: the record of one training, complete enough to create its MLflow run from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.files import read_json


@dataclass(frozen=True)
class RunDescription:
    """What is known of a run when its training starts."""

    run_id: str  # random, not MLflow's: in a tag, by which the run is found at any server
    name: str  # shown by MLflow
    started_ms: int  # since 1970, as MLflow counts time
    parameters: dict[str, Any]  # all settings and counts of the training, flat
    tags: dict[str, str]  # commit, user and digest of the parameters
    data_sets: dict[str, dict[str, str]]  # by role, MLflow's description of the crops used


@dataclass(frozen=True)
class LoggedMetrics:
    """Metrics that were logged together."""

    step: int  # optimizer steps done
    time_ms: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class RunRecord:
    """One finished training."""

    experiment: str
    model: str  # name of the model, for example `fold0-seed1`
    fold: int  # the fold that tests it
    folds: int  # number of folds of the split
    seed: int
    prior_shift: float  # added to logits, from the prior of the batches to that of the data
    assumed_prior: float  # share of FAKE that the shifted logits assume
    best_epoch: int  # the epoch whose weights were kept
    val_log_loss: float  # of that epoch
    seconds: float  # of training, validation excluded
    ended_ms: int
    description: RunDescription
    history: list[LoggedMetrics]  # in the order of logging; metrics of epochs include `epoch`

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Read a `run.json`.

        Raises:
            UnmaskError: it cannot be read, or is incomplete.
        """
        return read_json(path, cls)

    def epochs(self) -> list[dict[str, float]]:
        """Return the metrics of each epoch, `epoch` among them."""
        return [logged.metrics for logged in self.history if "epoch" in logged.metrics]
