"""Runs that wait for their MLflow server.

A piece is what one job logged of a run while the server was away: a folder that no other job
writes to, since SQLite breaks under writers on several nodes.

    results/tracking/EXPERIMENT-MODEL/TIME/
        mlflow.db       one run: parameters, metrics with steps and times, tags, data, status
        artifacts/      its files

`deliver` copies a piece into the server's run. What it writes it can write again: MLflow keeps one
of equal parameters, tags, data and metrics, a file replaces itself, and the server's run and the
model version carry a tag by which they are found. So a delivery that was killed is started again.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

logger = logging.getLogger(__name__)

# MLflow tries for four minutes where nothing listens, for sixteen where nothing answers. Since what
# it cannot be told is not lost, a minute of waiting is enough; whoever sets these variables wins.
_TIMEOUT, _TIMEOUT_S = "MLFLOW_HTTP_REQUEST_TIMEOUT", "20"
_TIMEOUT_IS_OURS = _TIMEOUT not in os.environ
os.environ.setdefault(_TIMEOUT, _TIMEOUT_S)
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")

# On a piece: the id that run.json has of its run, the run's experiment, and a bundle to register.
_RUN = "unmask.run"
_EXPERIMENT = "unmask.experiment"
_BUNDLE = "unmask.bundle"
# On the server: the id that a run had in its first piece; when a bundle was exported.
_BUFFERED_AS = "unmask.buffered_as"
_EXPORTED = "unmask.exported_ns"

_DATABASE = "mlflow.db"
# A job at work writes its system metrics every ten seconds.
_AT_WORK_S = 600.0


@contextmanager
def patient() -> Iterator[None]:
    """Give the server MLflow's own two minutes to answer: it may have to pass on a large file."""
    if _TIMEOUT_IS_OURS:
        os.environ.pop(_TIMEOUT, None)
    try:
        yield
    finally:
        os.environ.setdefault(_TIMEOUT, _TIMEOUT_S)


@dataclass(frozen=True)
class Piece:
    """What one job logged while the server was away."""

    folder: Path
    client: MlflowClient
    run_id: str


def create_piece(folder: Path, experiment: str, name: str, run_id: str | None) -> Piece:
    """Create an empty piece.

    Args:
        folder: of the run's pieces; the piece gets a folder of its own in it.
        experiment: of the server's run.
        name: of the run.
        run_id: the id that `run.json` has of the run; None where it begins with this piece.
    """
    # By time, so that they are delivered in order; two jobs may begin in the same second.
    folder = folder / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
    folder.mkdir(parents=True)
    client = _client_of(folder)
    artifacts = (folder / "artifacts").resolve().as_uri()
    place = client.create_experiment("buffered", artifact_location=artifacts)
    tags = resolve_tags() | {_EXPERIMENT: experiment} | ({_RUN: run_id} if run_id else {})
    run = client.create_run(place, tags=tags, run_name=name)
    return Piece(folder, client, run.info.run_id)


def find_pieces(folder: Path) -> list[Path]:
    """Return the folders of all pieces below a folder, the oldest first."""
    return sorted((path.parent for path in folder.rglob(_DATABASE)), key=lambda path: path.name)


def is_at_work(folder: Path) -> bool:
    """Tell whether a job writes into a piece, as far as can be told."""
    if time.time() - (folder / _DATABASE).stat().st_mtime >= _AT_WORK_S:
        return False
    run = _run_of(_client_of(folder))
    return run is None or bool(run.info.status == "RUNNING")


