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
    "audits.label_noise",
    "training.fit",
    "inference.score",
    "evaluation.evaluate",
    "kaggle.submission",
]

# A function that is appended to a module, and edits of it.
FUNCTION = """
from collections import Counter

def added(items, start=2):
    product = start * items
    return product
"""
EDITS_WITHOUT_EFFECT = {
    "comment": ("2):", "2):  # two\n    # of all"),
    "docstring": ("2):", '2):\n    """Return a product."""'),
    "hints of a function": ("items, start=2)", "items: int, start: int = 2) -> int"),
    "hint of a variable": ("product =", "product: int ="),
    "import for a hint": ("\ndef added(items", "from array import array\ndef added(items: array"),
    "formatting": ("items, start=2", "\n    items,\n    start = (2),\n"),
}
EDITS_WITH_EFFECT = {
    "constant": ("2", "3"),
    "operator": ("*", "+"),
    "order": ("start * items", "items * start"),
    "another function": ("return product", "return len(product)"),
    "decorator": ("\ndef", "\n@staticmethod\ndef"),
    "import that is used": ("return product", "return Counter(product)"),
}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package, to be edited."""
    source = Path(unmask.__file__).parent
    return Path(copytree(source, tmp_path / "unmask", ignore=ignore_patterns("__pycache__")))


@pytest.fixture
def digests(copied: Path) -> Callable[[], dict[str, str]]:
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


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def changed_by(
    edit: tuple[str, str], copied: Path, digests: Callable[[], dict[str, str]]
) -> set[str]:
    """Return the stages whose digests change with an edit of `FUNCTION` in videos/source.py."""
    edited = FUNCTION.replace(*edit)
    assert edited != FUNCTION
    original = (copied / "videos/source.py").read_text()
    (copied / "videos/source.py").write_text(original + FUNCTION)
    before = digests()
    (copied / "videos/source.py").write_text(original + edited)
    after = digests()
    return {stage for stage in STAGES if before[stage] != after[stage]}


@pytest.mark.parametrize("edit", EDITS_WITHOUT_EFFECT.values(), ids=EDITS_WITHOUT_EFFECT)
def test_what_computes_nothing_changes_no_digest(
    edit: tuple[str, str], copied: Path, digests: Callable[[], dict[str, str]]
) -> None:
    assert changed_by(edit, copied, digests) == set()


@pytest.mark.parametrize("edit", EDITS_WITH_EFFECT.values(), ids=EDITS_WITH_EFFECT)
def test_another_computation_changes_the_digests_of_those_that_import_it(
    edit: tuple[str, str], copied: Path, digests: Callable[[], dict[str, str]]
) -> None:
    changed = changed_by(edit, copied, digests)
    assert {"videos.probe", "kaggle.submission"} <= changed
    assert not {"videos.ledger", "splits.folds"} & changed


@pytest.mark.parametrize(
    ("edited", "changed", "unchanged"),
    [
        (
            "faces/tracks.py",
            {"faces.cropping", "kaggle.submission"},
            {"videos.probe", "splits.folds"},
        ),
        ("faces/template.html", {"faces.cropping"}, {"videos.probe", "splits.folds"}),
        ("training/augmentation.py", {"training.fit"}, {"kaggle.submission", "faces.cropping"}),
        ("vocabulary.py", {"videos.probe", "training.fit"}, set()),
        ("demo.py", set(), set(STAGES)),
        ("cli.py", set(), set(STAGES)),
        ("config.py", set(), set(STAGES)),
    ],
)
def test_an_edit_concerns_the_stages_that_import_the_file(
    edited: str,
    changed: set[str],
    unchanged: set[str],
    copied: Path,
    digests: Callable[[], dict[str, str]],
) -> None:
    before = digests()
    (copied / edited).touch()
    append(copied / edited, "\nEDITED = 1\n")
    after = digests()
    found = {stage for stage in STAGES if before[stage] != after[stage]}
    assert changed <= found
    assert not found & unchanged


def test_another_column_concerns_the_stages_that_write_or_read_it(
    copied: Path, digests: Callable[[], dict[str, str]]
) -> None:
    before = digests()
    text = (copied / "tables.py").read_text()
    (copied / "tables.py").write_text(text.replace('"sharpness": "float"', '"sharpness": "double"'))
    after = digests()
    changed = {stage for stage in STAGES if before[stage] != after[stage]}
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
    assert {"videos.probe", "videos.source", "videos.decoding"} <= probe
    assert all(name.startswith("videos.") or name == "vocabulary" for name in probe)
    crops = imported_modules("faces.cropping")
    assert {"faces.tracks", "faces.detectors", "videos.stream"} <= crops
    assert not any(name.startswith("training") for name in crops)
    assert "training.augmentation" in imported_modules("training.fit")


def test_a_copy_elsewhere_has_the_same_digests(digests: Callable[[], dict[str, str]]) -> None:
    assert digests() == {stage: source_digest(stage) for stage in STAGES}
