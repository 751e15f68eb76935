"""A rule's digest changes when what the rule can compute may have changed, and only then."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

import unmask
from unmask.provenance import imported_modules, source_digest

STAGES = [
    "videos.probe",
    "videos.ledger",
    "faces.cropping",
    "splits.folds",
    "training.fit",
    "kaggle.submission",
]

# A function that is appended to a module, and edits of it.
FUNCTION = """
from collections import Counter

def added(items, start=2):
    product = start * items
    return product
"""
WITHOUT_EFFECT = [
    pytest.param("2):", "2):  # two\n    # of all", id="comment"),
    pytest.param("2):", '2):\n    """Return a product."""', id="docstring"),
    pytest.param("items, start=2)", "items: int, start: int = 2) -> int", id="hints"),
    pytest.param("product =", "product: int =", id="hint of a variable"),
    pytest.param(
        "\ndef added(items",
        "from array import array\ndef added(items: array",
        id="import for a hint",
    ),
    pytest.param("items, start=2", "\n    items,\n    start = (2),\n", id="formatting"),
]
WITH_EFFECT = [
    pytest.param("2", "3", id="constant"),
    pytest.param("*", "+", id="operator"),
    pytest.param("start * items", "items * start", id="order"),
    pytest.param("return product", "return len(product)", id="another function"),
    pytest.param("\ndef", "\n@staticmethod\ndef", id="decorator"),
    pytest.param("return product", "return Counter(product)", id="import that is used"),
]
# Part of the code or of the files that come with it, and stages that it concerns or does not.
FILES = [
    ("faces/tracks.py", {"faces.cropping", "kaggle.submission"}, {"videos.probe", "splits.folds"}),
    ("faces/template.html", {"faces.cropping"}, {"videos.probe", "splits.folds"}),
    ("training/augmentation.py", {"training.fit"}, {"kaggle.submission", "faces.cropping"}),
    ("vocabulary.py", {"videos.probe", "training.fit"}, set()),
    ("demo.py", set(), {"videos.probe", "training.fit"}),
    ("cli.py", set(), {"videos.probe", "training.fit"}),
    ("config.py", set(), {"videos.probe", "training.fit"}),
]

Digests = Callable[[], dict[str, str]]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package, to be edited."""
    source = Path(unmask.__file__).parent
    return Path(copytree(source, tmp_path / "unmask", ignore=ignore_patterns("__pycache__")))


@pytest.fixture
def digests(copied: Path) -> Digests:
    """Return the digests of the stages as the copied package has them."""
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


def changed_by(path: Path, text: str, digests: Digests) -> set[str]:
    """Return the stages whose digests change when a file gets another content."""
    before = digests()
    path.write_text(text)
    after = digests()
    return {stage for stage in STAGES if before[stage] != after[stage]}


@pytest.mark.parametrize(("old", "new"), WITHOUT_EFFECT)
def test_what_computes_nothing_changes_no_digest(
    old: str, new: str, copied: Path, digests: Digests
) -> None:
    source = copied / "videos/source.py"
    code = source.read_text()
    source.write_text(code + FUNCTION)
    assert changed_by(source, code + FUNCTION.replace(old, new), digests) == set()
    assert source.read_text() != code + FUNCTION


@pytest.mark.parametrize(("old", "new"), WITH_EFFECT)
def test_another_computation_changes_the_digests_of_those_that_import_it(
    old: str, new: str, copied: Path, digests: Digests
) -> None:
    source = copied / "videos/source.py"
    code = source.read_text()
    source.write_text(code + FUNCTION)
    changed = changed_by(source, code + FUNCTION.replace(old, new), digests)
    assert {"videos.probe", "kaggle.submission"} <= changed
    assert "training.fit" not in changed


@pytest.mark.parametrize(("file", "concerned", "others"), FILES, ids=[file for file, *_ in FILES])
def test_an_edit_concerns_the_stages_that_import_the_file(
    file: str, concerned: set[str], others: set[str], copied: Path, digests: Digests
) -> None:
    edited = copied / file
    edited.touch()
    changed = changed_by(edited, edited.read_text() + "\nEDITED = 1\n", digests)
    assert concerned <= changed
    assert not changed & others


def test_another_column_concerns_the_stages_that_write_or_read_it(
    copied: Path, digests: Digests
) -> None:
    tables = copied / "tables.py"
    text = tables.read_text().replace('("float", "sharpness', '("double", "sharpness')
    changed = changed_by(tables, text, digests)
    assert {"faces.cropping", "training.fit"} <= changed
    assert not {"videos.probe", "splits.folds"} & changed


def test_a_module_that_settings_name_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = '{"training": {"loss": "my.losses:focal"}}'
    installed = source_digest("training.fit", settings)
    assert installed == source_digest("training.fit")
    Path("my").mkdir()
    Path("my/losses.py").write_text(FUNCTION)
    assert source_digest("training.fit", settings) != installed


def test_a_module_is_followed_to_what_it_imports_and_no_further() -> None:
    probe = imported_modules("videos.probe")
    assert {"videos.probe", "videos.source", "videos.container"} <= probe
    assert all(name.startswith("videos.") or name == "vocabulary" for name in probe)
    crops = imported_modules("faces.cropping")
    assert {"faces.tracks", "faces.detectors", "videos.stream"} <= crops
    assert not any(name.startswith("training") for name in crops)
    assert "training.augmentation" in imported_modules("training.fit")


def test_a_copy_elsewhere_has_the_same_digests(digests: Digests) -> None:
    assert digests() == {stage: source_digest(stage) for stage in STAGES}
