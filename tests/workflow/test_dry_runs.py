"""Decisions of Snakemake before any job starts: what it refuses, and which jobs it would run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unmask.demo import DemoSummary

from running import Finished, Workflow, jobs_of, roots

pytestmark = pytest.mark.workflow


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("frames={per_vido: 8}", "'frames.per_vido' is not a known key, did you mean"),
        ("data_root=nowhere", "data_root: no folder nowhere"),
        ("test_root=nowhere", "test_root: no "),
    ],
)
def test_a_wrong_configuration_is_one_line_that_names_the_key(
    workflow: Workflow, challenge: DemoSummary, tmp_path: Path, wrong: str, named: str
) -> None:
    assert named in workflow.refuse(directory=tmp_path, config=[*roots(challenge), wrong])
    assert not (tmp_path / "results").exists()


def test_jobs_in_containers_need_an_image(
    workflow: Workflow, challenge: DemoSummary, tmp_path: Path
) -> None:
    for image, problem in (("", "--sdm apptainer"), ("no.sif", "no image no.sif")):
        config = [*roots(challenge), f"container={image}"]
        line = workflow.refuse("--sdm", "apptainer", "-n", directory=tmp_path, config=config)
        assert line.startswith("unmask: container: ")
        assert problem in line


def test_both_snakefiles_describe_the_same_dag(
    workflow: Workflow, challenge: DemoSummary, tmp_path: Path
) -> None:
    options = {"directory": tmp_path, "config": roots(challenge)}
    dags = [
        workflow.finish("--dag", "--snakefile", name, "-q", **options)
        for name in ("Snakefile", "workflow/Snakefile")
    ]
    assert dags[0][dags[0].index("digraph") :] == dags[1][dags[1].index("digraph") :]


def test_the_number_of_jobs_depends_on_the_shards_alone(
    workflow: Workflow, challenge: DemoSummary, tmp_path: Path
) -> None:
    config = [*roots(challenge), "shards_per_part=3"]
    jobs = jobs_of(workflow.finish("-n", directory=tmp_path, config=config))
    sharded = {rule for rule, count in jobs.items() if count != 1}
    assert {"probe", "extract_frames", "crop_faces"} < sharded
    assert {jobs[rule] for rule in sharded} == {6}


def dry_run(finished: Finished, *config: str, cores: int = 2) -> str:
    return finished.workflow.finish(
        "-n", directory=finished.output, config=[*finished.config, *config], cores=cores
    )


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_a_finished_run_has_nothing_to_do_with_any_number_of_cores(
    finished: Finished, cores: int
) -> None:
    """With one core frames go through a file instead of a pipe."""
    assert "Nothing to be done" in dry_run(finished, cores=cores)


@pytest.mark.parametrize(
    ("setting", "rerun", "kept"),
    [
        ("evaluation={calibrate: none}", "evaluate", {"score", "train", "crop_faces"}),
        ("audits={shortcut_auc: 0.9}", "audit_shortcuts", {"split", "train", "evaluate"}),
        ("kaggle={title: another title}", "upload_files", {"compare", "export", "predict"}),
        ("kaggle={prior: 0.3}", "predict", {"train", "compare"}),
        ("tracking={experiment: another}", "track", {"train", "evaluate", "export"}),
    ],
)
def test_a_changed_setting_reruns_only_the_rules_that_depend_on_it(
    finished: Finished, setting: str, rerun: str, kept: set[str]
) -> None:
    rules = jobs_of(dry_run(finished, setting)).keys()
    assert rerun in rules
    assert not rules & kept


@pytest.mark.parametrize("key", ["devices: 2", "num_nodes: 2", "compile: true", "strategy: ddp"])
def test_how_a_model_is_trained_reruns_nothing(finished: Finished, key: str) -> None:
    assert "Nothing to be done" in dry_run(finished, f"training={{{key}}}")
    assert "Nothing to be done" in dry_run(finished, f"experiments={{baseline: {{{key}}}}}")


def test_more_shifted_videos_or_another_set_change_nothing_else(finished: Finished) -> None:
    part = next((finished.challenge.root / "train").iterdir())
    sets = f"evaluation={{shift_videos: 12, shift_seconds: 1.0, sets: {{other: {part}}}}}"
    jobs = jobs_of(dry_run(finished, sets))
    assert jobs.keys() - {"all", "track"} == {
        *("sample_shifts", "shift_faces", "score_shifts", "evaluate_shifts"),
        *("probe", "extract_frames", "crop_faces", "set_ledger", "score_set", "evaluate_sets"),
    }
    assert jobs["probe"] == 1


def test_a_new_experiment_is_trained_and_the_others_are_not(
    finished: Finished, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("epochs: 1\n")
    printed = dry_run(finished, f"experiments={{new: {{recipe: {recipe}, seeds: [1, 2]}}}}")
    jobs = jobs_of(printed)
    assert (jobs["experiments"], jobs["train"], jobs["score"]) == (1, 2, 2)
    assert "results/train/baseline" not in " ".join(re.findall(r" output: (.*)", printed))


@pytest.mark.parametrize(
    ("module", "served", "kept"),
    [
        ("videos/probe.py", {"probe"}, set()),
        ("audits/leaks.py", {"audit_leaks"}, {"split", "train"}),
        ("splits/roles.py", {"train", "report_labels"}, {"split", "audit_leaks"}),
        (
            "training/augmentation.py",
            {"experiments", "train", "explore_augmentations"},
            {"split", "crop_faces"},
        ),
        ("training/experiments.py", {"experiments"}, {"train", "evaluate"}),
        ("robustness/shifts.py", {"sample_shifts"}, {"train", "evaluate"}),
        ("kaggle/bundle.py", {"export"}, {"train", "evaluate"}),
        ("progress.py", set(), {"all"}),
    ],
)
def test_an_edited_module_reruns_the_rules_that_it_serves(
    finished: Finished, module: str, served: set[str], kept: set[str]
) -> None:
    path = finished.workflow.repository / "src/unmask" / module
    original = path.read_text()
    path.write_text(original + "\nEDITED = True\n")
    try:
        printed = dry_run(finished)
    finally:
        path.write_text(original)
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", printed, flags=re.MULTILINE)
    # A rule downstream of another is scheduled for its inputs, before its code is compared.
    assert {rule for rule, block in blocks if "reason: Params have changed" in block} == served
    assert not jobs_of(printed).keys() & kept
