"""The workflow on a real Slurm, with `profiles/slurm`: jobs that fail there are run again.

By hand: `make test-slurm`.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest
from daemons import missing
from slurm import NEEDED, PACKAGES, Cluster

from unmask.training.run_record import RunRecord

from running import Finished, digests

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


def last(cluster: Cluster) -> int:
    """Return the number of the newest job."""
    return max((job.number for job in cluster.jobs()), default=0)


def wait_for_job(
    cluster: Cluster, process: subprocess.Popen[str], rule: str, after: int, state: str = "RUNNING"
) -> int:
    """Wait for a job of a rule, newer than `after`, and return its number."""
    while process.poll() is None:
        for job in cluster.jobs():
            if job.number > after and rule in job.comment and job.state == state:
                return job.number
        time.sleep(0.2)
    raise AssertionError(f"no such job among {cluster.jobs()}")


def assert_same_faces_and_splits(directory: Path, finished: Finished) -> None:
    made, expected = (
        digests(results, "faces/*", "splits.parquet")
        for results in (directory / "results", finished.results)
    )
    assert made == expected


def test_the_whole_dag_survives_a_cancelled_job_and_one_without_enough_memory(
    cluster: Cluster, finished: Finished, tmp_path: Path
) -> None:
    lacking = "ledger:mem_mb=60 if attempt == 1 else 2000"
    process = submit(cluster, finished, tmp_path, "all", [lacking])
    cluster.run("scancel", str(wait_for_job(cluster, process, "crop_faces", 0)))
    succeed(process, tmp_path)
    jobs = cluster.jobs()
    print("", *jobs, sep="\n")

    def states(rule: str) -> list[str]:
        return [job.state for job in jobs if rule in job.comment]

    # Both ends of a pipe are one job.
    assert sorted(states("crop_faces_extract_frames")) == [*("CANCELLED", "COMPLETED", "COMPLETED")]
    assert states("rule_ledger") in (["OUT_OF_MEMORY", "COMPLETED"], ["FAILED", "COMPLETED"])
    for rule in ("probe", "split", "train", "score", "evaluate", "export", "predict"):
        assert set(states(f"rule_{rule}")) == {"COMPLETED"}, rule
    assert_same_faces_and_splits(tmp_path, finished)
    submissions = [
        pd.read_csv(root / "submission.csv") for root in (finished.results, tmp_path / "results")
    ]
    assert submissions[0]["filename"].tolist() == submissions[1]["filename"].tolist()


def test_a_run_resumes_after_its_controller_and_snakemake_were_killed(
    cluster: Cluster, finished: Finished, tmp_path: Path
) -> None:
    before = last(cluster)
    process = submit(cluster, finished, tmp_path, "results/splits.parquet")
    wait_for_job(cluster, process, "crop_faces", before)
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
    finished.workflow.finish("--unlock", directory=tmp_path, config=finished.config)
    succeed(submit(cluster, finished, tmp_path, "results/splits.parquet"), tmp_path)
    assert_same_faces_and_splits(tmp_path, finished)


MODEL = "results/train/baseline/fold0-seed1/model.safetensors"
LOG = "logs/train/baseline/fold0-seed1.log"
TWO_TASKS = "training={devices: 2, strategy: ddp, epochs: 3, patience: 3}"


def train_on_two_tasks(
    cluster: Cluster, finished: Finished, directory: Path
) -> subprocess.Popen[str]:
    """Start a training with two tasks in a copy of a run that lacks nothing else."""
    shutil.copytree(finished.output, directory, ignore=shutil.ignore_patterns(".snakemake"))
    shutil.rmtree(directory / "results/train")
    (directory / LOG).unlink()
    config = [TWO_TASKS, f"tracking={{uri: 'sqlite:///{directory}/mlflow.db'}}"]
    return submit(cluster, finished, directory, MODEL, ["train:mem_mb=6000"], config)


def test_a_preempted_training_with_two_tasks_under_srun_ends_with_the_same_bits(
    cluster: Cluster, finished: Finished, tmp_path: Path
) -> None:
    whole, preempted = tmp_path / "whole", tmp_path / "preempted"
    succeed(train_on_two_tasks(cluster, finished, whole), whole)
    record = RunRecord.read((whole / MODEL).with_name("run.json"))
    assert (record.description.parameters["devices"], len(record.epochs())) == (2, 3)
    text = (whole / LOG).read_text()
    assert text.count("epoch 2: ") == 2  # one line of each task

    before = last(cluster)
    process = train_on_two_tasks(cluster, finished, preempted)
    log = preempted / LOG
    while not (log.exists() and "epoch 0: " in log.read_text()):
        assert process.poll() is None, (preempted / "snakemake.log").read_text()[-4000:]
        time.sleep(0.1)
    number = wait_for_job(cluster, process, "rule_train", before)
    # Slurm preempts so: SIGTERM to all processes, time to write, and back into the queue.
    cluster.run("scontrol", "requeue", str(number))
    succeed(process, preempted)
    print("", *cluster.jobs(), sep="\n")
    (again,) = [job for job in cluster.jobs() if job.number == number]
    assert (again.state, again.restarts) == ("COMPLETED", 1)
    assert "going on from epoch" in log.read_text()
    assert (preempted / MODEL).read_bytes() == (whole / MODEL).read_bytes()
