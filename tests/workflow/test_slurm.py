"""The workflow on a real Slurm, with `profiles/slurm`: jobs that fail there are run again.

By hand: `make test-slurm`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest
from daemons import missing
from slurm import NEEDED, PACKAGES, Cluster, Job

from running import Finished

REASON = missing(NEEDED, PACKAGES)
pytestmark = [
    *(pytest.mark.workflow, pytest.mark.slow, pytest.mark.slurm),
    pytest.mark.skipif(bool(REASON), reason=f"no Slurm here: {REASON}"),
]

# Settings of the site: no accounting, no GPU, two cores a node, and short waits.
SITE = [
    *("--workflow-profile", "profiles/slurm", "--configfile", "config/demo.yaml"),
    *("--slurm-status-command", "squeue", "--slurm-no-account"),
    *("--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "2"),
    *("--latency-wait", "10", "--set-threads"),
    *("train=1", "score=2", "score_shifts=2", "shift_faces=2", "export=2", "predict=2"),
]
NO_GPU = [f"{rule}:gpu=0" for rule in ("train", "score", "score_shifts", "predict")]
# So that a node of the tests has memory for two jobs at once.
SMALL = ["train:mem_mb=4000", "shift_faces:mem_mb=4000", "export:mem_mb=4000"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def submit(
    cluster: Cluster,
    finished: Finished,
    directory: Path,
    target: str,
    resources: Sequence[str] = (),
    config: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """Start snakemake on the demo's clips with Slurm as its executor."""
    command = [sys.executable, "-m", "snakemake", target, *SITE]
    command += ["--set-resources", *NO_GPU, *SMALL, *resources]
    command += ["--directory", str(directory), "--config", *finished.config, *config]
    environment = {k: v for k, v in cluster.environment.items() if not k.startswith("MLFLOW")}
    return subprocess.Popen(
        command,
        cwd=finished.workflow.repository,
        env=environment,
        text=True,
        stdout=(directory / "snakemake.log").open("w"),
        stderr=subprocess.STDOUT,
    )


def succeed(process: subprocess.Popen[str], directory: Path) -> None:
    """Wait for snakemake and assert that it succeeds."""
    assert process.wait(2400) == 0, (directory / "snakemake.log").read_text()[-6000:]


def wait_for_job(
    cluster: Cluster, process: subprocess.Popen[str], wanted: Callable[[Job], bool]
) -> Job:
    """Return the first job that is `wanted`."""
    while process.poll() is None:
        for job in cluster.jobs():
            if wanted(job):
                return job
        time.sleep(0.2)
    raise AssertionError(f"no such job among {cluster.jobs()}")


def states(jobs: Sequence[Job], rule: str, after: int = 0) -> list[str]:
    return [job.state for job in jobs if rule in job.comment and job.number > after]


def last(cluster: Cluster) -> int:
    return max((job.number for job in cluster.jobs()), default=0)


def same_faces_and_splits(finished: Finished, directory: Path) -> None:
    for path in [*(finished.results / "faces").iterdir(), finished.results / "splits.parquet"]:
        copy = directory / path.relative_to(finished.output)
        assert copy.read_bytes() == path.read_bytes(), path.name


def test_the_whole_dag_survives_a_cancelled_job_and_one_without_enough_memory(
    cluster: Cluster, finished: Finished, tmp_path: Path
) -> None:
    lacking = "ledger:mem_mb=60 if attempt == 1 else 2000"
    process = submit(cluster, finished, tmp_path, "all", [lacking])
    running = wait_for_job(
        cluster, process, lambda job: "crop_faces" in job.comment and job.state == "RUNNING"
    )
    cluster.run("scancel", str(running.number))
    succeed(process, tmp_path)
    jobs = cluster.jobs()
    print("", *jobs, sep="\n")
    # Both ends of a pipe are one job.
    assert sorted(states(jobs, "crop_faces_extract_frames")) == [
        *("CANCELLED", "COMPLETED", "COMPLETED")
    ]
    assert states(jobs, "rule_ledger") in (["OUT_OF_MEMORY", "COMPLETED"], ["FAILED", "COMPLETED"])
    for rule in ("probe", "split", "train", "score", "evaluate", "export", "predict"):
        assert set(states(jobs, f"rule_{rule}")) == {"COMPLETED"}, rule
    same_faces_and_splits(finished, tmp_path)
    submissions = [
        pd.read_csv(root / "submission.csv") for root in (finished.results, tmp_path / "results")
    ]
    assert submissions[0]["filename"].tolist() == submissions[1]["filename"].tolist()


