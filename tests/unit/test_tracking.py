"""Runs reach MLflow whole: from many processes at once, and however long its server is away."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from servers import free_port, mlflow_server, no_postgres, postgresql

from unmask.config import TrackingConfig
from unmask.errors import UnmaskError
from unmask.tracking import (
    create_tracking,
    log_evaluation,
    register_bundle,
    start_training_run,
    sync_tracking,
)

JOBS = 8
STEPS = 60
FACES = pd.DataFrame(
    {"part": "p", "video": ["a.mp4", "b.mp4"], "key": ["a", "b"], "label": ["REAL", "FAKE"]}
)


@pytest.fixture(autouse=True)
def no_server_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def losses(steps: range) -> list[tuple[int, float]]:
    return [(step, 1 / (1 + step)) for step in steps]


def told(client: MlflowClient, run_id: str) -> list[tuple[int, float]]:
    history = client.get_metric_history(run_id, "train/loss")
    return sorted((one.step, one.value) for one in history)


def files_of(client: MlflowClient, run_id: str) -> set[str]:
    found, folders = set(), [""]
    while folders:
        for one in client.list_artifacts(run_id, folders.pop()):
            if one.is_dir:
                folders.append(one.path)
            else:
                found.add(one.path)
    return found


def train(tracking: Path, name: str, steps: range, run_id: str | None = None) -> str:
    """Log what a training logs, and return what its run.json would call the run."""
    note = tracking.with_name(f"{name}.txt")
    note.write_text(name)
    with start_training_run(tracking, name, {"job": name, "rate": 0.1}, run_id) as run:
        run.log_data({"train": FACES, "val": FACES}, Path("splits.parquet"))
        logger = run.lightning_logger()
        for step, loss in losses(steps):
            logger.log_metrics({"train/loss": loss, "val/auc": float("nan")}, step)
        run.log(lambda client, run_id: client.log_artifact(run_id, str(note), "notes"))
        return run.id


@pytest.fixture(
    params=["sqlite file", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database file, and a server with one or with PostgreSQL behind it."""
    with ExitStack() as stack:
        if request.param == "sqlite file":
            yield f"sqlite:///{tmp_path}/mlflow.db"
            return
        backend = f"sqlite:///{tmp_path}/server.db"
        if request.param == "postgresql":
            if reason := no_postgres():
                pytest.skip(reason)
            backend = stack.enter_context(postgresql())
        yield stack.enter_context(mlflow_server(tmp_path / "server", backend, free_port()))


