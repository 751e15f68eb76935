"""Snakemake as the workflow tests run it: in a copy of the repository that they may edit."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from unmask.demo import DemoSummary

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Workflow:
    """Snakemake in a copy of the repository."""

    repository: Path

    def start(
        self,
        *arguments: str | Path,
        directory: Path,
        cores: int = 2,
        config: Sequence[str] = (),
        output: int | IO[str] = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start snakemake on the miniature challenge, in a process group of its own.

        Standard error goes to standard output.
        """
        command = [sys.executable, "-m", "snakemake", "--cores", str(cores), *map(str, arguments)]
        command += ["--directory", str(directory), "--configfile", "config/demo.yaml"]
        if config:
            command += ["--config", *config]
        # Not the developer's tracking server.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")}
        return subprocess.Popen(
            command,
            cwd=self.repository,
            env=environment,
            text=True,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run snakemake as `start` does and return what it printed."""
        process = self.start(*arguments, **options)
        try:
            printed, _ = process.communicate(timeout=1500)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, printed)

    def finish(self, *arguments: str | Path, **options: Any) -> str:
        """Run snakemake, assert that it succeeds, and return what it printed."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    def refuse(self, *arguments: str | Path, **options: Any) -> str:
        """Run snakemake, assert that it fails with one line of ours, and return that line."""
        done = self.run(*arguments, **options)
        assert done.returncode != 0
        assert "Traceback" not in done.stdout
        return next(line for line in done.stdout.splitlines() if line.startswith("unmask: "))


@dataclass(frozen=True)
class Finished:
    """A finished run of the whole DAG."""

    workflow: Workflow
    output: Path
    config: list[str]
    challenge: DemoSummary

    @property
    def results(self) -> Path:
        return self.output / "results"


def jobs_of(printed: str) -> dict[str, int]:
    """Return the number of jobs of each rule from what a dry run printed, without the total."""
    counts = re.findall(r"^(\w+) +(\d+)$", printed, flags=re.MULTILINE)
    return {rule: int(count) for rule, count in counts if rule != "total"}


def shards_of(printed: str, rule: str) -> list[str]:
    """Return the shards of a rule's jobs from what a dry run printed."""
    block = rf"rule {rule}:(?:\n .*)*?\n +wildcards: shard=(\S+)"
    return sorted(re.findall(block, printed))


def digests(results: Path, *patterns: str) -> dict[str, str]:
    """Return the digest of each file below `results` that matches a pattern."""
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in patterns
        for path in sorted(results.glob(pattern))
        if not path.name.startswith(".")  # unfinished files of a killed job
    }


def roots(challenge: DemoSummary, train: Path | None = None) -> list[str]:
    """Return the `--config` pairs of a challenge, or of other training data with its test set."""
    return [
        f"data_root={train or challenge.root / 'train'}",
        f"test_root={challenge.root / 'test'}",
    ]


def clone(target: Path) -> Workflow:
    """Copy the files that an image has to `target`, without results of the developer's runs."""
    target.mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    for name in (line.removeprefix("!") for line in lines if line.startswith("!")):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignored)
        else:
            shutil.copy2(source, target / name)
    return Workflow(target)
