"""MLflow: everything that talks to it.

One run per training job. Its id is in that job's `run.json`, and evaluation and export log into the
same run. There is no autologging: beside Lightning's logger it would open runs of its own.

Where the server cannot be reached a job stops before it does anything, or logs into a piece of its
own (`unmask.buffer`), which `sync_tracking` copies to the server later (`tracking.on_unreachable`).
A server that goes away during a training costs nothing either way: what it missed is kept in a
piece, and delivered when the training ends.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT
from pytorch_lightning.loggers import Logger
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from unmask.buffer import (
    Piece,
    create_piece,
    deliver,
    experiment_id,
    find_pieces,
    find_run,
    is_at_work,
    keep_bundle,
    patient,
    register,
)
from unmask.config import TrackingConfig
from unmask.errors import UnmaskError
from unmask.files import write_json
from unmask.provenance import git_state

logger = logging.getLogger(__name__)

# MLflow announces URLs and schemas on the terminal; the job's log has what matters.
logging.getLogger("mlflow").setLevel(logging.WARNING)

_ENVIRONMENT = "MLFLOW_TRACKING_URI"
# Files that a server cannot store come as what requests raises, a broken database as SQLAlchemy's.
_FAILURES = (MlflowException, RequestException, SQLAlchemyError)
# A server that went away is asked again after this time; until then the piece is faster.
_AWAY_S = 300.0

# What logs into a run, given who has it and its id there.
Call = Callable[[MlflowClient, str], Any]


def tracking_uri(config: TrackingConfig) -> str:
    """Return the URI of the tracking server or database; the environment wins."""
    return os.environ.get(_ENVIRONMENT) or config.uri


@dataclass(frozen=True)
class Tracking:
    """Where MLflow keeps runs.

    Attributes:
        uri: of the server or database.
        experiment: MLflow experiment.
        buffers: whether a job that cannot reach the server logs into a piece.
        pieces: folder of the pieces.
    """

    uri: str
    experiment: str
    buffers: bool
    pieces: Path

    @classmethod
    def read(cls, path: Path) -> Tracking:
        """Read what `create_tracking` wrote."""
        content = json.loads(path.read_text())
        buffers = content["on_unreachable"] == "buffer"
        return cls(_moved(content["uri"]), content["experiment"], buffers, path.with_suffix(""))

    @classmethod
    def of_run(cls, run: Mapping[str, Any]) -> Tracking:
        """Return where the run of a `run.json` is; whether jobs buffer may have changed since."""
        uri, experiment = _moved(run["tracking_uri"]), run["tracking_experiment"]
        path = Path(run.get("tracking", "results/tracking.json"))
        if not path.is_file():
            return cls(uri, experiment, False, path.with_suffix(""))
        return replace(cls.read(path), uri=uri, experiment=experiment)


def _moved(uri: str) -> str:
    """Return where a server that was remembered is now: another node may have it tomorrow."""
    named = os.environ.get(_ENVIRONMENT, "")
    return named if _is_server(uri) and _is_server(named) else uri


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def create_tracking(config: TrackingConfig, output: Path) -> None:
    """Create database and experiment, once, before any job uses them.

    Several processes that create an SQLite database at once break it (7 of 8 crashed when tried);
    on an existing one they do not.

    Args:
        config: the `tracking` section.
        output: JSON that says where runs are kept.

    Raises:
        UnmaskError: the server or database cannot be used, and jobs are not to buffer.
    """
    uri = tracking_uri(config)
    # A server keeps artifacts itself; a database file keeps them in a folder beside it.
    artifacts = Path("mlartifacts").resolve().as_uri() if uri.startswith("sqlite:") else None
    identifier = None
    try:
        identifier = experiment_id(MlflowClient(uri), config.experiment, artifacts)
        logger.info("experiment %s (id %s) at %s", config.experiment, identifier, uri)
    except _FAILURES as error:
        if not (config.on_unreachable == "buffer" and _is_away(uri, error)):
            raise _told(uri, error) from None
        logger.warning("no MLflow at %s (%s): jobs will buffer their runs", uri, _reason(error))
    content = {"uri": uri, "experiment": config.experiment, "experiment_id": identifier}
    write_json(content | {"on_unreachable": config.on_unreachable}, output)


def _is_away(uri: str, error: Exception) -> bool:
    """Tell whether there is no answer of an MLflow server, rather than one that refuses."""
    return _is_server(uri) and not isinstance(error, RestException)


def _reason(error: BaseException) -> str:
    """Return the first line of what is at the bottom of an error: a connection refused, say."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


