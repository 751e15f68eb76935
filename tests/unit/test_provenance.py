"""A rule's digest follows the code it runs, and no other."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import unmask
from unmask.provenance import git_state, imported_modules, source_digest

# Every module that a rule of the workflow runs.
STAGES = [
    "videos.probe",
    "videos.stream",
    "videos.ledger",
    "faces.cropping",
    "faces.identity",
    "splits.folds",
    "audits.leaks",
    "audits.label_noise",
    "training.fit",
    "inference.score",
    "evaluation.evaluate",
    "audits.label_noise_report",
    "audits.detectors",
    "kaggle.bundle",
    "kaggle.submission",
]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    source = Path(unmask.__file__).parent
    copy = tmp_path / "unmask"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture
def digests(copied: Path) -> Callable[[], dict[str, str]]:
    """The digests of all stages, as the copied package has them."""
    code = (
        "from unmask.provenance import source_digest\n"
        f"for stage in {STAGES}: print(stage, source_digest(stage))\n"
    )

    def compute() -> dict[str, str]:
        environment = os.environ | {"PYTHONPATH": str(copied.parent)}
        command = [sys.executable, "-B", "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return dict(line.split() for line in done.stdout.splitlines())

    return compute


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_a_module_is_followed_to_what_it_imports_and_no_further() -> None:
    probe = imported_modules("videos.probe")
    assert probe == {f"videos.{name}" for name in ("probe", "source", "frames", "isolation")}
    crops = imported_modules("faces.cropping")
    assert {
        "faces.tracks",
        "faces.detectors",
        "faces.weights",
        "faces.search",
        "videos.stream",
    } <= crops
    assert not any(name.startswith("training") for name in crops)
    assert "training.augmentation" in imported_modules("training.fit")


def test_a_copy_elsewhere_has_the_same_digests(digests: Callable[[], dict[str, str]]) -> None:
    assert digests() == {stage: source_digest(stage) for stage in STAGES}


@pytest.mark.parametrize(
    ("edited", "changed", "unchanged"),
    [
        (
            "videos/source.py",
            {"videos.probe", "kaggle.submission"},
            {"videos.ledger", "splits.folds"},
        ),
        (
            "faces/tracks.py",
            {"faces.cropping", "kaggle.submission"},
            {"videos.probe", "splits.folds"},
        ),
        ("training/augmentation.py", {"training.fit"}, {"kaggle.submission", "faces.cropping"}),
        ("demo.py", set(), set(STAGES)),
        ("cli.py", set(), set(STAGES)),
    ],
)
def test_an_edit_changes_the_digests_of_those_that_import_it(
    edited: str,
    changed: set[str],
    unchanged: set[str],
    copied: Path,
    digests: Callable[[], dict[str, str]],
) -> None:
    before = digests()
    append(copied / edited, "\n# edited\n")
    after = digests()
    found = {stage for stage in STAGES if before[stage] != after[stage]}
    assert changed <= found
    assert not found & unchanged


def test_another_column_changes_the_digest_of_those_that_write_or_read_it(
    copied: Path, digests: Callable[[], dict[str, str]]
) -> None:
    before = digests()
    text = (copied / "tables.py").read_text()
    (copied / "tables.py").write_text(text.replace('"sharpness": "float"', '"sharpness": "double"'))
    after = digests()
    assert before["faces.cropping"] != after["faces.cropping"]
    assert before["training.fit"] != after["training.fit"]
    assert before["videos.probe"] == after["videos.probe"]
    assert before["splits.folds"] == after["splits.folds"]


def test_the_state_of_git_is_told_also_where_there_is_none() -> None:
    state = git_state()
    assert set(state) == {"git_commit", "git_dirty"}
    assert state["git_commit"] == "not a git checkout" or len(state["git_commit"]) == 40
