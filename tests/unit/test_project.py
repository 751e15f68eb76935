"""Versions and packages agree in pyproject.toml, the lock, environment.yml and the Dockerfile."""

import os
import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from snakemake.cli import parse_args
from snakemake.settings.enums import RerunTrigger

import unmask

PROFILES = Path(__file__).parents[2] / "profiles"


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def locked(repository: Path) -> dict[str, str]:
    lines = (repository / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith(("#", " "))]
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}


def test_the_lock_pins_every_requirement_and_one_opencv(
    project: dict[str, Any], locked: dict[str, str]
) -> None:
    extras = project["optional-dependencies"].values()
    for line in [*project["dependencies"], *(one for extra in extras for one in extra)]:
        requirement = Requirement(line)
        version = locked[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), requirement
    assert all(re.fullmatch(r"==[\w.!+]+", pin) for pin in locked.values())
    assert [name for name in locked if "opencv" in name] == ["opencv-python-headless"]


def test_the_conda_environment_has_the_packages_of_the_lock(
    repository: Path, project: dict[str, Any], locked: dict[str, str]
) -> None:
    environment = yaml.safe_load((repository / "environment.yml").read_text())
    python, _, pip = environment["dependencies"]
    assert python == "python=3.11"
    pins = {canonicalize_name(p.name): str(p.specifier) for p in map(Requirement, pip["pip"])}
    names = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    assert pins == {name: locked[name] for name in names}


def test_the_citation_names_this_version(repository: Path) -> None:
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    assert str(citation["version"]) == unmask.__version__


@pytest.fixture(scope="module")
def dockerfile(repository: Path) -> str:
    return (repository / "Dockerfile").read_text()


def test_the_image_has_the_projects_python_and_version(repository: Path, dockerfile: str) -> None:
    environment = yaml.safe_load((repository / "environment.yml").read_text())
    python = environment["dependencies"][0].replace("=", "")
    assert set(re.findall(r"python3\.\d+", dockerfile)) == {python}
    assert f'image.version="{unmask.__version__}"' in dockerfile


def test_the_cpu_image_leaves_out_exactly_the_packages_of_cuda(
    dockerfile: str, locked: dict[str, str]
) -> None:
    (pattern,) = re.findall(r"grep -vE '(.+?)' requirements\.lock", dockerfile)
    left_out = {name for name, pin in locked.items() if re.search(pattern, f"{name}{pin}")}
    # PyPI's torch requires CUDA on Linux only.
    assert left_out == torch_needs("Linux", locked) - torch_needs("Darwin", locked)
    assert "nvidia-cublas" in left_out


def torch_needs(system: str, locked: dict[str, str]) -> set[str]:
    """Return the locked packages that torch requires on a system, with any of its extras."""
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
def test_a_profile_is_valid_and_does_not_rerun_for_a_new_software_environment(name: str) -> None:
    given = ["--snakefile", str(PROFILES.parent / "Snakefile"), "--workflow-profile"]
    _, options = parse_args([*given, str(PROFILES / name)])
    assert options.rerun_triggers
    assert RerunTrigger.SOFTWARE_ENV not in options.rerun_triggers
    if options.executor == "cluster-generic":
        assert os.access(options.cluster_generic_status_cmd, os.X_OK)
