"""Runs reach MLflow whole: from many processes at once, and whenever its server is there."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from servers import Server, free_port, no_postgres, postgresql

from records import write_run
from unmask.config import TrackingConfig
from unmask.errors import UnmaskError
from unmask.evaluation.metrics import binary_metrics
from unmask.evaluation.results import ExperimentMetrics, ExperimentShifts, ShiftMetrics
from unmask.files import write_json
from unmask.inference.calibrate import Calibration
from unmask.inference.records import Manifest, MemberRecord, Parity
from unmask.inference.scoring_head import ScoringHead
from unmask.tracking import track_runs
from unmask.training.live_tracking import LiveLogger, describe_run
from unmask.training.run_record import LoggedMetrics, RunRecord

STEPS = 60
METRICS = binary_metrics(np.array([0.0, 1.0]), np.array([0.3, 0.6]))
FACES = pd.DataFrame(
    {"part": "p", "video": ["a.mp4", "b.mp4"], "key": ["a", "b"], "label": ["REAL", "FAKE"]}
)


class Results:
    """A results folder: trainings that log live, and what later rules write."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri = folder, uri
        self.bundle = folder / "kaggle/unmask"

    def train(self, fold: int = 0, breaks: Any = lambda: None) -> RunRecord:
        """Log what a training logs, and write its run.json; `breaks` happens half-way."""
        model = f"fold{fold}-seed1"
        faces = {"train": FACES, "val": FACES}
        description = describe_run(
            f"id{fold}", f"tiny-{model}", {"fold": fold, "rate": 0.1}, faces, Path("splits.parquet")
        )
        history: list[LoggedMetrics] = []
        with LiveLogger(self.uri, "unmask", description, history) as logger:
            for step in range(STEPS):
                if step == STEPS // 2:
                    breaks()
                logger.log_metrics({"train/loss": 1 / (1 + step), "val/auc": float("nan")}, step)
        path = self.folder / f"train/{model}/run.json"
        return write_run(path, "tiny", fold, description=description, history=history)

    def evaluate(self) -> None:
        models = [path.name for path in self.folder.glob("train/*")]
        evaluation, several = self.folder / "evaluation", dict.fromkeys(models, METRICS)
        metrics = ExperimentMetrics("tiny", *[METRICS] * 5, [], None, {}, several)
        write_json(metrics, evaluation / "tiny/metrics.json")
        (evaluation / "tiny/roc.svg").write_text("figure")
        of_role = ShiftMetrics(METRICS, {"blur": METRICS}, "blur", 0.7, 0.6)
        scores = dict.fromkeys(models, 0.6)
        shifts = ExperimentShifts(
            "tiny", 0.6, of_role, of_role, dict.fromkeys(models, of_role), scores, {}
        )
        write_json(shifts, evaluation / "tiny/shifts.json")
        sets = {"tiny": {model: {"other": METRICS} for model in models}}
        write_json(sets, evaluation / "sets.json")

    def export(self, log_loss: float = 0.5) -> None:
        head = ScoringHead("mean_logit", "none", 0.5, Calibration(1, 0, 0.5))
        member = MemberRecord("a", "tiny", "fold0-seed1", 0, 1, "id0", 0, "resnet", 1, head, 1)
        metrics = {"log_loss": log_loss, "eer": None}
        manifest = Manifest("1", [member], metrics, {}, Parity(1, 0, "a"), {}, {}, {})
        write_json(manifest, self.bundle / "manifest.json")

    def track(self) -> None:
        runs, evaluation = sorted(self.folder.glob("train/*/run.json")), self.folder / "evaluation"
        metrics, shifts = evaluation / "tiny/metrics.json", evaluation / "tiny/shifts.json"
        track_runs(
            *(runs, [metrics], [shifts], [evaluation / "sets.json"], self.bundle),
            *(self.uri, "unmask", "unmask", self.folder / "mlflow.json"),
        )

    def at_mlflow(self) -> list[dict[str, Any]]:
        """Return all that MLflow knows of each run."""
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("unmask")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        return [
            {
                "name": run.info.run_name,
                "status": run.info.status,
                "params": run.data.params,
                "metrics": {
                    key: [
                        (one.step, None if isnan(one.value) else one.value)
                        for one in client.get_metric_history(run_id, key)
                    ]
                    for key in run.data.metrics
                },
                "data": {one.dataset.name for one in run.inputs.dataset_inputs},
                "files": files_of(client, run_id),
                "versions": {
                    int(one.version) for one in client.search_model_versions(f"run_id = '{run_id}'")
                },
                "champions": [
                    int(one.aliases["champion"]) for one in client.search_registered_models()
                ],
            }
            for run in sorted(runs, key=lambda run: str(run.info.run_name))
            for run_id in [run.info.run_id]
        ]


def files_of(client: MlflowClient, run_id: str, folder: str = "") -> set[str]:
    found = set()
    for one in client.list_artifacts(run_id, folder):
        found |= files_of(client, run_id, one.path) if one.is_dir else {one.path}
    return found


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "server")


@pytest.fixture
def results(tmp_path: Path, server: Server) -> Results:
    return Results(tmp_path / "results", server.uri)


