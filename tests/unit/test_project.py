"""The project's files agree with each other."""

import os
import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from snakemake.cli import parse_args
from snakemake.settings.enums import RerunTrigger

import unmask

PROFILES = Path(__file__).parents[2] / "profiles"


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


@pytest.fixture(scope="module")
def dockerfile(repository: Path) -> str:
    return (repository / "Dockerfile").read_text()


def test_the_image_has_the_python_and_the_version_of_the_project(
    repository: Path, dockerfile: str
) -> None:
    environment = yaml.safe_load((repository / "environment.yml").read_text())
    python = environment["dependencies"][0].replace("=", "")
    assert set(re.findall(r"python3\.\d+", dockerfile)) == {python}
    assert f'image.version="{unmask.__version__}"' in dockerfile


def test_an_image_for_cpus_lacks_what_torch_needs_for_cuda_and_nothing_else(
    dockerfile: str, locked: dict[str, str]
) -> None:
    (pattern,) = re.findall(r"grep -vE '(.+?)' requirements\.lock", dockerfile)
    left_out = {name for name, pin in locked.items() if re.search(pattern, f"{name}{pin}")}
    # PyPI's torch asks for CUDA on Linux alone.
    assert left_out == torch_needs("Linux", locked) - torch_needs("Darwin", locked)
    assert "nvidia-cublas" in left_out


def torch_needs(system: str, locked: dict[str, str]) -> set[str]:
    """Return what of the lock torch requires on a system, through any extra."""
    found: set[str] = set()
    waiting = ["torch"]
    while waiting:
        name = waiting.pop()
        if name in locked and name not in found:
            found.add(name)
            installed = distribution(name)
            extras = ["", *(installed.metadata.get_all("Provides-Extra") or [])]
            for one in map(Requirement, installed.requires or []):
                asked = [{"platform_system": system, "extra": extra} for extra in extras]
                if one.marker is None or any(map(one.marker.evaluate, asked)):
                    waiting.append(canonicalize_name(one.name))
    return found


@pytest.mark.parametrize("name", sorted(path.name for path in PROFILES.iterdir() if path.is_dir()))
def test_snakemake_takes_a_profile_that_trains_again_for_no_other_environment(name: str) -> None:
    given = ["--snakefile", str(PROFILES.parent / "Snakefile"), "--workflow-profile"]
    _, options = parse_args([*given, str(PROFILES / name)])
    assert options.rerun_triggers
    assert RerunTrigger.SOFTWARE_ENV not in options.rerun_triggers
    if options.executor == "cluster-generic":
        assert os.access(options.cluster_generic_status_cmd, os.X_OK)
