"""Snakemake as the workflow tests run it: in a copy of the repository that they may edit."""

from __future__ import annotations

import os
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
    """Snakemake in a copy of the repository that tests may edit."""

    repository: Path

    def start(
        self,
        *arguments: str | Path,
        directory: Path | None = None,
        cores: int | str = 2,
        config: Sequence[str] = (),
        configfile: str | None = "config/demo.yaml",
        output: int | IO[str] = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start snakemake in the repository, in a process group of its own; both streams in one."""
        command = [sys.executable, "-m", "snakemake", "--cores", str(cores)]
        command += [str(argument) for argument in arguments]
        if directory is not None:
            command += ["--directory", str(directory)]
        if configfile is not None:
            command += ["--configfile", configfile]
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
        """Run snakemake as `start` does and return what it printed, both streams in stdout."""
        process = self.start(*arguments, **options)
        try:
            printed, _ = process.communicate(timeout=1500)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, printed)

    def finish(self, *arguments: str | Path, **options: Any) -> str:
        """Run snakemake, insist on success, and return what it printed."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout


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


def roots(challenge: DemoSummary, train: Path | None = None) -> list[str]:
    """Return the `--config` pairs of a challenge, or of other training data with its test set."""
    root = Path(challenge.root)
    return [f"data_root={train or root / 'train'}", f"test_root={root / 'test'}"]


def clone(target: Path) -> Workflow:
    """Copy what an image has of the repository to `target`; no results of the developer's runs."""
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
