"""The project's files agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import unmask


@pytest.fixture(scope="module")
def required(repository: Path) -> list[Requirement]:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project["dependencies"]]


@pytest.fixture(scope="module")
def locked(repository: Path) -> dict[str, str]:
    lines = (repository / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith(("#", " "))]
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}


def test_the_lock_satisfies_every_requirement(
    required: list[Requirement], locked: dict[str, str]
) -> None:
    for requirement in required:
        version = locked[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), requirement


def test_the_lock_pins_everything_exactly(locked: dict[str, str]) -> None:
    assert all(re.fullmatch(r"==[\w.!+]+", pin) for pin in locked.values())


def test_the_lock_holds_the_development_tools_and_one_opencv(
    repository: Path, locked: dict[str, str]
) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    for line in [one for extra in project["optional-dependencies"].values() for one in extra]:
        requirement = Requirement(line)
        version = locked[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), requirement
    assert [name for name in locked if "opencv" in name] == ["opencv-python-headless"]


def test_the_conda_environment_has_the_packages_of_the_lock(
    repository: Path, required: list[Requirement], locked: dict[str, str]
) -> None:
    environment = yaml.safe_load((repository / "environment.yml").read_text())
    python, _, pip = environment["dependencies"]
    assert python == "python=3.11"
    pins = {canonicalize_name(p.name): str(p.specifier) for p in map(Requirement, pip["pip"])}
    assert pins == {name: locked[name] for name in (canonicalize_name(r.name) for r in required)}


def test_the_citation_names_this_version(repository: Path) -> None:
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    assert str(citation["version"]) == unmask.__version__
