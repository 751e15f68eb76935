"""Runs reach MLflow whole: from many processes at once, and whenever its server is there."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from servers import Server, no_postgres, postgresql

import unmask
from records import write_bundle, write_run
from unmask.config import TrackingConfig
from unmask.errors import UnmaskError
from unmask.evaluation.metrics import binary_metrics
from unmask.evaluation.results import ExperimentMetrics, ExperimentShifts, ShiftMetrics
from unmask.files import write_json
from unmask.inference.calibrate import Calibration
from unmask.inference.records import Manifest, MemberRecord, Parity
from unmask.inference.scoring_head import ScoringHead
from unmask.tracking import track_runs
from unmask.training.live_tracking import LiveRun, describe_run, now_ms
from unmask.training.run_record import LoggedMetrics, RunRecord

STEPS = 60
METRICS = binary_metrics(np.array([0.0, 1.0]), np.array([0.3, 0.6]))
FACES = pd.DataFrame(
    {"part": "p", "video": ["a.mp4", "b.mp4"], "key": ["a", "b"], "label": ["REAL", "FAKE"]}
)


@dataclass(frozen=True)
class Results:
    """A results folder, and where its trainings log."""

    folder: Path
    uri: str

    def train(self, fold: int = 0, breaks: Callable[[], None] = lambda: None) -> RunRecord:
        """Log what a training logs, and write its run.json; `breaks` happens half-way."""
        name, faces = f"fold{fold}-seed1", {"train": FACES, "val": FACES}
        description = describe_run(f"id{fold}", name, {"fold": fold}, faces, Path("splits.parquet"))
        history = []
        with LiveRun(self.uri, "unmask", description) as live:
            for step in range(STEPS):
                if step == STEPS // 2:
                    breaks()
                metrics = {"train/loss": 1 / (1 + step), "val/auc": float("nan")}
                history.append(LoggedMetrics(step, now_ms(), metrics))
                live.log(history[-1])
        path = self.folder / f"train/{name}/run.json"
        return write_run(path, "tiny", fold, description=description, history=history)

    def finish(self, log_loss: float = 0.5) -> None:
        """Write what the rules after training write."""
        models = [path.name for path in self.folder.glob("train/*")]
        tiny = self.folder / "evaluation/tiny"
        of_models = dict.fromkeys(models, METRICS)
        metrics = ExperimentMetrics("tiny", *[METRICS] * 5, [], None, {}, of_models)
        write_json(metrics, tiny / "metrics.json")
        shifted = ShiftMetrics(METRICS, {"blur": METRICS}, "blur", 0.7, 0.6)
        of_models, scores = dict.fromkeys(models, shifted), dict.fromkeys(models, 0.6)
        shifts = ExperimentShifts("tiny", 0.6, shifted, shifted, of_models, scores, {})
        write_json(shifts, tiny / "shifts.json")
        sets = {"tiny": {model: {"other": METRICS} for model in models}}
        write_json(sets, tiny.with_name("sets.json"))
        (tiny / "roc.svg").write_text("figure")
        head = ScoringHead("mean_logit", Calibration(1, 0, 0.5))
        member = MemberRecord("a", "tiny", "fold0-seed1", 0, 1, "id0", 0, "resnet", 1, head, 1)
        tested = {"log_loss": log_loss, "eer": None}
        manifest = Manifest("1", [member], tested, {}, Parity(1, 0, "a"), {}, {}, {})
        write_json(manifest, self.folder / "unmask/manifest.json")

    def track(self) -> None:
        runs, evaluation = sorted(self.folder.glob("train/*/run.json")), self.folder / "evaluation"
        names = ("tiny/metrics.json", "tiny/shifts.json", "sets.json")
        bundle, output = self.folder / "unmask", self.folder / "mlflow.json"
        found = [evaluation / name for name in names]
        track_runs(runs, found, bundle, self.uri, "unmask", "unmask", output)

    def at_mlflow(self) -> list[dict[str, Any]]:
        """Return all that MLflow knows of each run."""
        client = MlflowClient(self.uri)
        (experiment,) = client.search_experiments(filter_string="name = 'unmask'")
        found = []
        for run in client.search_runs([experiment.experiment_id], order_by=["tags.mlflow.runName"]):
            run_id = run.info.run_id
            points = {key: client.get_metric_history(run_id, key) for key in run.data.metrics}
            versions = client.search_model_versions(f"run_id = '{run_id}'")
            models = client.search_registered_models()
            content = {
                "name": run.info.run_name,
                "status": run.info.status,
                "params": run.data.params,
                "metrics": {
                    key: [(one.step, None if isnan(one.value) else one.value) for one in of]
                    for key, of in points.items()
                },
                "data": {one.dataset.name for one in run.inputs.dataset_inputs},
                "files": files_of(client, run_id),
                "versions": {int(one.version) for one in versions},
                "champions": [int(one.aliases["champion"]) for one in models],
            }
            found.append(content)
        return found


def files_of(client: MlflowClient, run_id: str, folder: str = "") -> set[str]:
    found = set()
    for one in client.list_artifacts(run_id, folder):
        found |= files_of(client, run_id, one.path) if one.is_dir else {one.path}
    return found


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "server")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    monkeypatch.chdir(tmp_path)  # where artifacts go
    return Results(tmp_path / "results", f"sqlite:///{tmp_path}/mlflow.db")


def check_complete(run: dict[str, Any], fold: int = 0) -> None:
    assert run["status"] == "FINISHED"
    assert run["params"] == {"fold": str(fold)}
    assert sorted(run["metrics"]["train/loss"]) == [(s, 1 / (1 + s)) for s in range(STEPS)]
    assert len(run["metrics"]["val/auc"]) == STEPS
    names = ["test/log_loss", "set/other/log_loss"]
    names += [f"shift/{name}/log_loss" for name in ("clean", "blur", "worst")]
    expected = dict.fromkeys(names, METRICS.log_loss)
    expected |= {"shift/mean/log_loss": 0.7, "shift/selection_score": 0.6}
    for name, value in expected.items():
        assert run["metrics"][name] == [(0, value)]
    assert run["data"] == {"faces-train", "faces-val"}
    figures = {f"evaluation/{name}" for name in ("metrics.json", "roc.svg", "shifts.json")}
    assert {"config.json", *figures} <= run["files"]


@pytest.fixture(
    params=["sqlite file", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
)
def address(request: pytest.FixtureRequest, server: Server) -> Iterator[str | None]:
    """A server with SQLite or PostgreSQL; None for a database file that does not exist yet."""
    with ExitStack() as stack:
        if request.param == "postgresql" and (why := no_postgres()):
            pytest.skip(why)
        backend = stack.enter_context(postgresql()) if request.param == "postgresql" else None
        yield None if request.param == "sqlite file" else stack.enter_context(server.up(backend))


@pytest.mark.slow
def test_eight_jobs_at_once_lose_nothing(
    address: str | None, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = replace(results, uri=address or results.uri)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    processes = multiprocessing.get_context("fork")
    together = processes.Barrier(8)

    def job(fold: int) -> None:
        together.wait(60)
        results.train(fold, lambda: time.sleep(3))

    jobs = [processes.Process(target=job, args=(fold,)) for fold in range(8)]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join(600)
    assert [one.exitcode for one in jobs] == [0] * 8
    live = [run["metrics"] for run in results.at_mlflow()]
    curves = [one for one in live if len(one.get("train/loss", [])) == STEPS]
    assert len(curves) >= 4  # a busy machine keeps the database locked for too long
    assert all("system/cpu_utilization_percentage" in one for one in curves)
    results.finish()
    results.track()
    runs = results.at_mlflow()
    assert [run["name"] for run in runs] == [f"fold{fold}-seed1" for fold in range(8)]
    for fold, run in enumerate(runs):
        check_complete(run, fold)


@pytest.mark.slow
def test_a_server_that_is_away_gets_everything_later_and_once(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = Results(tmp_path, server.uri)
    results.train()
    assert "Connection refused" in caplog.text
    results.finish()
    with pytest.raises(UnmaskError, match=r"tracking\.uri.*Connection refused") as caught:
        results.track()
    assert "\n" not in str(caught.value)
    with server.up():
        results.track()
        (run,) = tracked = results.at_mlflow()
        check_complete(run)
        assert (run["versions"], run["champions"]) == ({1}, [1])
        assert any(path.startswith("bundle/unmask-") for path in run["files"])
        results.track()
        assert results.at_mlflow() == tracked


@pytest.mark.slow
def test_a_training_survives_its_server_and_its_run_is_completed(
    server: Server, tmp_path: Path
) -> None:
    results = Results(tmp_path, server.uri)
    with ExitStack() as stack:
        stack.enter_context(server.up())

        def stop() -> None:
            time.sleep(5)  # until all is logged
            stack.close()

        results.train(breaks=stop)
    results.finish()
    with server.up():
        (run,) = results.at_mlflow()
        assert (run["status"], len(run["metrics"]["train/loss"])) == ("RUNNING", STEPS // 2)
        results.track()
        (run,) = results.at_mlflow()
        check_complete(run)


def test_the_champion_is_the_bundle_that_was_exported_last(results: Results) -> None:
    results.train()
    for log_loss, exported, versions, champion in (
        (0.5, 1000, {1}, 1),
        (0.4, 2000, {1, 2}, 2),
        (0.3, 500, {1, 2, 3}, 2),
    ):
        results.finish(log_loss)
        os.utime(results.folder / "unmask/manifest.json", (exported, exported))
        results.track()
        (run,) = results.at_mlflow()
        assert (run["versions"], run["champions"]) == (versions, [champion])


def test_the_champion_is_loaded_as_a_model_and_predicts_a_table_of_paths(
    results: Results, make_video: Callable[..., Path]
) -> None:
    results.train()
    results.finish()
    bundle = write_bundle(results.folder / "unmask", run_id="id0")
    (bundle / "large-1-py3-none-any.whl").write_bytes(b"wheel")
    results.track()
    (run,) = results.at_mlflow()
    assert any(path.endswith("/MLmodel") for path in run["files"])
    assert not any(path.endswith(".whl") for path in run["files"])
    clips = [make_video(results.folder / "a.mp4"), make_video(results.folder / "b.mp4", people=0)]
    mlflow.set_tracking_uri(results.uri)
    model = mlflow.pyfunc.load_model("models:/unmask@champion")
    assert model.metadata.get_input_schema().input_names() == ["video"]
    assert model.input_example.columns.tolist() == ["video"]
    found = model.predict(pd.DataFrame({"video": map(str, clips)}))
    assert found["status"].tolist() == ["ok", "no_face"]
    expected = unmask.load(bundle).predict(clips[0]).probability
    assert found["probability"].tolist() == pytest.approx([expected, float("nan")], nan_ok=True)


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_what_was_deleted_is_not_created_again(what: str, results: Results) -> None:
    results.train()
    client = MlflowClient(results.uri)
    (experiment,) = client.search_experiments(filter_string="name = 'unmask'")
    (run,) = client.search_runs([experiment.experiment_id])
    remedy = "mlflow runs restore"
    if what == "run":
        client.delete_run(run.info.run_id)
    else:
        client.delete_experiment(experiment.experiment_id)
        remedy = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
    results.finish()
    with pytest.raises(UnmaskError, match=remedy) as caught:
        results.track()
    assert "\n" not in str(caught.value)


def test_a_moved_directory_says_where_artifacts_go(
    results: Results,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results.train()
    results.finish()
    results.track()
    (tmp_path / "moved").mkdir()
    monkeypatch.chdir(tmp_path / "moved")
    results.track()
    (warning,) = (one for one in caplog.records if one.levelno >= logging.WARNING)
    assert f"{tmp_path}/mlartifacts" in warning.getMessage()


@pytest.mark.parametrize(
    ("address", "reason"), [("unknown", "not known|resolution"), ("silent", "timed out")]
)
def test_a_wrong_address_costs_a_training_one_warning_and_fails_tracking(
    address: str,
    reason: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        results = Results(tmp_path, "http://no-such-host.invalid" if address == "unknown" else uri)
        assert len(results.train().history) == STEPS
        assert [one.levelname for one in caplog.records] == ["WARNING"]
        results.finish()
        with pytest.raises(UnmaskError, match=rf"tracking\.uri: .*{results.uri}: .*({reason})"):
            results.track()


def test_the_environment_says_where_mlflow_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert TrackingConfig(uri="http://here:5000").address == "http://elsewhere:5000"
