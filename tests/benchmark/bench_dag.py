"""What it takes to plan DFDC: time and memory of `snakemake -n` for 119,154 videos in 50 parts.

    make bench-dag

It writes 50 metadata.json of DFDC's shape, without videos, and plans `config/dfdc.yaml` on them:
as it is, with ten times the videos, which must make no difference, and with ten times the shards.
The last line is the same once all is made: a run of stand-ins for the files, and planned again.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PARTS, VIDEOS, REAL = 50, 119_154, 19_154


def write_metadata(folder: Path, videos: int) -> None:
    """Write parts whose fakes name originals of the same part."""
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
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(told)
    jobs = int(re.findall(r"^total\s+(\d+)", told, re.M)[-1])
    return time.monotonic() - began, usage.ru_maxrss / 1024, jobs


def main() -> None:
    """Plan and print."""
    with tempfile.TemporaryDirectory() as folder:
        for name, videos, config in (
            ("DFDC, 500 shards", VIDEOS, ()),
            ("10 times the videos", 10 * VIDEOS, ()),
            ("50 shards", VIDEOS, ("shards_per_part=1",)),
        ):
            data = Path(folder) / name
            write_metadata(data, videos)
            seconds, megabytes, jobs = plan(data, Path(folder), *config)
            print(f"{name}: {videos:,} videos, {jobs:,} jobs, {seconds:.1f} s, {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
