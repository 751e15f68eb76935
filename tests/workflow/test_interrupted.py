"""What a crash of the machine, or a full disk, leaves behind: nothing that is taken for whole."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from bisect import bisect
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import psutil
import pytest

from unmask.demo import DemoSummary

from running import ROOT, Finished, Workflow, roots

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

# `make kills` asks for more of them than every test run does.
KILLS = int(os.environ.get("UNMASK_KILLS", "4"))


def shards(directory: Path) -> dict[str, str]:
    """Return the digest of every file that the faces stage writes."""
    files = sorted((directory / "results/faces").glob("[!.]*"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def config(challenge: DemoSummary) -> list[str]:
    return [*roots(challenge), "shards_per_part=2"]


@pytest.fixture(scope="module")
def targets(challenge: DemoSummary) -> list[str]:
    parts = sorted(path.name for path in (Path(challenge.root) / "train").iterdir())
    return [f"results/faces/{part}-{chunk:02d}.tar" for part in parts for chunk in (0, 1)]


@pytest.fixture(scope="module")
def probed(
    tmp_path_factory: pytest.TempPathFactory,
    workflow: Workflow,
    config: list[str],
    targets: list[str],
) -> Path:
    """A directory in which only the probe stage has run."""
    directory = tmp_path_factory.mktemp("probed")
    probes = [t.replace("faces", "probe").replace(".tar", ".parquet") for t in targets]
    workflow.finish(*probes, directory=directory, config=config)
    return directory


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
    workflow: Workflow,
    config: list[str],
    targets: list[str],
    probed: Path,
) -> tuple[dict[str, str], float]:
    """Digests of a run in peace, and the seconds it took."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    shutil.copytree(probed, directory, symlinks=True)
    start = time.monotonic()
    workflow.finish(*targets, directory=directory, config=config)
    return shards(directory), time.monotonic() - start


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_run_finishes_with_the_bytes_of_an_undisturbed_one(
    seed: int,
    workflow: Workflow,
    config: list[str],
    targets: list[str],
    probed: Path,
    undisturbed: tuple[dict[str, str], float],
    tmp_path: Path,
) -> None:
    expected, seconds = undisturbed
    directory = tmp_path / "run"
    shutil.copytree(probed, directory, symlinks=True)
    process = workflow.start(
        *targets, directory=directory, config=config, output=subprocess.DEVNULL
    )
    # Snakemake's own start takes the first part of it.
    time.sleep(random.Random(seed).uniform(0.3, 1) * seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    workflow.finish("--unlock", directory=directory, config=config)
    workflow.finish(*targets, directory=directory, config=config)
    assert shards(directory) == expected


def test_a_second_snakemake_is_turned_away_and_does_no_harm(
    workflow: Workflow,
    config: list[str],
    targets: list[str],
    probed: Path,
    undisturbed: tuple[dict[str, str], float],
    tmp_path: Path,
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(probed, directory, symlinks=True)
    printed = tmp_path / "first.log"
    with printed.open("w") as output:
        first = workflow.start(*targets, directory=directory, config=config, output=output)
    wait_until_told("benchmark: ", first, printed)
    second = workflow.run(*targets, directory=directory, config=config)
    assert first.poll() is None
    assert second.returncode != 0
    assert "Directory cannot be locked" in second.stdout
    assert "--unlock" in second.stdout
    assert first.wait(1500) == 0, printed.read_text()[-6000:]
    assert shards(directory) == undisturbed[0]


def wait_until_told(text: str, process: subprocess.Popen[str], printed: Path) -> None:
    """Wait until a running snakemake prints something."""
    while text not in printed.read_text():
        assert process.poll() is None, printed.read_text()[-6000:]
        time.sleep(0.1)


def timeline(finished: Finished) -> list[tuple[str, float]]:
    """Return the jobs of a run, named by their benchmark files, with seconds, as they ended."""
    files = (finished.output / "benchmarks").rglob("*.tsv")
    return [
        (str(path.relative_to(finished.output)), float(path.read_text().split("\n")[1].split()[0]))
        for path in sorted(files, key=lambda path: path.stat().st_mtime)
    ]


def moments(jobs: list[tuple[str, float]], seed: int) -> list[tuple[int, float]]:
    """Draw a moment from each equal stretch of a run: which job, and seconds from its start.

    None is in the last job, which the run would end with where it is faster than it was.
    """
    rng = random.Random(seed)
    ends = list(accumulate(seconds for _, seconds in jobs[:-1]))
    drawn = []
    for number in range(KILLS):
        moment = ends[-1] * (number + rng.random()) / KILLS
        job = bisect(ends, moment)
        drawn.append((job, moment - ends[job] + jobs[job][1]))
    return drawn


def living(group: int) -> list[str]:
    """Return the commands of a process group that are still at work."""
    commands = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                commands.append(" ".join(process.cmdline()))
    return commands


# What a run is for, but what holds times, paths or names of runs, which no two runs share.
RESULTS = (
    *("probe/*", "faces/*", "identities/*", "noise/*", "videos.parquet", "ledger.json"),
    *("splits.parquet", "audits/*", "shifts/sample.parquet", "shifts/faces/*"),
    *("train/*/*/model.safetensors", "scores/*/*.parquet", "shifts/scores/*/*.parquet"),
    *("evaluation/*/*.parquet", "evaluation/*/calibration.json", "evaluation/*/metrics.json"),
    *("evaluation/*/shifts.json", "submission.csv"),
)


def digests(results: Path) -> dict[str, str]:
    """Return the digest of every table and model."""
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in RESULTS
        for path in sorted(results.glob(pattern))
        if not path.name.startswith(".")  # what a killed job was writing
    }


def test_a_run_killed_all_along_its_way_ends_with_the_results_of_one_in_peace(
    finished: Finished, tmp_path: Path
) -> None:
    workflow, directory = finished.workflow, tmp_path / "run"
    jobs = timeline(finished)
    for number, (job, seconds) in enumerate(moments(jobs, seed=KILLS)):
        # Side by side, jobs do not end in the same order in every run.
        while (directory / jobs[job][0]).exists():
            job, seconds = job + 1, 0.0
        printed = tmp_path / f"{number}.log"
        with printed.open("w") as output:
            process = workflow.start(directory=directory, config=finished.config, output=output)
        wait_until_told(f"benchmark: {jobs[job][0]}\n", process, printed)
        # Or when it ends, where the machine is faster by now.
        end = time.monotonic() + seconds
        while time.monotonic() < end and not (directory / jobs[job][0]).exists():
            time.sleep(0.1)
        assert process.poll() is None, printed.read_text()[-6000:]
        started = re.findall(r"benchmark: (.+)\n", printed.read_text())
        hit = [name for name in started if not (directory / name).exists()]
        # The whole machine, or Snakemake alone.
        whole = number % 2 == 0
        print(f"{'all' if whole else 'Snakemake'} killed {seconds:.1f} s into", jobs[job][0], hit)
        if whole:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        # Its jobs end with it; a training writes its checkpoint first.
        end = time.monotonic() + 120
        while left := living(process.pid):
            assert time.monotonic() < end, left
            time.sleep(0.1)
        workflow.finish("--unlock", directory=directory, config=finished.config)
    workflow.finish(directory=directory, config=finished.config)
    assert digests(directory / "results") == digests(finished.results)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 600 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_leaves_no_half_written_file(
    probed: Path, challenge: DemoSummary, full_disk: Path, tmp_path: Path
) -> None:
    part = sorted((Path(challenge.root) / "train").iterdir())[0]
    probe = probed / f"results/probe/{part.name}-00.parquet"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}

    def unmask(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "unmask", *map(str, arguments)]
        return subprocess.run(command, env=environment, text=True, capture_output=True)

    frames = ["extract-frames", "--parts", part, "--probe", probe, "--workers", "1"]
    full = unmask(*frames, "--output", full_disk / "frames.tar")
    assert full.returncode == 2
    assert f"{full_disk / 'frames.tar'}: no space left on the disk" in full.stderr
    assert "Traceback" not in full.stderr
    (full_disk / "frames.tar").unlink()

    assert unmask(*frames, "--output", tmp_path / "frames.tar").returncode == 0
    crop = ["crop-faces", "--stream", tmp_path / "frames.tar", "--probe", probe]
    outputs = ["--shard", full_disk / "faces.tar", "--index", full_disk / "faces.parquet"]
    full = unmask(*crop, *outputs, "--videos", full_disk / "videos.parquet")
    assert full.returncode == 2
    assert f"{full_disk / 'faces.tar'}: no space left on the disk" in full.stderr
    assert "Traceback" not in full.stderr
    assert list(full_disk.iterdir()) == []
