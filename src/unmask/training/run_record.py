"""`run.json`: the record of one training, complete enough to create its MLflow run from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.files import read_json


@dataclass(frozen=True)
class RunDescription:
    """What is known of a run when its training starts.

    Attributes:
        run_id: random, not MLflow's: runs are created at any server, and found by this id in a tag.
        name: shown by MLflow.
        started_ms: when it started, in milliseconds since 1970 as MLflow counts time.
        parameters: all settings and counts of the training, flat.
        tags: commit, user and digest of the parameters.
        data_sets: MLflow's description of the crops of each role that the training used.
    """

    run_id: str
    name: str
    started_ms: int
    parameters: dict[str, Any]
    tags: dict[str, str]
    data_sets: dict[str, dict[str, str]]


@dataclass(frozen=True)
class LoggedMetrics:
    """Metrics that were logged together, at an optimizer step."""

    step: int
    time_ms: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class RunRecord:
    """One finished training.

    Attributes:
        experiment: name of its experiment.
        model: name of the model, for example `fold0-seed1`.
        fold: the fold that tests it.
        folds: number of folds of the split.
        seed: its seed.
        prior_shift: added to logits, from the prior of the batches to that of the data.
        assumed_prior: share of FAKE that the shifted logits assume.
        best_epoch: the epoch whose weights were kept.
        val_log_loss: of that epoch.
        seconds: of training, validation excluded.
        ended_ms: when training ended.
        description: what MLflow's run is created from.
        history: all metrics in the order they were logged; those of epochs have `epoch` among them.
    """

    experiment: str
    model: str
    fold: int
    folds: int
    seed: int
    prior_shift: float
    assumed_prior: float
    best_epoch: int
    val_log_loss: float
    seconds: float
    ended_ms: int
    description: RunDescription
    history: list[LoggedMetrics]

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Read a `run.json`.

        Raises:
            UnmaskError: it cannot be read, or is incomplete.
        """
        return read_json(path, cls)

    def epochs(self) -> list[dict[str, float]]:
        """Return the metrics of each epoch, `epoch` among them."""
        epochs: dict[float, dict[str, float]] = {}
        for logged in self.history:
            epoch = logged.metrics.get("epoch", math.nan)
            if not math.isnan(epoch):
                epochs.setdefault(epoch, {}).update(logged.metrics)
        return list(epochs.values())
