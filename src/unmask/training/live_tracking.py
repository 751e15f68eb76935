"""MLflow while a training runs: its metrics as they come, and the load of the machine.

Nothing depends on it. Where MLflow cannot be reached the training logs a warning and continues;
`unmask.tracking` adds later, from `run.json`, what is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from unmask.errors import UnmaskError
from unmask.training.run_record import LoggedMetrics, RunDescription

logger = logging.getLogger(__name__)

# They announce URLs, schemas and retries; the job's log has what matters.
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

# MLflow's defaults retry for four minutes where nothing listens, for sixteen where nothing answers.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
# The first sample is logged after one interval; trainings on small data take ten seconds.
os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "5")

_RUN_ID = "unmask.run_id"
# A server that failed is left alone for this long.
_PAUSE_S = 60.0


def git_state() -> dict[str, str]:
    """Return the commit of the code and whether it has uncommitted changes, where git knows."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": str(bool(git("status", "-s")))}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": "not a git checkout", "git_dirty": "unknown"}


def connect(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """Return a client, and the id of the experiment, which is created if there is none.

    Raises:
        UnmaskError: the experiment has been deleted.
    """
    # A server keeps artifacts itself; a database file keeps them in a folder next to it.
    artifacts = Path("mlartifacts").resolve().as_uri() if uri.startswith("sqlite:") else None
    with ExitStack() as stack:
        if uri.startswith("sqlite:///"):
            # Of eight processes that created a database at once, seven failed.
            path = Path(uri.removeprefix("sqlite:///"))
            lock = stack.enter_context(path.with_name(f".{path.name}.lock").open("a"))
            fcntl.lockf(lock, fcntl.LOCK_EX)
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage == "deleted":
            raise UnmaskError(
                f"tracking.experiment: {experiment} has been deleted from {uri}; name another, or "
                f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore "
                f"--experiment-id {found.experiment_id}"
            )
        if found is not None:
            if artifacts not in (None, found.artifact_location):
                logger.warning(
                    "artifacts of MLflow's experiment %s go to %s, where it was created; for %s, "
                    "name another in tracking.experiment",
                    *(experiment, found.artifact_location, artifacts),
                )
            return client, str(found.experiment_id)
        try:
            return client, str(client.create_experiment(experiment, artifact_location=artifacts))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another job was faster
                raise
    return connect(uri, experiment)


def describe_run(
    run_id: str,
    name: str,
    parameters: dict[str, Any],
    crops: Mapping[str, pd.DataFrame],
    splits: Path,
) -> RunDescription:
    """Describe a run that starts now.

    Args:
        run_id: random, or that of a job that was killed.
        name: of the run.
        parameters: all settings and counts of the training, flat.
        crops: by role, the crops that the training uses: rows with part, video, key and label.
        splits: the table that they come from.
    """
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]
    data_sets = {}
    with warnings.catch_warnings():
        # A local path can be read in two ways, and MLflow warns that it chose one.
        warnings.simplefilter("ignore", UserWarning)
        for role, rows in crops.items():
            used = rows[["part", "video", "key", "label"]]
            data_set = from_pandas(used, source=str(splits), name=f"faces-{role}")
            data_sets[role] = {key: str(value) for key, value in data_set.to_dict().items()}
    tags = {**resolve_tags(), **git_state(), "config_digest": digest}
    return RunDescription(run_id, name, now_ms(), parameters, tags, data_sets)


def find_run(client: MlflowClient, experiment_id: str, description: RunDescription) -> Run:
    """Return the MLflow run of a training with its parameters and tags; create it if absent."""
    query = f"tags.`{_RUN_ID}` = '{description.run_id}'"
    found = client.search_runs([experiment_id], query, run_view_type=ViewType.ALL)
    tags = {**description.tags, _RUN_ID: description.run_id}
    run = (
        found[0]
        if found
        else client.create_run(experiment_id, description.started_ms, tags, description.name)
    )
    new = {k: v for k, v in description.parameters.items() if k not in run.data.params}
    client.log_batch(
        run.info.run_id,
        params=[Param(key, str(value)) for key, value in new.items()],
        tags=[RunTag(*pair) for pair in tags.items()],
    )
    if run.inputs is None or not run.inputs.dataset_inputs:
        data_sets = [
            DatasetInput(Dataset(**data_set), [InputTag("mlflow.data.context", role)])
            for role, data_set in description.data_sets.items()
        ]
        client.log_inputs(run.info.run_id, data_sets)
    client.log_dict(run.info.run_id, description.parameters, "config.json")
    return run


def to_mlflow(logged: LoggedMetrics) -> list[Metric]:
    """Return metrics as MLflow's client takes them."""
    return [
        Metric(name, value, logged.time_ms, logged.step) for name, value in logged.metrics.items()
    ]


def now_ms() -> int:
    """Return the time as MLflow counts it."""
    return time.time_ns() // 1_000_000


def reason(error: BaseException) -> str:
    """Return the first line of the error that caused an error: a connection refused, say."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


class LiveRun:
    """A context in which a run is logged to MLflow: at its end finished or, after an error, failed.

    A thread of its own talks to MLflow: training does not wait for it.
    """

    def __init__(self, uri: str, experiment: str, description: RunDescription) -> None:
        """Take where MLflow is, and a run that starts now or continues that of a killed job."""
        self._uri, self._experiment, self._description = uri, experiment, description
        self._paused_until = 0.0
        self._thread = ThreadPoolExecutor(1, "mlflow")

    def __enter__(self) -> LiveRun:
        """Start the run, and wait for it: loaders must not be forked while the thread works."""
        self._thread.submit(self._attempt, lambda run_id: None).result()
        return self

    def log(self, logged: LoggedMetrics) -> None:
        """Log metrics, if MLflow can be reached."""
        client, metrics = MlflowClient(self._uri), to_mlflow(logged)
        self._thread.submit(self._attempt, lambda run_id: client.log_batch(run_id, metrics))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the run, once all has been logged."""
        status = "FINISHED" if kind is None else "FAILED"
        self._thread.submit(self._attempt, lambda run_id: mlflow.end_run(status))
        self._thread.shutdown()

    def _attempt(self, log: Callable[[str], Any]) -> None:
        if time.monotonic() < self._paused_until:
            return
        try:
            log((mlflow.active_run() or self._start()).info.run_id)
        except Exception as error:  # whatever MLflow raises: it must not end a training
            if not self._paused_until:
                consequence = "training continues, and rule `track` adds later what is missing"
                logger.warning("MLflow at %s: %s; %s", self._uri, reason(error), consequence)
            self._paused_until = time.monotonic() + _PAUSE_S
        else:
            self._paused_until = 0.0

    def _start(self) -> mlflow.ActiveRun:
        client, experiment_id = connect(self._uri, self._experiment)
        run = find_run(client, experiment_id, self._description)
        mlflow.set_tracking_uri(self._uri)
        return mlflow.start_run(run.info.run_id, log_system_metrics=True)
