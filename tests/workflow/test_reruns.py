"""What an edit makes run again: exactly the rules that the edited module serves."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from running import Finished, Workflow

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


def scheduled(finished: Finished, workflow: Workflow) -> tuple[set[str], set[str]]:
    """Return the rules that a dry run would run, and those of them whose parameters changed."""
    printed = workflow.finish("-n", directory=finished.output, config=finished.config)
    rules = set(re.findall(r"^(\w+) +\d+$", printed, flags=re.MULTILINE)) - {"total"}
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", printed, flags=re.MULTILINE)
    return rules, {name for name, block in blocks if "reason: Params have changed" in block}


@pytest.fixture
def edited(finished: Finished, tmp_path: Path) -> Workflow:
    """A copy of the finished run's repository at its own path, restored afterwards."""
    backup = tmp_path / "src"
    shutil.copytree(finished.workflow.repository / "src", backup)
    yield finished.workflow
    shutil.rmtree(finished.workflow.repository / "src")
    shutil.copytree(backup, finished.workflow.repository / "src")


SCORED = {"score", "score_shifts"}
AFTER_TRAIN = {*SCORED, "evaluate", "evaluate_shifts", "compare", "export", "predict", "all"}
FIGURES = {f"explore_{what}" for what in ("videos", "faces", "pairs", "augmentations")}
# Drawn last, of all that is there.
COSTS = {"explore_costs"}
AFTER_SPLIT = {
    "audit_leaks",
    "audit_shortcuts",
    "report_labels",
    "explore_costs",
    "sample_shifts",
    "shift_faces",
    "train",
    *AFTER_TRAIN,
}
AFTER_CROP = {
    "ledger",
    "embed_faces",
    "audit_labels",
    "compare_detectors",
    "split",
    *FIGURES,
    *AFTER_SPLIT,
}
AFTER_PROBE = {"extract_frames", "crop_faces", *AFTER_CROP}


@pytest.mark.parametrize(
    ("module", "served", "downstream"),
    [
        ("videos/probe.py", {"probe"}, AFTER_PROBE),
        ("faces/identity.py", {"embed_faces"}, {"audit_leaks", "all"} | COSTS),
        ("splits/groups.py", {"split"}, AFTER_SPLIT),
        ("audits/leaks.py", {"audit_leaks"}, {"all"} | COSTS),
        ("splits/roles.py", {"train", "report_labels"}, AFTER_TRAIN | COSTS),
        (
            "training/augmentation.py",
            {"experiments", "train", "explore_augmentations"},
            AFTER_TRAIN | COSTS,
        ),
        ("training/experiments.py", {"experiments"}, {"all"}),
        (
            "evaluation/figures.py",
            {*FIGURES, "report_labels", "compare_detectors", "evaluate"},
            AFTER_TRAIN - SCORED | COSTS,
        ),
        (
            "robustness/shifts.py",
            {"sample_shifts"},
            {"shift_faces", "score_shifts", "evaluate_shifts", "all"},
        ),
        ("kaggle/bundle.py", {"export"}, {"predict", "all"}),
        ("progress.py", set(), set()),
    ],
)
def test_an_edited_module_reruns_the_rules_it_serves_and_what_follows(
    finished: Finished, edited: Workflow, module: str, served: set[str], downstream: set[str]
) -> None:
    path = edited.repository / "src" / "unmask" / module
    path.write_text(path.read_text() + "\n# edited\n")
    rules, changed = scheduled(finished, edited)
    # A rule that follows another is told to run by its input before its own code is looked at.
    assert changed == served
    assert rules == served | downstream


def test_a_changed_setting_reruns_the_rules_that_read_it(finished: Finished) -> None:
    printed = finished.workflow.finish(
        "-n", directory=finished.output, config=[*finished.config, "evaluation={calibrate: none}"]
    )
    assert "rule evaluate:" in printed
    assert "rule train:" not in printed
    assert "rule crop_faces:" not in printed


def test_more_shifted_videos_or_another_set_change_nothing_else(finished: Finished) -> None:
    part = next((finished.challenge.root / "train").iterdir())
    evaluation = f"evaluation={{shift_videos: 12, shift_seconds: 1.0, sets: {{other: {part}}}}}"
    printed = finished.workflow.finish(
        "-n", directory=finished.output, config=[*finished.config, evaluation]
    )
    counts = dict(re.findall(r"^(\w+) +(\d+)$", printed, flags=re.MULTILINE))
    assert set(counts) - {"total"} == {
        *("sample_shifts", "shift_faces", "score_shifts", "evaluate_shifts"),
        *("probe", "extract_frames", "crop_faces", "set_ledger", "score_set", "evaluate_sets"),
        "all",
    }
    assert counts["probe"] == "1"


@pytest.mark.parametrize("cores", [1, 3])
def test_other_cores_make_nothing_again(finished: Finished, cores: int) -> None:
    """With one core frames go through a file instead of a pipe."""
    printed = finished.workflow.finish(
        "-n", directory=finished.output, config=finished.config, cores=cores
    )
    assert "Nothing to be done" in printed


def test_a_new_experiment_is_trained_at_once_and_the_others_are_left(
    finished: Finished, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("epochs: 1\n")
    new = f"experiments={{new: {{recipe: {recipe}, seeds: [1, 2]}}}}"
    printed = finished.workflow.finish(
        "-n", directory=finished.output, config=[*finished.config, new]
    )
    counts = dict(re.findall(r"^(\w+) +(\d+)$", printed, flags=re.MULTILINE))
    assert counts["experiments"] == "1"
    assert counts["train"] == counts["score"] == "2"
    assert "--experiment baseline" not in printed


def test_what_an_audit_says_trains_no_model_again(finished: Finished) -> None:
    printed = finished.workflow.finish(
        "-n", directory=finished.output, config=[*finished.config, "audits={shortcut_auc: 0.9}"]
    )
    assert "rule audit_shortcuts:" in printed
    assert "rule train:" not in printed