def _told(uri: str, error: Exception) -> UnmaskError:
    place = _ENVIRONMENT if os.environ.get(_ENVIRONMENT) == uri else "tracking.uri"
    if _is_away(uri, error):
        return UnmaskError(
            f"{place}: no MLflow answers at {uri} ({_reason(error)}); start the server, name "
            f"another in tracking.uri or {_ENVIRONMENT}, or set tracking.on_unreachable to buffer"
        )
    return UnmaskError(
        f"{place}: MLflow at {uri} says: {str(error).splitlines()[0]}; set tracking.uri or "
        f"{_ENVIRONMENT}; a run that was deleted comes back with `mlflow runs restore --run-id ID`"
    )


class TrackedRun:
    """A run that is logged into: at its server or, while that is away, in a piece.

    Attributes:
        id: what `run.json` calls it: the server's id, or that of its first piece.
        uri: of the server or database.
        experiment: MLflow experiment.
    """

    def __init__(self, where: Tracking, name: str, run_id: str | None, keeps: bool) -> None:
        """Find the run, or create it.

        Args:
            where: it is.
            name: of the run, and of the folder of its pieces.
            run_id: what `run.json` or a checkpoint calls it; None creates it.
            keeps: log into a piece what cannot be logged later on.

        Raises:
            UnmaskError: the server cannot be reached, and jobs are not to buffer; or it refuses.
        """
        self.uri, self.experiment = where.uri, where.experiment
        self._where, self._name, self._keeps = where, name, keeps
        self._client: MlflowClient | None = None
        self._run_id: str | None = None
        self._piece: Piece | None = None
        self._away_until = 0.0
        self._lock = threading.RLock()
        try:
            self._client = MlflowClient(where.uri)
            self._run_id = self._create() if run_id is None else self._find(run_id)
        except _FAILURES as error:
            if not (where.buffers and _is_away(where.uri, error)):
                raise _told(where.uri, error) from None
            logger.warning("no MLflow at %s (%s)", where.uri, _reason(error))
        self._known_as = self._run_id or run_id
        self.id = self._known_as or self._open_piece().run_id

    @property
    def is_at_server(self) -> bool:
        """Tell whether the server was there and has the run."""
        return self._run_id is not None

    def _create(self) -> str:
        assert self._client is not None
        identifier = experiment_id(self._client, self.experiment)
        run = self._client.create_run(identifier, tags=resolve_tags(), run_name=self._name)
        return str(run.info.run_id)

    def _find(self, run_id: str) -> str | None:
        assert self._client is not None
        found = find_run(self._client, self.experiment, run_id)
        if found is None and not (self._where.buffers and _is_server(self.uri)):
            raise UnmaskError(
                f"MLflow at {self.uri} has no run {run_id}; copy buffered runs to it with `unmask "
                f"sync-tracking`, or name the one that has it in {_ENVIRONMENT}"
            )
        return found

    def _open_piece(self) -> Piece:
        if self._piece is None or not self._piece.folder.exists():
            folder = self._where.pieces / self._name
            self._piece = create_piece(folder, self.experiment, self._name, self._known_as)
            logger.warning("what MLflow is to be told is kept in %s", self._piece.folder)
        return self._piece

    def log(self, call: Call, in_piece: Call | None = None) -> Any:
        """Log by a call that may be made twice; threads take turns.

        Args:
            call: does it.
            in_piece: does it in a piece, where that is something else.

        Raises:
            UnmaskError: it cannot be logged, and nothing is to be kept.
        """
        with self._lock:
            if self._client and self._run_id and time.monotonic() >= self._away_until:
                try:
                    return call(self._client, self._run_id)
                except _FAILURES as error:
                    if not self._keeps:
                        raise _told(self.uri, error) from None
                    self._away_until = time.monotonic() + _AWAY_S
                    logger.warning("MLflow at %s: %s", self.uri, _reason(error))
            piece = self._open_piece()
            try:
                return (in_piece or call)(piece.client, piece.run_id)
            except _FAILURES as error:
                raise UnmaskError(f"{piece.folder}: cannot be written: {_reason(error)}") from None

    def finish(self) -> None:
        """End what is kept in a piece."""
        if self._piece is not None:
            self._piece.client.set_terminated(self._piece.run_id, "FINISHED")