def check_complete(run: dict[str, Any], fold: int = 0) -> None:
    assert run["status"] == "FINISHED"
    assert run["params"] == {"fold": str(fold), "rate": "0.1"}
    assert sorted(run["metrics"]["train/loss"]) == [(s, 1 / (1 + s)) for s in range(STEPS)]
    assert len(run["metrics"]["val/auc"]) == STEPS
    names = ["test/log_loss", "set/other/log_loss"]
    names += [f"shift/{name}/log_loss" for name in ("clean", "blur", "worst")]
    expected = dict.fromkeys(names, METRICS.log_loss)
    expected |= {"shift/mean/log_loss": 0.7, "shift/selection_score": 0.6}
    found = {k: v for k, v in run["metrics"].items() if k.startswith(("test/", "set/", "shift/"))}
    assert {name: found[name] for name in expected} == {
        name: [(0, value)] for name, value in expected.items()
    }
    assert run["data"] == {"faces-train", "faces-val"}
    figures = {f"evaluation/{name}" for name in ("metrics.json", "roc.svg", "shifts.json")}
    assert {"config.json", *figures} <= run["files"]


@pytest.fixture(
    params=["sqlite file", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database file that does not exist yet, and a server with SQLite or PostgreSQL."""
    with ExitStack() as stack:
        if request.param == "sqlite file":
            yield f"sqlite:///{tmp_path}/mlflow.db"
            return
        if request.param == "postgresql" and (why := no_postgres()):
            pytest.skip(why)
        backend = stack.enter_context(postgresql()) if request.param == "postgresql" else None
        yield stack.enter_context(Server(tmp_path / "server").up(backend))


@pytest.mark.slow
def test_eight_jobs_at_once_lose_nothing(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where artifacts go
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    processes = multiprocessing.get_context("fork")
    together = processes.Barrier(8)

    def job(fold: int) -> None:
        together.wait(60)
        Results(tmp_path, address).train(fold, lambda: time.sleep(3))

    jobs = [processes.Process(target=job, args=(fold,)) for fold in range(8)]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join(600)
    assert [one.exitcode for one in jobs] == [0] * 8
    results = Results(tmp_path, address)
    live = [run["metrics"] for run in results.at_mlflow()]
    logged = [
        len(one["train/loss"]) == STEPS and "system/cpu_utilization_percentage" in one
        for one in live
    ]
    assert sum(logged) >= 4  # a busy machine keeps the database locked for too long
    results.evaluate()
    results.export()
    results.track()
    runs = results.at_mlflow()
    assert [run["name"] for run in runs] == [f"tiny-fold{fold}-seed1" for fold in range(8)]
    for fold, run in enumerate(runs):
        check_complete(run, fold)


@pytest.mark.slow
def test_a_server_that_is_away_gets_everything_later_and_once(
    results: Results, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    results.train()
    assert "Connection refused" in caplog.text
    results.evaluate()
    results.export()
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
    results: Results, server: Server
) -> None:
    with ExitStack() as stack:
        stack.enter_context(server.up())

        def stop() -> None:
            time.sleep(5)  # until all is logged
            stack.close()

        results.train(breaks=stop)
    results.evaluate()
    results.export()
    with server.up():
        (run,) = results.at_mlflow()
        assert (run["status"], len(run["metrics"]["train/loss"])) == ("RUNNING", STEPS // 2)
        results.track()
        (run,) = results.at_mlflow()
        check_complete(run)


def test_the_champion_is_the_bundle_that_was_exported_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = Results(tmp_path / "results", f"sqlite:///{tmp_path}/mlflow.db")
    results.train()
    results.evaluate()
    for log_loss, exported, versions, champion in (
        (0.5, 1000, {1}, 1),
        (0.4, 2000, {1, 2}, 2),
        (0.3, 500, {1, 2, 3}, 2),
    ):
        results.export(log_loss)
        os.utime(results.bundle / "manifest.json", (exported, exported))
        results.track()
        (run,) = results.at_mlflow()
        assert (run["versions"], run["champions"]) == (versions, [champion])


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_what_was_deleted_is_not_created_again(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = Results(tmp_path / "results", f"sqlite:///{tmp_path}/mlflow.db")
    results.train()
    client = MlflowClient(results.uri)
    (experiment,) = client.search_experiments(filter_string="name = 'unmask'")
    (run,) = client.search_runs([experiment.experiment_id])
    if what == "run":
        client.delete_run(run.info.run_id)
    else:
        client.delete_experiment(experiment.experiment_id)
    results.evaluate()
    results.export()
    with pytest.raises(UnmaskError, match=f"mlflow {what}s restore") as caught:
        results.track()
    assert "\n" not in str(caught.value)


@pytest.fixture
def nowhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An address without MLflow: of no host, of something else, or silent."""
    if request.param == "unknown":
        yield "http://no-such-host.invalid:5000"
    elif request.param == "silent":
        with socket.create_server(("127.0.0.1", 0)) as silent:
            yield f"http://127.0.0.1:{silent.getsockname()[1]}"
    else:
        port = free_port()
        command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
        other = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    ("nowhere", "reason"),
    [
        ("unknown", "not known|resolution"),
        ("something else", "404"),
        ("silent", "timed out"),
    ],
    indirect=["nowhere"],
)
def test_an_address_without_mlflow_costs_a_training_a_warning_and_tracking_one_line(
    nowhere: str,
    reason: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    results = Results(tmp_path, nowhere)
    assert len(results.train().history) == STEPS
    assert len([one for one in caplog.records if one.levelno == logging.WARNING]) == 1
    results.evaluate()
    results.export()
    with pytest.raises(UnmaskError, match=rf"tracking\.uri: MLflow at {nowhere}: .*({reason})"):
        results.track()


def test_the_environment_says_where_mlflow_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert TrackingConfig(uri="http://here:5000").address == "http://elsewhere:5000"