@pytest.mark.slow
def test_eight_jobs_at_once_lose_nothing(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where artifacts go
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    tracking = tmp_path / "results/tracking.json"
    processes = multiprocessing.get_context("fork")
    together = processes.Barrier(JOBS)

    def job(name: str) -> None:
        together.wait(60)
        train(tracking, name, range(STEPS))

    # In a process of its own: no connection of this one is to be handed on to the jobs.
    first = processes.Process(target=create_tracking, args=(TrackingConfig(), tracking))
    first.start()
    first.join()
    names = [f"tiny-fold{number}-seed1" for number in range(JOBS)]
    jobs = [processes.Process(target=job, args=(name,)) for name in names]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join(600)
    assert [one.exitcode for one in (first, *jobs)] == [0] * (JOBS + 1)

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("unmask")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == names
    for run in runs:
        name, run_id = run.info.run_name, run.info.run_id
        assert run.info.status == "FINISHED"
        assert run.data.params == {"job": name, "rate": "0.1"}
        assert told(client, run_id) == losses(range(STEPS))
        assert len(client.get_metric_history(run_id, "val/auc")) == STEPS
        assert any(metric.startswith("system/") for metric in run.data.metrics)
        assert {one.dataset.name for one in run.inputs.dataset_inputs} == {
            "faces-train",
            "faces-select",
        }
        assert files_of(client, run_id) == {"config.json", f"notes/{name}.txt"}
    assert not list(tmp_path.rglob("results/tracking/**/mlflow.db"))


@pytest.fixture
def nowhere(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address without MLflow: refused, unknown, of something else, or silent."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if request.param == "silent":
            silent.listen(16)
        yield {
            "unknown": "http://no-such-host.invalid:5000",
        }.get(request.param, f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize(
    ("nowhere", "seconds", "reason"),
    [
        ("refused", 30, "Connection refused"),
        ("unknown", 60, "not known|resolution"),
        pytest.param("silent", 90, "timed out", marks=pytest.mark.slow),
    ],
    indirect=["nowhere"],
)
def test_an_address_without_mlflow_is_told_in_one_line_within_a_minute(
    nowhere: str,
    seconds: float,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracking = tmp_path / "results/tracking.json"
    start = time.monotonic()
    with pytest.raises(UnmaskError, match=reason) as caught:
        create_tracking(TrackingConfig(uri=nowhere), tracking)
    assert time.monotonic() - start < seconds
    assert str(caught.value).startswith(f"tracking.uri: no MLflow answers at {nowhere} (")
    assert "\n" not in str(caught.value)
    assert not tracking.exists()


def test_a_server_of_something_else_is_told_too(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.1)
        with pytest.raises(UnmaskError, match=r"no MLflow answers at .*404") as caught:
            create_tracking(TrackingConfig(uri=f"http://127.0.0.1:{port}"), tmp_path / "t.json")
        assert "\n" not in str(caught.value)
    finally:
        process.kill()
        process.wait()


@dataclass
class Server:
    """An MLflow server that can go away and come back at its address, with what it had."""

    folder: Path
    port: int

    def up(self) -> Any:
        return mlflow_server(self.folder, f"sqlite:///{self.folder}/mlflow.db", self.port)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def everything(self) -> dict[str, Any]:
        """Return all that it knows of the one run that it has."""
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("unmask")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        known = client.search_model_versions("name = 'unmask'")
        models = client.search_registered_models()
        return {
            "id": run.info.run_id,
            "status": run.info.status,
            "params": run.data.params,
            "tags": run.data.tags,
            "told": told(client, run.info.run_id),
            "metrics": {
                key: len(client.get_metric_history(run.info.run_id, key))
                for key in run.data.metrics
            },
            "data": {one.dataset.name for one in run.inputs.dataset_inputs},
            "files": files_of(client, run.info.run_id),
            "versions": [(str(one.version), one.run_id, one.source) for one in known],
            "champions": [model.aliases for model in models],
        }


@pytest.fixture
def server(tmp_path: Path) -> Server:
    folder = tmp_path / "server"
    folder.mkdir()
    return Server(folder, free_port())


def as_run_json(server: Server, tracking: Path, run_id: str) -> dict[str, Any]:
    return {
        "experiment": "tiny",
        "model": "fold0-seed1",
        "run_id": run_id,
        "tracking_uri": server.uri,
        "tracking_experiment": "unmask",
        "tracking": str(tracking),
    }


def pieces(tracking: Path) -> list[Path]:
    return list(tracking.with_suffix("").rglob("mlflow.db"))


@pytest.mark.slow
def test_what_was_buffered_is_synced_whole_and_once(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracking = tmp_path / "results/tracking.json"
    create_tracking(TrackingConfig(uri=server.uri, on_unreachable="buffer"), tracking)
    run_id = train(tracking, "tiny-fold0-seed1", range(STEPS))
    run = as_run_json(server, tracking, run_id)
    figures = {tmp_path / f"{number}.svg": "evaluation" for number in range(100)}
    for path in figures:
        path.write_text("figure")
    log_evaluation(run, {"test/log_loss": 0.5}, figures)
    bundle = tmp_path / "first"
    bundle.mkdir()
    (bundle / "weights").write_text("weights")
    register_bundle(run, "unmask", bundle, {"log_loss": 0.5})
    assert f"no MLflow at {server.uri} ([Errno 111] Connection refused)" in caplog.text
    assert len(pieces(tracking)) == 3
    with pytest.raises(UnmaskError, match="no MLflow answers"):
        sync_tracking(tracking)
    assert len(pieces(tracking)) == 3

    with server.up():
        # Killed once there is something at the server.
        command = [sys.executable, "-m", "unmask", "sync-tracking", "--tracking", str(tracking)]
        killed = subprocess.Popen(command)
        client = MlflowClient(server.uri)
        while killed.poll() is None:
            experiment = client.get_experiment_by_name("unmask")
            if experiment and client.search_runs([experiment.experiment_id]):
                killed.send_signal(signal.SIGKILL)
        sync_tracking(tracking)
        synced = server.everything()
        sync_tracking(tracking)
        assert server.everything() == synced
        assert pieces(tracking) == []
        assert synced["status"] == "FINISHED"
        assert synced["params"] == {"job": "tiny-fold0-seed1", "rate": "0.1"}
        assert synced["told"] == losses(range(STEPS))
        assert synced["metrics"]["val/auc"] == STEPS
        assert synced["metrics"]["test/log_loss"] == 1
        assert synced["metrics"]["system/cpu_utilization_percentage"] >= 1
        assert synced["data"] == {"faces-train", "faces-select"}
        assert synced["files"] == {
            *("config.json", "notes/tiny-fold0-seed1.txt", "bundle/first/weights"),
            *(f"evaluation/{number}.svg" for number in range(100)),
        }
        assert len(synced["versions"]) == 1
        assert synced["versions"][0][2].endswith("/bundle/first")
        assert synced["champions"] == [{"champion": "1"}]

        # The run.json is as it was; what comes now goes to the server's run at once.
        log_evaluation(run, {"set/other/log_loss": 0.7}, {})
        assert register_bundle(run, "unmask", bundle, {"log_loss": 0.4}) == "2"
        after = server.everything()
        assert after["id"] == synced["id"]
        assert after["metrics"]["set/other/log_loss"] == 1
        assert after["champions"] == [{"champion": "2"}]
        assert pieces(tracking) == []


@pytest.mark.slow
def test_a_bundle_that_was_exported_before_the_champion_does_not_take_its_place(
    server: Server, tmp_path: Path
) -> None:
    tracking = tmp_path / "results/tracking.json"
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "weights").write_text("weights")
    with server.up():
        create_tracking(TrackingConfig(uri=server.uri, on_unreachable="buffer"), tracking)
        run = as_run_json(server, tracking, train(tracking, "tiny-fold0-seed1", range(2)))
    register_bundle(run, "unmask", bundle, {})
    with server.up():
        assert register_bundle(run, "unmask", bundle, {}) == "1"
        sync_tracking(tracking)
        found = server.everything()
        assert len(found["versions"]) == 2
        assert found["champions"] == [{"champion": "1"}]


@pytest.mark.slow
@pytest.mark.parametrize("on_unreachable", ["fail", "buffer"])
def test_a_training_outlives_its_server(
    on_unreachable: str, server: Server, tmp_path: Path
) -> None:
    tracking = tmp_path / "results/tracking.json"
    name = "tiny-fold0-seed1"

    def log(run: Any, steps: range) -> None:
        for step, loss in losses(steps):
            run.lightning_logger().log_metrics({"train/loss": loss}, step)

    up = server.up()
    up.__enter__()
    try:
        config = TrackingConfig(uri=server.uri, on_unreachable=on_unreachable)
        create_tracking(config, tracking)
        with ExitStack() as stack:
            if on_unreachable == "fail":
                told_so = pytest.raises(UnmaskError, match="run the same command again")
                stack.enter_context(told_so)
            with start_training_run(tracking, name, {}) as run:
                log(run, range(10))
                while told(MlflowClient(server.uri), run.id) != losses(range(10)):
                    time.sleep(0.1)
                up.__exit__(None, None, None)
                log(run, range(10, 20))
    finally:
        up.__exit__(None, None, None)
    assert len(pieces(tracking)) == 1
    with server.up():
        if on_unreachable == "buffer":
            sync_tracking(tracking)
        else:
            with start_training_run(tracking, name, {}, run.id) as again:
                assert again.id == run.id
        assert server.everything()["told"] == losses(range(20))
        assert server.everything()["status"] == "FINISHED"
        assert pieces(tracking) == []


@pytest.mark.slow
def test_a_server_that_moved_is_found_by_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = tmp_path / "results/tracking.json"
    with server.up():
        create_tracking(TrackingConfig(uri=server.uri), tracking)
        run = as_run_json(server, tracking, train(tracking, "tiny-fold0-seed1", range(2)))
    with pytest.raises(UnmaskError, match="no MLflow answers"):
        log_evaluation(run, {"test/log_loss": 0.5}, {})
    server.port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    with server.up():
        log_evaluation(run, {"test/log_loss": 0.5}, {})
        assert server.everything()["metrics"]["test/log_loss"] == 1
