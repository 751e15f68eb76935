"""Another workflow uses this one as a module."""

import subprocess
import sys
from pathlib import Path

import pytest

from unmask.demo import DemoSummary

from running import clone

pytestmark = pytest.mark.workflow

SNAKEFILE = """
module unmask:
    snakefile: {snakefile}
    config: {{"data_root": "{root}/train", "test_root": "{root}/test"}}

use rule * from unmask as unmask_*

rule all:
    default_target: True
    input: rules.unmask_all.input
"""


@pytest.mark.parametrize(
    "snakefile",
    ['gitfile("{repository}", path="workflow/Snakefile", tag="v1")', '"{repository}/Snakefile"'],
    ids=["git", "folder"],
)
def test_another_workflow_plans_all_rules(
    snakefile: str, challenge: DemoSummary, tmp_path: Path
) -> None:
    repository = clone(tmp_path / "repository").repository
    git = ["git", "-C", str(repository), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "-qm", "-"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    other = tmp_path / "other"
    other.mkdir()
    source = snakefile.format(repository=repository)
    (other / "Snakefile").write_text(SNAKEFILE.format(snakefile=source, root=challenge.root))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run"]
    done = subprocess.run(
        command, cwd=other, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout[-3000:]
    for rule in ("unmask_probe", "unmask_train", "unmask_predict"):
        assert f"rule {rule}:" in done.stdout
    assert "not present" not in done.stdout