def test_a_run_resumes_after_its_controller_and_snakemake_were_killed(
    cluster: Cluster, finished: Finished, tmp_path: Path
) -> None:
    before = last(cluster)
    process = submit(cluster, finished, tmp_path, "results/splits.parquet")
    wait_for_job(
        cluster,
        process,
        lambda job: job.number > before and "crop_faces" in job.comment and job.state == "RUNNING",
    )
    cluster.kill_controller()
    process.send_signal(signal.SIGKILL)
    process.wait()
    cluster.start_controller()
    # Running jobs continue; they must not overlap with those that the next snakemake submits.
    for job in cluster.jobs():
        if job.number > before and job.state in ("RUNNING", "PENDING"):
            cluster.run("scancel", str(job.number))
    while any(job.state in ("RUNNING", "COMPLETING") for job in cluster.jobs()):
        time.sleep(0.5)
    unlock = [sys.executable, "-m", "snakemake", "--unlock", "--directory", str(tmp_path)]
    unlock += ["--configfile", "config/demo.yaml", "--config", *finished.config]
    subprocess.run(unlock, cwd=finished.workflow.repository, check=True, capture_output=True)
    succeed(submit(cluster, finished, tmp_path, "results/splits.parquet"), tmp_path)
    same_faces_and_splits(finished, tmp_path)


MODEL = "results/train/baseline/fold0-seed1/model.safetensors"
TWO_TASKS = "training={devices: 2, strategy: ddp, epochs: 3, patience: 3}"


def train_on_two_tasks(
    cluster: Cluster, finished: Finished, directory: Path
) -> subprocess.Popen[str]:
    """Start a training with two tasks in a copy of a run that lacks nothing else."""
    shutil.copytree(finished.output, directory, ignore=shutil.ignore_patterns(".snakemake"))
    shutil.rmtree(directory / "results/train")
    (directory / "logs/train/baseline/fold0-seed1.log").unlink()
    config = [TWO_TASKS, f"tracking={{uri: 'sqlite:///{directory}/mlflow.db'}}"]
    # A copy has other paths and times.
    os.utime(directory / "results/tracking.json")
    return submit(cluster, finished, directory, MODEL, ["train:mem_mb=6000"], config)


@pytest.fixture(scope="module")
def whole(cluster: Cluster, finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with two tasks, uninterrupted."""
    directory = tmp_path_factory.mktemp("tasks") / "whole"
    succeed(train_on_two_tasks(cluster, finished, directory), directory)
    return directory


def test_two_tasks_under_srun_train_one_model(whole: Path) -> None:
    run = json.loads((whole / MODEL).with_name("run.json").read_text())
    assert (run["devices"], len(run["history"])) == (2, 3)
    log = (whole / "logs/train/baseline/fold0-seed1.log").read_text()
    assert log.count("epoch 2: ") == 2  # one line of each task


def test_a_preempted_training_with_two_tasks_ends_with_the_same_bits(
    cluster: Cluster, finished: Finished, whole: Path, tmp_path: Path
) -> None:
    preempted = tmp_path / "preempted"
    before = last(cluster)
    process = train_on_two_tasks(cluster, finished, preempted)
    log = preempted / "logs/train/baseline/fold0-seed1.log"
    while not (log.exists() and "epoch 0: " in log.read_text()):
        assert process.poll() is None, (preempted / "snakemake.log").read_text()[-4000:]
        time.sleep(0.1)
    job = wait_for_job(
        cluster, process, lambda job: job.number > before and "rule_train" in job.comment
    )
    # Slurm preempts so: SIGTERM to all processes, time to write, and back into the queue.
    cluster.run("scontrol", "requeue", str(job.number))
    succeed(process, preempted)
    print("", *cluster.jobs(), sep="\n")
    (again,) = [one for one in cluster.jobs() if one.number == job.number]
    assert (again.state, again.restarts) == ("COMPLETED", 1)
    assert "going on from epoch" in log.read_text()
    assert (preempted / MODEL).read_bytes() == (whole / MODEL).read_bytes()
