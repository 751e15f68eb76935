"""What a crash of the machine, or a full disk, leaves behind: nothing that is taken for whole."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unmask.demo import DemoSummary

from running import ROOT, Workflow, roots

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

# `make kills` asks for more of them than every test run does.
KILLS = int(os.environ.get("UNMASK_KILLS", "3"))


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
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *targets]
    command += ["--directory", str(directory), "--configfile", "config/demo.yaml"]
    process = subprocess.Popen(
        [*command, "--config", *config],
        cwd=workflow.repository,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # Snakemake's own start takes the first part of it.
    time.sleep(random.Random(seed).uniform(0.3, 1) * seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    workflow.finish("--unlock", directory=directory, config=config)
    workflow.finish(*targets, directory=directory, config=config)
    assert shards(directory) == expected


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

    frames = ["extract-frames", "--part", part, "--probe", probe]
    full = unmask(*frames, "--out", full_disk / "frames.tar")
    assert full.returncode == 2
    assert f"{full_disk / 'frames.tar'}: no space left on the disk" in full.stderr
    assert "Traceback" not in full.stderr
    (full_disk / "frames.tar").unlink()

    assert unmask(*frames, "--out", tmp_path / "frames.tar").returncode == 0
    crop = ["crop-faces", "--stream", tmp_path / "frames.tar", "--probe", probe]
    outputs = ["--shard", full_disk / "faces.tar", "--index", full_disk / "faces.parquet"]
    full = unmask(*crop, *outputs, "--videos", full_disk / "videos.parquet")
    assert full.returncode == 2
    assert f"{full_disk / 'faces.tar'}: no space left on the disk" in full.stderr
    assert "Traceback" not in full.stderr
    assert list(full_disk.iterdir()) == []