class TrainingRun(TrackedRun):
    """The run of a training job; what is logged into it is not lost, whatever the server does."""

    def __init__(self, where: Tracking, name: str, run_id: str | None) -> None:
        """Find the run, or create it, as `TrackedRun` does."""
        super().__init__(where, name, run_id, keeps=True)
        # One thread: the training does not wait for the server, and all is told in order.
        self._sender = ThreadPoolExecutor(1, "mlflow")
        self._sent: list[Future[Any]] = []

    def _find(self, run_id: str) -> str | None:
        found = super()._find(run_id)
        if found is not None and self._client is not None:
            self._client.update_run(found, "RUNNING")  # a run that was deleted refuses
        return found

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of this moment without waiting for it."""
        batch = _metrics(metrics, step)
        call = self._sender.submit(
            self.log, lambda client, run_id: client.log_batch(run_id, metrics=batch)
        )
        self._sent.append(call)

    def log_data(self, faces: Mapping[str, pd.DataFrame], splits: Path) -> None:
        """Record which crops were used in which role, with MLflow's digest of their keys."""
        inputs = []
        for role, rows in faces.items():
            used = rows[["part", "video", "key", "label"]]
            with warnings.catch_warnings():
                # MLflow finds two equal readings of a local path, and warns that it took one.
                warnings.simplefilter("ignore", UserWarning)
                data = from_pandas(used, source=str(splits), name=f"faces-{role}")
            tags = [InputTag(MLFLOW_DATASET_CONTEXT, str(role))]
            inputs.append(DatasetInput(Dataset(**data.to_dict()), tags))
        self.log(lambda client, run_id: client.log_inputs(run_id, inputs))

    def lightning_logger(self) -> Logger:
        """Return a Lightning logger that writes into this run."""
        return _LightningLogger(self)

    def finish(self) -> None:
        """End the run, once all is at the server that it missed, also in a job that was killed.

        Raises:
            UnmaskError: the server is away, and jobs are not to buffer.
        """
        self._flush()
        if self._client is None or self._run_id is None:
            self.log(lambda client, run_id: client.set_terminated(run_id, "FINISHED"))
            return
        try:
            for folder in find_pieces(self._where.pieces / self._name):
                deliver(folder, self._client, ended=True)
            self._client.set_terminated(self._run_id, "FINISHED")
        except _FAILURES as error:
            piece = self._open_piece()
            piece.client.set_terminated(piece.run_id, "FINISHED")
            if not self._where.buffers:
                raise UnmaskError(
                    f"{self._where.pieces}: it has what MLflow at {self.uri} is still to be told "
                    f"({_reason(error)}); start the server and run the same command again, which "
                    "goes on where this one ends"
                ) from None
            logger.warning("MLflow at %s: %s", self.uri, _reason(error))

    def abandon(self) -> None:
        """End the run of a job that did not come to its end."""
        with suppress(UnmaskError, OSError):  # beside what ended it they tell nothing
            self._flush()
            self.log(lambda client, run_id: client.set_terminated(run_id, "FAILED"))

    def _flush(self) -> None:
        self._sender.shutdown()
        for call in self._sent:
            call.result()


class _LightningLogger(Logger):
    """Lightning's MLFlowLogger ends the run with the fit, and knows one server only."""

    def __init__(self, run: TrainingRun) -> None:
        super().__init__()
        self._run = run

    @property
    def name(self) -> str:
        return self._run.experiment

    @property
    def version(self) -> str:
        return self._run.id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._run.log_metrics(metrics, step or 0)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The run has all settings already."""


class _SystemMetrics(SystemMetricsMonitor):
    """MLflow's monitor ends at the first sample that it cannot deliver; this one goes on."""

    def __init__(self, run: TrainingRun) -> None:
        super().__init__(run.id, resume_logging=run.is_at_server, tracking_uri=run.uri)
        self._run = run

    def monitor(self) -> None:
        while not self._shutdown_event.is_set():
            for _ in range(self.samples_before_logging):
                self.collect_metrics()
                self._shutdown_event.wait(self.sampling_interval)
            sampled = {f"system/{key}": value for key, value in self.aggregate_metrics().items()}
            self._run.log_metrics(sampled, self._logging_step)
            self._logging_step += 1
            for monitor in self.monitors:
                monitor.clear_metrics()


