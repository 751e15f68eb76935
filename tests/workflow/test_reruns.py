"""What an edit makes run again: exactly the rules that the edited module serves."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from running import Finished, Workflow

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


def scheduled(finished: Finished, workflow: Workflow) -> dict[str, str]:
    """Return the rules of a dry run with the reason of each."""
    printed = workflow.finish("-n", directory=finished.output, config=finished.config)
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", printed, flags=re.MULTILINE)
    return {
        name: (re.search(r"reason: (.*)", block) or [None, ""])[1]  # type: ignore[index]
        for name, block in blocks
    }


@pytest.fixture
def edited(finished: Finished, tmp_path: Path) -> Workflow:
    """A copy of the finished run's repository at its own path, restored afterwards."""
    backup = tmp_path / "src"
    shutil.copytree(finished.workflow.repository / "src", backup)
    yield finished.workflow
    shutil.rmtree(finished.workflow.repository / "src")
    shutil.copytree(backup, finished.workflow.repository / "src")


@pytest.mark.parametrize(
    ("module", "rules"),
    [
        ("videos/probe.py", {"probe"}),
        ("splits/groups.py", {"split"}),
        ("splits/roles.py", {"train", "score", "evaluate"}),
        ("training/augment.py", {"train", "score"}),
        ("evaluation/figures.py", {"explore", "evaluate", "compare"}),
        ("kaggle/bundle.py", {"export"}),
        ("progress.py", set()),
    ],
)
def test_an_edited_module_reruns_the_rules_it_serves(
    finished: Finished, edited: Workflow, module: str, rules: set[str]
) -> None:
    path = edited.repository / "src" / "unmask" / module
    path.write_text(path.read_text() + "\n# edited\n")
    reasons = scheduled(finished, edited)
    by_code = {rule for rule, reason in reasons.items() if "Params have changed" in reason}
    assert by_code == rules


def test_a_changed_setting_reruns_the_rules_that_read_it(finished: Finished) -> None:
    printed = finished.workflow.finish(
        "-n", directory=finished.output, config=[*finished.config, "evaluation={calibrate: false}"]
    )
    assert "rule evaluate:" in printed
    assert "rule train:" not in printed
    assert "rule crop_faces:" not in printed
