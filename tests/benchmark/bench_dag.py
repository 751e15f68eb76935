"""Time and memory of `snakemake -n` for DFDC: 119,154 videos in 50 parts (`make bench-dag`).

It writes 50 metadata.json of DFDC's shape, with empty files as videos, and plans `config/dfdc.yaml`
on them: from the start; after a finished run, simulated by placeholder files and Snakemake's own
records of them; with ten times the videos, which must make no difference to a first run; and with
ten times the shards. After a run, planning compares all videos with their inventories; that is also
measured by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from snakemake.api import SnakemakeApi
from snakemake.settings.enums import Quietness
from snakemake.settings.types import (
    ConfigSettings,
    ExecutionSettings,
    OutputSettings,
    ResourceSettings,
)

from unmask.videos.inventory import check_inventory, note_inventory

ROOT = Path(__file__).resolve().parents[2]
PARTS, VIDEOS, REAL = 50, 119_154, 19_154


def write_metadata(folder: Path, videos: int, files: bool = False) -> None:
    """Write metadata of parts whose fakes have their originals in the same part."""
    rng = np.random.default_rng(0)
    for part in range(PARTS):
        count = videos // PARTS + (part < videos % PARTS)
        reals = round(count * REAL / VIDEOS)
        names = [f"{part:02d}{number:07d}.mp4" for number in range(count)]
        entries = {name: {"label": "REAL", "split": "train", "original": None} for name in names}
        for name in names[reals:]:
            original = names[rng.integers(reals)]
            entries[name] = {"label": "FAKE", "split": "train", "original": original}
        path = folder / f"dfdc_train_part_{part}" / "metadata.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(entries))
        if files:
            for name in names:
                (path.parent / name).touch()


@contextlib.contextmanager
def planned(data: Path, directory: Path, cores: int, **config: Any) -> Any:
    """Yield Snakemake's DAG of jobs for DFDC."""
    quiet = OutputSettings(quiet={Quietness.ALL})
    with SnakemakeApi(quiet) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=cores),
            config_settings=ConfigSettings(
                {"data_root": str(data), **config}, [ROOT / "config/dfdc.yaml"]
            ),
            snakefile=ROOT / "Snakefile",
            workdir=directory,
        )
        # The only call of the API that builds the DAG and runs nothing prints it, too.
        with contextlib.redirect_stdout(io.StringIO()):
            workflow.dag().printrulegraph()
        yield workflow._workflow.dag


def pretend_done(data: Path, directory: Path) -> None:
    """Write a placeholder for each file of a finished run, and Snakemake's record of it."""
    with planned(data, directory, 16) as dag:
        dag.workflow.execution_settings = ExecutionSettings()
        for job in dag.toposorted():
            for one in job:
                for path in map(Path, one.output):
                    is_folder = one.rule.name == "export"
                    (path if is_folder else path.parent).mkdir(parents=True, exist_ok=True)
                    if not is_folder:
                        path.write_text("a placeholder\n")
                if one.rule.name == "probe":
                    note(data, Path(one.output.inventory))
                asyncio.run(dag.workflow.persistence.finished(one))


def note(data: Path, inventory: Path) -> None:
    """Write the inventory of a part that is one shard, as the probe does."""
    part = data / inventory.stem.removesuffix("-00")
    held = check_inventory(inventory, [part], 0, 1)
    note_inventory(held.token, held.parts, {}, inventory)


def compare(data: Path, done: Path) -> float:
    """Return the seconds that it takes to compare all videos with their inventories."""
    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        for part in data.iterdir():
            pool.submit(
                check_inventory, done / f"results/inventory/{part.name}-00.json", [part], 0, 1
            )
    return time.monotonic() - began


def plan(data: Path, directory: Path, *config: str) -> tuple[float, float, int]:
    """Return seconds, peak megabytes and number of jobs of a dry run."""
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--cores", "16"]
    command += ["--configfile", "config/dfdc.yaml", "--directory", str(directory)]
    command += ["--config", f"data_root={data}", *config]
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(printed)
    jobs = re.findall(r"^total\s+(\d+)", printed, re.M)
    if not jobs and "Nothing to be done" not in printed:
        sys.exit(printed)
    return time.monotonic() - began, usage.ru_maxrss / 1024, int(jobs[-1]) if jobs else 0


def main() -> None:
    """Plan and print."""
    with tempfile.TemporaryDirectory() as folder:
        data, more, done = (Path(folder) / name for name in ("data", "more", "done"))
        write_metadata(data, VIDEOS, files=True)
        write_metadata(more, 10 * VIDEOS)
        done.mkdir()
        pretend_done(data, done)
        nothing = Path(folder) / "nothing"
        for name, videos, arguments in (
            ("DFDC", VIDEOS, (data, nothing)),
            ("after a finished run", VIDEOS, (data, done)),
            ("10 times the videos", 10 * VIDEOS, (more, nothing)),
            ("10 times the shards", VIDEOS, (data, nothing, "shards_per_part=10")),
        ):
            seconds, megabytes, jobs = plan(*arguments)
            print(f"{name}: {videos:,} videos, {jobs:,} jobs, {seconds:.1f} s, {megabytes:.0f} MB")
        print(f"the inventories alone: {VIDEOS:,} videos, {compare(data, done):.1f} s")


if __name__ == "__main__":
    main()
