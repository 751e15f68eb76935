"""MLflow: everything that talks to it.

One run per training job. Its id is in that job's `run.json`, and evaluation and export log into the
same run. There is no autologging: beside Lightning's logger it would open runs of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.data.pandas_dataset import from_pandas
from mlflow.exceptions import MlflowException
from pytorch_lightning.loggers import MLFlowLogger

from unmask.config import TrackingConfig
from unmask.errors import UnmaskError
from unmask.provenance import git_state
from unmask.tables import write_json

logger = logging.getLogger(__name__)

# MLflow announces URLs and asynchronous logging on the terminal; the job's log has what matters.
logging.getLogger("mlflow").setLevel(logging.WARNING)


def tracking_uri(config: TrackingConfig) -> str:
    """Return the URI of the tracking server or database; the environment wins."""
    return os.environ.get("MLFLOW_TRACKING_URI") or config.uri


def create_tracking(config: TrackingConfig, output: Path) -> None:
    """Create database and experiment, once, before any job uses them.

    Several processes that create an SQLite database at once break it (7 of 8 crashed when tried);
    on an existing one they do not.

    Args:
        config: the `tracking` section.
        output: JSON that says where runs are kept.

    Raises:
        UnmaskError: the server or database cannot be used.
    """
    uri = tracking_uri(config)
    with _reachable(uri):
        mlflow.set_tracking_uri(uri)
        experiment = mlflow.get_experiment_by_name(config.experiment)
        if experiment is None:
            # A server keeps artifacts itself; a database file keeps them in a folder beside it.
            location = Path("mlartifacts").resolve().as_uri() if _is_file(uri) else None
            identifier = mlflow.create_experiment(config.experiment, artifact_location=location)
        else:
            identifier = experiment.experiment_id
    content = {"uri": uri, "experiment": config.experiment, "experiment_id": identifier}
    write_json(content, output)
    logger.info("experiment %s (id %s) at %s", config.experiment, identifier, uri)


def _is_file(uri: str) -> bool:
    return uri.startswith("sqlite:")


@contextmanager
def _reachable(uri: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise UnmaskError(
            f"tracking.uri: MLflow at {uri} says: {reason}; start the server, or set tracking.uri "
            "or MLFLOW_TRACKING_URI; of a run that was deleted, delete the run.json and rerun"
        ) from None


@dataclass(frozen=True)
class TrainingRun:
    """An active MLflow run of a training job."""

    id: str
    uri: str
    experiment: str

    def lightning_logger(self) -> MLFlowLogger:
        """Return a Lightning logger that writes into this run and opens none of its own."""
        return MLFlowLogger(
            self.experiment, tracking_uri=self.uri, run_id=self.id, synchronous=False
        )

    def log_data(self, faces: Mapping[str, pd.DataFrame], splits: Path) -> None:
        """Record which crops were used in which role, with MLflow's digest of their keys."""
        for role, rows in faces.items():
            used = rows[["part", "video", "key", "label"]]
            with warnings.catch_warnings():
                # MLflow finds two equal readings of a local path, and warns that it took one.
                warnings.simplefilter("ignore", UserWarning)
                data = from_pandas(used, source=str(splits), name=f"faces-{role}")
            mlflow.log_input(data, context=role)


@contextmanager
def start_training_run(
    tracking: Path, name: str, settings: Mapping[str, Any], run_id: str | None = None
) -> Iterator[TrainingRun]:
    """Open the run of a training job.

    Args:
        tracking: what `create_tracking` wrote.
        name: run name.
        settings: every setting of the job, flat: logged as parameters, for the comparison in the
            UI, and as `config.json`.
        run_id: the run of a job that was killed, which is gone on with; None opens a new one.
    """
    where = json.loads(tracking.read_text())
    with _reachable(where["uri"]):
        mlflow.set_tracking_uri(where["uri"])
        mlflow.set_experiment(where["experiment"])
        active = mlflow.start_run(run_id, run_name=name, log_system_metrics=True)
    with active:
        mlflow.log_params(dict(settings))
        mlflow.log_dict(dict(settings), "config.json")
        mlflow.set_tags({"config_digest": _digest(settings), **git_state()})
        yield TrainingRun(active.info.run_id, where["uri"], where["experiment"])


@contextmanager
def continue_run(run: Mapping[str, Any]) -> Iterator[None]:
    """Reopen the run that a `run.json` names; `mlflow.log_…` inside goes to it."""
    with _reachable(run["tracking_uri"]):
        mlflow.set_tracking_uri(run["tracking_uri"])
        mlflow.set_experiment(run["tracking_experiment"])
        active = mlflow.start_run(run_id=run["run_id"], log_system_metrics=False)
    with active:
        yield


def log_evaluation(
    run: Mapping[str, Any], metrics: Mapping[str, float], files: Mapping[Path, str]
) -> None:
    """Log metrics and files (path to artifact folder) into the run of a training job."""
    with continue_run(run):
        mlflow.log_metrics(dict(metrics))
        for path, folder in files.items():
            mlflow.log_artifact(str(path), folder)


def register_bundle(
    run: Mapping[str, Any], name: str, bundle: Path, metrics: Mapping[str, float]
) -> str:
    """Register an exported bundle as the newest model version, alias `champion`.

    Returns:
        The version.
    """
    with continue_run(run):
        mlflow.log_artifacts(str(bundle), f"bundle/{bundle.name}")
        source = mlflow.get_artifact_uri(f"bundle/{bundle.name}")
        client = mlflow.MlflowClient()
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        version = client.create_model_version(name, source, run["run_id"])
        client.set_registered_model_alias(name, "champion", version.version)
        for key, value in metrics.items():
            client.set_model_version_tag(name, version.version, key, f"{value:.4f}")
    return str(version.version)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
