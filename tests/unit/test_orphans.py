"""A job ends with the Snakemake that started it, and only with that."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

# What runs in a rule, below a shell that lives on.
JOB = (
    "from unmask.orphans import end_with_snakemake; end_with_snakemake();"
    "print('working', flush=True); import time; time.sleep(300)"
)


@pytest.fixture
def snakemake() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for Snakemake: one that can be killed."""
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


def start_job(named: str) -> subprocess.Popen[str]:
    """Start a job and wait until it works."""
    environment = os.environ | {"UNMASK_SNAKEMAKE": named}
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
def test_a_job_of_no_snakemake_here_goes_on(host: str, snakemake: subprocess.Popen[bytes]) -> None:
    job = start_job(host and f"{host}{snakemake.pid}")
    snakemake.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        job.wait(2)
    job.kill()
    job.wait()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="process descriptors are Linux's")
def test_a_job_whose_snakemake_is_gone_says_so(snakemake: subprocess.Popen[bytes]) -> None:
    snakemake.kill()
    snakemake.wait()
    environment = os.environ | {"UNMASK_SNAKEMAKE": f"{platform.node()}:{snakemake.pid}"}
    command = [sys.executable, "-m", "unmask", "schema"]
    told = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert told.returncode == 2
    assert "the Snakemake of this job, is gone" in told.stderr
    assert "Traceback" not in told.stderr
