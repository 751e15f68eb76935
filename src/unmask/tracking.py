"""MLflow, brought up to date with what is in the results folder.

Trainings log live (`unmask.training.live_tracking`); no other stage talks to MLflow. At the end of
the workflow `track_runs` adds what is missing: runs or parts of runs from times without a server,
the results of evaluation, and the bundle in the model registry. It changes nothing that is there,
so it may run at any time and be repeated.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from mlflow import MlflowClient, pyfunc
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

import unmask
from unmask.errors import UnmaskError
from unmask.evaluation.metrics import Metrics
from unmask.evaluation.results import ExperimentMetrics, ExperimentShifts
from unmask.files import read_json, write_json
from unmask.inference import registered
from unmask.inference.predictor import MANIFEST
from unmask.inference.records import Manifest
from unmask.training.live_tracking import connect, find_run, reason, to_mlflow
from unmask.training.run_record import LoggedMetrics, RunRecord

logger = logging.getLogger(__name__)

# Files that a server cannot store come as what requests raises, a broken database as SQLAlchemy's.
_FAILURES = (MlflowException, RequestException, SQLAlchemyError)

# Tags of a model version: which bundle it is, and when that was exported.
_DIGEST = "unmask.manifest_sha256"
_EXPORTED = "unmask.exported_ns"


def track_runs(
    runs: Sequence[Path],
    results: Sequence[Path],
    bundle: Path,
    uri: str,
    experiment: str,
    model: str,
    output: Path,
) -> None:
    """Bring MLflow up to date with all trainings, their results and the bundle.

    Args:
        runs: `run.json` of all models.
        results: `metrics.json` of all experiments and, where there are such, their `shifts.json`
            and `sets.json`. Figures and pages in the folders of experiments are logged as well.
        bundle: the exported bundle, registered as a version of the run of its first model.
        uri: of MLflow's server or database.
        experiment: name of MLflow's experiment.
        model: name in MLflow's model registry.
        output: JSON: `uri`, `experiment`, the MLflow run of each model, and the bundle's version.

    Raises:
        UnmaskError: MLflow cannot be reached, or refuses.
    """
    records = [RunRecord.read(path) for path in runs]
    run_ids = {}
    with _failing_in_one_line(uri):
        client, experiment_id = connect(uri, experiment)
        for record in records:
            run_ids[record.description.run_id] = complete_run(
                client, experiment_id, record, results
            )
        version = register_bundle(client, run_ids, bundle, model)
    logger.info("%d runs at %s, %s is version %s of %s", len(runs), uri, bundle, version, model)
    names = {record.description.name: run_ids[record.description.run_id] for record in records}
    content = {"uri": uri, "experiment": experiment, "runs": names, "model_version": version}
    write_json(content, output)


@contextmanager
def _failing_in_one_line(uri: str) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        raise UnmaskError(
            f"tracking.uri: MLflow at {uri}: {reason(error)}; rerun when it can be reached, or "
            "name another in tracking.uri or MLFLOW_TRACKING_URI; a deleted run comes back with "
            "`mlflow runs restore --run-id …`"
        ) from None


def complete_run(
    client: MlflowClient, experiment_id: str, record: RunRecord, results: Sequence[Path]
) -> str:
    """Log what MLflow's run of a training still lacks; return the run's id."""
    run = find_run(client, experiment_id, record.description)
    run_id = str(run.info.run_id)
    _log_missing(client, run_id, record.history)
    _log_missing(client, run_id, _results(results, record.experiment, record.model))
    folders = {path.parent for path in results if path.parent.name == record.experiment}
    for path in sorted(path for folder in folders for path in folder.iterdir()):
        if path.suffix != ".parquet":
            client.log_artifact(run_id, str(path), "evaluation")
    if run.info.status != "FINISHED":
        client.set_terminated(run_id, "FINISHED", record.ended_ms)
    return run_id


def _results(paths: Sequence[Path], experiment: str, model: str) -> Iterator[LoggedMetrics]:
    """Yield a model's results, at the times of their files: a repetition logs the same."""
    for path in paths:
        if path.name == "sets.json":
            sets = read_json(path, dict[str, dict[str, dict[str, Metrics]]])[experiment][model]
            metrics = {f"set/{name}/log_loss": one.log_loss for name, one in sets.items()}
        elif path.parent.name != experiment:
            continue
        elif path.name == "shifts.json":
            metrics = _shift_metrics(read_json(path, ExperimentShifts), model)
        else:
            values = read_json(path, ExperimentMetrics).models[model].values()
            metrics = {f"test/{name}": value for name, value in values.items() if value is not None}
        yield LoggedMetrics(0, path.stat().st_mtime_ns // 1_000_000, metrics)


def _shift_metrics(shifts: ExperimentShifts, model: str) -> dict[str, float]:
    test = shifts.models[model]
    clips = {"clean": test.clean, **test.shifts, "worst": test.shifts[test.worst]}
    return {
        **{f"shift/{name}/log_loss": metrics.log_loss for name, metrics in clips.items()},
        "shift/mean/log_loss": test.mean_log_loss,
        "shift/selection_score": shifts.selection_scores[model],
    }


def _log_missing(client: MlflowClient, run_id: str, history: Iterable[LoggedMetrics]) -> None:
    """Log the metrics that a run does not have at their step and time."""
    metrics = [metric for logged in history for metric in to_mlflow(logged)]
    known = {
        _point(metric)
        for name in {metric.key for metric in metrics}
        for metric in client.get_metric_history(run_id, name)
    }
    client.log_batch(run_id, [metric for metric in metrics if _point(metric) not in known])


def _point(metric: Metric) -> tuple[str, int, int]:
    return metric.key, metric.step, metric.timestamp


def save_model(bundle: Path, folder: Path) -> None:
    """Write a bundle as a model that `mlflow.pyfunc.load_model` loads.

    Wheels are left out: whoever loads the model has installed unmask.
    """
    text = DataType.string
    outputs = Schema([ColSpec(DataType[kind], name) for name, kind in registered.COLUMNS.items()])
    with TemporaryDirectory() as temporary:
        data = Path(temporary, bundle.name)
        data.mkdir()
        for file in bundle.iterdir():
            if file.suffix != ".whl" and not file.name.startswith("."):  # Snakemake's time stamp
                (data / file.name).symlink_to(file.resolve())
        pyfunc.save_model(
            folder,
            loader_module=registered.__name__,
            data_path=str(data),
            signature=ModelSignature(Schema([ColSpec(text, "video")]), outputs),
            input_example=pd.DataFrame({"video": ["path/to/video.mp4"]}),
            pip_requirements=[f"unmask=={unmask.__version__}"],
        )


def register_bundle(
    client: MlflowClient, run_ids: Mapping[str, str], bundle: Path, name: str
) -> str:
    """Register a bundle once as a version of the model `name`, and return the version.

    It becomes an artifact of the run of its first model. It gets the alias `champion`, unless
    the champion was exported later. `run_ids` are MLflow's, by the ids in the manifest.
    """
    path = bundle / MANIFEST
    manifest = read_json(path, Manifest)
    digest, exported = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    versions = {
        str(one.version): one.tags for one in client.search_model_versions(f"name = '{name}'")
    }
    version = next((one for one, tags in versions.items() if tags.get(_DIGEST) == digest), None)
    if version is None:
        run_id = run_ids[manifest.members[0].run_id]
        folder = f"bundle/{bundle.name}-{digest[:8]}"
        with TemporaryDirectory() as temporary:
            save_model(bundle, Path(temporary, "model"))
            client.log_artifacts(run_id, str(Path(temporary, "model")), folder)
        tags = {key: f"{value:.4f}" for key, value in manifest.metrics.items() if value is not None}
        tags |= {_DIGEST: digest, _EXPORTED: str(exported)}
        source = f"{client.get_run(run_id).info.artifact_uri}/{folder}"
        version = str(client.create_model_version(name, source, run_id, tags).version)
    champion = str(client.get_registered_model(name).aliases.get("champion"))
    if int(versions.get(champion, {}).get(_EXPORTED, 0)) <= exported and champion != version:
        client.set_registered_model_alias(name, "champion", version)
    return version