def _metrics(metrics: Mapping[str, float], step: int = 0) -> list[Metric]:
    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in metrics.items()]


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

    Raises:
        UnmaskError: the server cannot be reached or refuses; at the end, it went away, and jobs
            are not to buffer.
    """
    run = TrainingRun(Tracking.read(tracking), name, run_id)
    params = [Param(key, str(value)) for key, value in settings.items()]
    tags = {"config_digest": _digest(settings), **git_state()}

    def describe(client: MlflowClient, run_id: str) -> None:
        client.log_batch(run_id, params=params, tags=[RunTag(*pair) for pair in tags.items()])
        client.log_dict(run_id, dict(settings), "config.json")

    monitor = _SystemMetrics(run)
    try:
        run.log(describe)
        monitor.start()
        yield run
    except BaseException:
        monitor.finish()
        run.abandon()
        raise
    monitor.finish()
    run.finish()


@contextmanager
def continue_run(run: Mapping[str, Any]) -> Iterator[TrackedRun]:
    """Reopen the run that a `run.json` names.

    Raises:
        UnmaskError: the server cannot be reached, and jobs are not to buffer; or it refuses.
    """
    where = Tracking.of_run(run)
    name = f"{run['experiment']}-{run['model']}"
    tracked = TrackedRun(where, name, run["run_id"], where.buffers)
    yield tracked
    tracked.finish()


def log_evaluation(
    run: Mapping[str, Any], metrics: Mapping[str, float], files: Mapping[Path, str]
) -> None:
    """Log metrics and files (path to artifact folder) into the run of a training job."""
    batch = _metrics(metrics)

    def log(client: MlflowClient, run_id: str) -> None:
        client.log_batch(run_id, metrics=batch)
        for path, folder in files.items():
            client.log_artifact(run_id, str(path), folder)

    with continue_run(run) as tracked:
        tracked.log(log)


def register_bundle(
    run: Mapping[str, Any], name: str, bundle: Path, metrics: Mapping[str, float]
) -> str:
    """Register an exported bundle as the newest model version, alias `champion`.

    Returns:
        The version, or when there will be one.
    """
    path = f"bundle/{bundle.name}"
    told = {"name": name, "path": path, "exported_ns": time.time_ns(), "metrics": dict(metrics)}

    def log_files(client: MlflowClient, run_id: str) -> None:
        with patient():
            client.log_artifacts(run_id, str(bundle), path)

    def log(client: MlflowClient, run_id: str) -> str:
        log_files(client, run_id)
        return register(client, run_id, told)

    def keep(client: MlflowClient, run_id: str) -> str:
        log_files(client, run_id)
        keep_bundle(client, run_id, told)
        return "once it is at the server"

    with continue_run(run) as tracked:
        return str(tracked.log(log, keep))


def track_runs(
    runs: list[Path], evaluation: Path, bundle: Path, config: TrackingConfig, output: Path
) -> None:
    """Log the results of all models into their MLflow runs, and register the bundle.

    Args:
        runs: `run.json` of all models.
        evaluation: folder with one evaluation folder per experiment.
        bundle: the exported bundle, registered for the run of its first model.
        config: the `tracking` section.
        output: JSON: the MLflow run of each model.

    Raises:
        UnmaskError: the server cannot be reached, or refuses.
    """
    jobs = [json.loads(path.read_text()) for path in runs]
    sets_file = evaluation / "sets.json"
    sets = json.loads(sets_file.read_text()) if sets_file.is_file() else {}
    for job in jobs:
        experiment, model = job["experiment"], job["model"]
        folder = evaluation / experiment
        values = json.loads((folder / "metrics.json").read_text())["models"][model]
        metrics = {f"test/{k}": v for k, v in values.items() if isinstance(v, int | float)}
        for name, of_set in sets.get(experiment, {}).get(model, {}).items():
            metrics[f"set/{name}/log_loss"] = of_set["log_loss"]
        if (folder / "shifts.json").is_file():
            metrics |= _shift_metrics(json.loads((folder / "shifts.json").read_text()), model)
        files = [path for path in sorted(folder.iterdir()) if path.suffix != ".parquet"]
        log_evaluation(job, metrics, dict.fromkeys(files, "evaluation"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    first = manifest["members"][0]
    (run,) = (job for job in jobs if job["run_id"] == first["run_id"])
    numbers = {k: v for k, v in manifest["metrics"].items() if isinstance(v, int | float)}
    version = register_bundle(run, config.model, bundle, numbers)
    logger.info("%s: model version %s", bundle, version)
    write_json({f"{job['experiment']}/{job['model']}": job["run_id"] for job in jobs}, output)


def _shift_metrics(shifts: Mapping[str, Any], model: str) -> dict[str, float]:
    test = shifts["models"][model]
    losses = {"clean": test["clean"], **test["shifts"], "worst": test["shifts"][test["worst"]]}
    metrics = {f"shift/{name}/log_loss": one["log_loss"] for name, one in losses.items()}
    metrics["shift/mean/log_loss"] = test["mean_log_loss"]
    metrics["shift/selection_score"] = shifts["selection_scores"][model]
    return metrics


def sync_tracking(tracking: Path) -> None:
    """Copy all that jobs buffered to the server; what was copied is removed here.

    Args:
        tracking: what `create_tracking` wrote.

    Raises:
        UnmaskError: the server cannot be reached, or refuses; what is left is copied next time.
    """
    if not tracking.is_file():
        raise UnmaskError(f"{tracking}: not there; run snakemake first, or name it by --tracking")
    where = Tracking.read(tracking)
    pieces = find_pieces(where.pieces)
    try:
        server = MlflowClient(where.uri)
        experiment_id(server, where.experiment)
        for folder in pieces:
            if is_at_work(folder):
                logger.info("%s: left, as its job is at work", folder)
                continue
            run_id = deliver(folder, server, create=True)
            kept = "; kept, as its job did not end" if folder.exists() else ""
            logger.info("%s: copied into run %s%s", folder, run_id, kept)
    except _FAILURES as error:
        raise _told(where.uri, error) from None
    logger.info("%d buffered pieces in %s", len(pieces), where.pieces)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