def find_run(server: MlflowClient, experiment: str, run_id: str) -> str | None:
    """Return the server's id of a run that `run.json` names, or None where it has no such run."""
    try:
        return str(server.get_run(run_id).info.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    found = server.search_runs(
        [experiment_id(server, experiment)], f"tags.`{_BUFFERED_AS}` = '{run_id}'"
    )
    return str(found[0].info.run_id) if found else None


def experiment_id(server: MlflowClient, name: str, artifacts: str | None = None) -> str:
    """Return the id of an experiment, which is created where there is none."""
    found = server.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(server.create_experiment(name, artifact_location=artifacts))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another job was faster
            raise
    return experiment_id(server, name, artifacts)


def deliver(
    folder: Path, server: MlflowClient, create: bool = False, ended: bool = False
) -> str | None:
    """Copy a piece into the server's run, and remove it if its job has ended.

    Args:
        folder: the piece.
        server: where the run is.
        create: create the run where the server has none; only one process at a time may.
        ended: the job has ended, though it could not say so.

    Returns:
        The server's id of the run; None where it has none, and the piece stays.
    """
    local = _client_of(folder)
    run = _run_of(local)
    if run is None:  # its job was killed before it logged anything
        shutil.rmtree(folder, ignore_errors=True)
        return None
    tags = run.data.tags
    run_id, experiment = tags.get(_RUN, run.info.run_id), tags[_EXPERIMENT]
    target = find_run(server, experiment, run_id)
    if target is None and create:
        target = server.create_run(
            experiment_id(server, experiment),
            start_time=run.info.start_time,
            tags=_of_the_run(tags) | {_BUFFERED_AS: run_id},
            run_name=run.info.run_name,
        ).info.run_id
    if target is None:
        return None
    _copy(local, run, server, target, folder / "artifacts" / run.info.run_id / "artifacts")
    said = run.info.status != "RUNNING"
    if said and server.get_run(target).info.status == "RUNNING":
        server.set_terminated(target, run.info.status, run.info.end_time)
    if said or ended:
        # The database first: what is left of a removal that was killed is no piece any more.
        (folder / _DATABASE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    return str(target)


def _copy(local: MlflowClient, run: Run, server: MlflowClient, target: str, files: Path) -> None:
    metrics = [
        Metric(one.key, one.value, one.timestamp, one.step)
        for key in run.data.metrics
        for one in local.get_metric_history(run.info.run_id, key)
    ]
    params = [Param(*pair) for pair in run.data.params.items()]
    tags = [RunTag(*pair) for pair in _of_the_run(run.data.tags).items()]
    server.log_batch(target, metrics, params, tags)
    if run.inputs is not None:
        server.log_inputs(target, run.inputs.dataset_inputs)
    if files.is_dir():
        with patient():
            server.log_artifacts(target, str(files))
    if _BUNDLE in run.data.tags:
        register(server, target, json.loads(run.data.tags[_BUNDLE]))


def _of_the_run(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if key not in (_RUN, _EXPERIMENT, _BUNDLE)}


def keep_bundle(client: MlflowClient, run_id: str, bundle: Mapping[str, Any]) -> None:
    """Keep in a piece what `register` needs, for when it is delivered."""
    client.set_tag(run_id, _BUNDLE, json.dumps(bundle))


def register(server: MlflowClient, run_id: str, bundle: Mapping[str, Any]) -> str:
    """Register a bundle among a run's artifacts, once, as `champion` if none was exported later.

    Args:
        server: where the run is.
        run_id: the server's id of it.
        bundle: `name` of the model, `path` among the artifacts, `exported_ns`, and `metrics`.

    Returns:
        The version.
    """
    name, exported = bundle["name"], bundle["exported_ns"]
    if not server.search_registered_models(f"name = '{name}'"):
        server.create_registered_model(name)
    versions = server.search_model_versions(f"name = '{name}'")
    times = {str(one.version): int(one.tags.get(_EXPORTED, 0)) for one in versions}
    made = [version for version, time_ns in times.items() if time_ns == exported]
    if made:
        version = made[0]
    else:
        source = f"{server.get_run(run_id).info.artifact_uri}/{bundle['path']}"
        told = {key: f"{value:.4f}" for key, value in bundle["metrics"].items()}
        tags = told | {_EXPORTED: str(exported)}
        version = str(server.create_model_version(name, source, run_id, tags=tags).version)
    champion = server.get_registered_model(name).aliases.get("champion")
    if times.get(str(champion), 0) <= exported:
        server.set_registered_model_alias(name, "champion", version)
    return version


def _client_of(folder: Path) -> MlflowClient:
    uri = f"sqlite:///{folder.resolve() / _DATABASE}"
    return MlflowClient(uri, uri)


def _run_of(local: MlflowClient) -> Run | None:
    experiments = [one.experiment_id for one in local.search_experiments()]
    return next(iter(local.search_runs(experiments)), None)
