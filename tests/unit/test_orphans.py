"""A job ends when the Snakemake process that started it ends, and only then."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

# Stands for a rule's command.
JOB = (
    "from unmask.orphans import end_with_snakemake; end_with_snakemake();"
    "print('working', flush=True); import time; time.sleep(300)"
)


@pytest.fixture
def snakemake() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for Snakemake and can be killed."""
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


def start_job(snakemake: str) -> subprocess.Popen[str]:
    """Start a job and wait until it runs."""
    environment = os.environ | {"UNMASK_SNAKEMAKE": snakemake}
    command = [sys.executable, "-c", JOB]
    job = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)
    assert job.stdout is not None
    assert job.stdout.readline() == "working\n"
    return job


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="process descriptors are Linux's")
def test_a_job_ends_with_its_snakemake(snakemake: subprocess.Popen[bytes]) -> None:
    job = start_job(f"{platform.node()}:{snakemake.pid}")
    snakemake.kill()
    assert job.wait(30) == -signal.SIGTERM


@pytest.mark.parametrize("host", ["", "elsewhere:"], ids=["by hand", "on another host"])
def test_a_job_without_a_local_snakemake_continues(
    host: str, snakemake: subprocess.Popen[bytes]
) -> None:
    job = start_job(host and f"{host}{snakemake.pid}")
    snakemake.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        job.wait(2)
    job.kill()
    job.wait()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="process descriptors are Linux's")
def test_a_job_whose_snakemake_has_ended_is_refused(snakemake: subprocess.Popen[bytes]) -> None:
    snakemake.kill()
    snakemake.wait()
    environment = os.environ | {"UNMASK_SNAKEMAKE": f"{platform.node()}:{snakemake.pid}"}
    command = [sys.executable, "-m", "unmask", "schema"]
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert done.returncode == 2
    assert str(snakemake.pid) in done.stderr
    assert "Traceback" not in done.stderr
