"""A crash of the machine or a full disk leaves nothing behind that is taken for a whole file."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from unmask.config import Config, FacesConfig
from unmask.errors import UnmaskError
from unmask.faces.cropping import crop_shard
from unmask.videos.extraction import write_stream

from running import Finished, digests

pytestmark = pytest.mark.workflow

# Of the whole DAG; `make kills` sets it higher.
KILLS = int(os.environ.get("UNMASK_KILLS", "4"))

# The results of a run without files that hold times, paths or IDs of runs.
RESULTS = (
    *("probe/*", "faces/*", "identities/*", "noise/*", "videos.parquet", "ledger.json"),
    *("splits.parquet", "audits/*", "shifts/sample.parquet", "shifts/faces/*"),
    *("train/*/*/model.safetensors", "scores/*/*.parquet", "shifts/scores/*/*.parquet"),
    *("evaluation/*/*.parquet", "evaluation/*/calibration.json", "evaluation/*/metrics.json"),
    *("evaluation/*/shifts.json", "submission.csv"),
)


def start(finished: Finished, directory: Path, *targets: str) -> tuple[subprocess.Popen[str], Path]:
    """Start snakemake; return the process and the file that it prints to."""
    printed = directory.with_suffix(".log")
    with printed.open("w") as output:
        process = finished.workflow.start(
            *targets, directory=directory, config=finished.config, output=output
        )
    return process, printed


def wait_for(text: str, process: subprocess.Popen[str], printed: Path) -> None:
    """Wait until a running snakemake prints a text."""
    while text not in printed.read_text():
        assert process.poll() is None, printed.read_text()[-6000:]
        time.sleep(0.1)


FACES = ("results/faces/dfdc_train_part_0-00.tar", "results/faces/dfdc_train_part_1-00.tar")


def test_a_killed_run_is_completed_to_the_same_bytes(finished: Finished, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    process, printed = start(finished, directory, *FACES)
    wait_for("rule crop_faces:", process, printed)
    time.sleep(random.Random(0).uniform(0, 4))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    options = {"directory": directory, "config": finished.config}
    finished.workflow.finish("--unlock", **options)
    finished.workflow.finish(*FACES, **options)
    expected = digests(finished.results, "faces/*")
    assert digests(directory / "results", "faces/*") == expected


def test_a_second_snakemake_is_refused_and_does_no_harm(finished: Finished, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    process, printed = start(finished, directory, *FACES)
    wait_for("rule crop_faces:", process, printed)
    second = finished.workflow.run(*FACES, directory=directory, config=finished.config)
    assert second.returncode != 0
    assert "Directory cannot be locked" in second.stdout
    assert process.wait(1500) == 0, printed.read_text()[-6000:]
    expected = digests(finished.results, "faces/*")
    assert digests(directory / "results", "faces/*") == expected


def timeline(finished: Finished) -> list[tuple[str, float]]:
    """Return the benchmark file of each job and its seconds, in the order in which jobs ended."""
    files = (finished.output / "benchmarks").rglob("*.tsv")
    return [
        (str(path.relative_to(finished.output)), float(path.read_text().split("\n")[1].split()[0]))
        for path in sorted(files, key=lambda path: path.stat().st_mtime)
    ]


def living(group: int) -> list[str]:
    """Return the commands of the running processes of a process group."""
    commands = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                commands.append(" ".join(process.cmdline()))
    return commands


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_results(
    finished: Finished, tmp_path: Path
) -> None:
    directory, rng = tmp_path / "run", random.Random(KILLS)
    # The run would end with its last job if it were faster than the finished one.
    jobs = timeline(finished)[:-1]
    seconds = [seconds for _, seconds in jobs]
    for number, job in enumerate(sorted(rng.choices(range(len(jobs)), seconds, k=KILLS))):
        # Jobs do not end in the same order in every run.
        while (directory / jobs[job][0]).exists():
            job += 1
        benchmark, duration = jobs[job]
        process, printed = start(finished, directory)
        wait_for(f"benchmark: {benchmark}\n", process, printed)
        end = time.monotonic() + rng.random() * duration
        while time.monotonic() < end and not (directory / benchmark).exists():
            time.sleep(0.1)
        assert process.poll() is None, printed.read_text()[-6000:]
        # In turns all processes, as when the machine fails, and Snakemake alone.
        whole = number % 2 == 0
        started = re.findall(r"benchmark: (.+)\n", printed.read_text())
        hit = [name for name in started if not (directory / name).exists()]
        print(f"{'all' if whole else 'Snakemake'} killed in", *hit)
        if whole:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        # Jobs end when Snakemake does; a training writes its checkpoint first.
        end = time.monotonic() + 120
        while left := living(process.pid):
            assert time.monotonic() < end, left
            time.sleep(0.1)
        finished.workflow.finish("--unlock", directory=directory, config=finished.config)
    finished.workflow.finish(directory=directory, config=finished.config)
    assert digests(directory / "results", *RESULTS) == digests(finished.results, *RESULTS)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_leaves_no_unfinished_file(
    worked_part: Path, faces_config: FacesConfig, full_disk: Path
) -> None:
    probe, frames = worked_part / "probe.parquet", full_disk / "frames.tar"
    with pytest.raises(UnmaskError, match=r"frames\.tar: no space left on the disk"):
        write_stream([worked_part / "part"], probe, Config(), 1, frames)
    frames.unlink()
    outputs = [full_disk / name for name in ("faces.tar", "faces.parquet", "cropped.parquet")]
    with pytest.raises(UnmaskError, match=r"faces\.tar: no space left on the disk"):
        crop_shard(worked_part / "frames.tar", probe, faces_config, *outputs)
    assert list(full_disk.iterdir()) == []
