"""A clean clone is checked, planned and run without arguments, and can be a module."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from unmask.demo import DemoSummary

from running import clone

pytestmark = pytest.mark.workflow

OTHER = """
module unmask:
    snakefile: {snakefile}
    config: {{"data_root": "{root}/train", "test_root": "{root}/test"}}

use rule * from unmask as unmask_*

rule all:
    default_target: True
    input: rules.unmask_all.input
"""


def snakemake(folder: Path, *arguments: str) -> str:
    """Run snakemake in a folder and return what it printed."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    done = subprocess.run(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def shards(printed: str) -> set[str]:
    return set(re.findall(r"results/probe/(\S+)\.parquet", printed))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return clone(tmp_path / "repository").repository


def test_it_passes_the_linter(repository: Path) -> None:
    assert "good condition" in snakemake(repository, "--lint")


def test_the_miniature_challenge_is_the_default_and_made_where_it_is_missing(
    repository: Path,
) -> None:
    planned = snakemake(repository, "--dry-run")
    assert "rule demo:" in planned
    assert not (repository / "resources").exists()
    snakemake(repository, "demo")
    again = snakemake(repository, "--dry-run")
    assert "rule demo:" not in again
    assert "rule train:" in again
    assert shards(again) == shards(planned) != set()


@pytest.mark.parametrize(
    "snakefile",
    ['gitfile("{repository}", path="workflow/Snakefile", tag="v1")', '"{repository}/Snakefile"'],
    ids=["git", "folder"],
)
def test_another_workflow_uses_all_rules(
    snakefile: str, repository: Path, challenge: DemoSummary, tmp_path: Path
) -> None:
    git = ["git", "-C", str(repository), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "-qm", "-"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    other = tmp_path / "other"
    other.mkdir()
    source = snakefile.format(repository=repository)
    (other / "Snakefile").write_text(OTHER.format(snakefile=source, root=challenge.root))
    printed = snakemake(other, "--dry-run")
    for rule in ("unmask_probe", "unmask_train", "unmask_predict"):
        assert f"rule {rule}:" in printed
    assert "not present" not in printed
