"""The workflow on a real Grid Engine, with `profiles/cluster-generic` (`make test-gridengine`)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import missing
from gridengine import NEEDED, PACKAGES, GridEngine

from unmask.demo import DemoSummary

from running import ROOT, Workflow, roots

REASON = missing(NEEDED, PACKAGES)
pytestmark = [
    *(pytest.mark.workflow, pytest.mark.slow, pytest.mark.gridengine),
    pytest.mark.skipif(bool(REASON), reason=f"no Grid Engine here: {REASON}"),
]
PROFILE = ROOT / "profiles/cluster-generic"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GridEngine]:
    engine = GridEngine(tmp_path_factory.mktemp("gridengine"))
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()


def submit(engine: GridEngine, directory: Path, script: str, *options: str) -> str:
    common = ("-terse", "-S", "/bin/sh", "-cwd", "-j", "y", "-o", "/dev/null", "-r", "n")
    return engine.run("qsub", *common, *options, directory=directory, stdin=script).strip()


def status(engine: GridEngine, directory: Path, job: str) -> str:
    return engine.run(str(PROFILE / "status.sh"), job, directory=directory).strip()


def test_the_status_of_a_job_says_how_it_ended(engine: GridEngine, tmp_path: Path) -> None:
    (tmp_path / ".snakemake/sge_logs").mkdir(parents=True)
    too_large = f"exec {sys.executable} -c 'x = bytearray(900 * 2**20)'"
    running = submit(engine, tmp_path, "sleep 600", "-l", "h_rt=0:20:0")
    jobs = {
        "running": running,
        "waiting": submit(engine, tmp_path, "true", "-hold_jid", running),
        "succeeds": submit(engine, tmp_path, "true"),
        "with an error": submit(engine, tmp_path, "exit 1"),
        "too large": submit(engine, tmp_path, too_large, "-l", "h_vmem=300M"),
        "too long": submit(engine, tmp_path, "sleep 600", "-l", "h_rt=0:0:5"),
        "never started": submit(engine, tmp_path, "true", "-wd", "/nonexistent"),
    }
    ends = {"succeeds": "success", "running": "running", "waiting": "running"}
    expected = {name: ends.get(name, "failed") for name in jobs}
    until = time.monotonic() + 300
    while (found := {n: status(engine, tmp_path, j) for n, j in jobs.items()}) != expected:
        assert time.monotonic() < until, found
        time.sleep(2)
    engine.run("qdel", running)
    while status(engine, tmp_path, running) != "failed":
        assert time.monotonic() < until
        time.sleep(2)
    # It would start when an administrator clears its error, while its next attempt runs.
    assert jobs["never started"] not in engine.run("qstat")


def test_a_job_counts_as_running_while_the_master_does_not_respond(
    engine: GridEngine, tmp_path: Path
) -> None:
    nobody = engine.environment | {"SGE_QMASTER_PORT": "1"}
    command = [str(PROFILE / "status.sh"), "1"]
    done = subprocess.run(command, env=nobody, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "running"


def test_a_deleted_job_with_both_ends_of_a_pipe_is_run_again(
    engine: GridEngine, workflow: Workflow, challenge: DemoSummary, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "snakemake", "results/ledger.json"]
    command += ["--workflow-profile", str(PROFILE), "--configfile", "config/demo.yaml"]
    command += ["--directory", str(tmp_path), "--latency-wait", "10"]
    command += ["--seconds-between-status-checks", "2", "--config", *roots(challenge)]
    log = tmp_path / "snakemake.log"
    process = subprocess.Popen(
        command,
        cwd=workflow.repository,
        env=engine.environment,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        deleted = ""
        while not deleted:
            assert process.poll() is None, log.read_text()[-4000:]
            time.sleep(0.5)
            running = [line.split()[0] for line in engine.run("qstat", "-s", "r").splitlines()[2:]]
            names = {job: engine.run("qstat", "-j", job) for job in running}
            deleted = next(
                (job for job, description in names.items() if "crop_faces" in description), ""
            )
        engine.run("qdel", deleted)
        assert process.wait(900) == 0, log.read_text()[-4000:]
    finally:
        process.kill()
    assert "failed" in engine.run("qacct", "-j", deleted)
    assert (tmp_path / "results/ledger.json").exists()
