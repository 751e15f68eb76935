"""Wheels for the bundle, made without a network: the project's own, and installed packages'."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import unmask
from unmask.errors import UnmaskError

# The earliest date of a zip file; the same for all, so that equal content gives equal bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


def build_wheel(output: Path) -> Path:
    """Build the project's own wheel in `output` without a download; it needs a checkout."""
    root = Path(unmask.__file__).resolve().parents[2]
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    command += ["--directory", str(output.resolve())]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1]
        raise UnmaskError(f"export: the wheel cannot be built in {root}: {reason}")
    return next(output.glob("unmask-*.whl"))


def copy_wheels(folder: Path, output: Path) -> None:
    """Copy the wheels of a folder, of which there must be one."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise UnmaskError(
            f"kaggle.wheelhouse: no wheel in {folder}; fill it with `pip download --only-binary "
            ":all: --python-version 3.12 --dest FOLDER PACKAGE …`"
        )
    for wheel in wheels:
        shutil.copyfile(wheel, output / wheel.name)


def required(packages: Iterable[str], present: Iterable[str]) -> list[str]:
    """Return packages and their installed requirements, without those that an image has.

    Args:
        packages: names on PyPI.
        present: packages of the image, which also has their requirements.

    Raises:
        UnmaskError: one of the packages is not installed.
    """
    for name in packages:
        try:
            distribution(name)
        except PackageNotFoundError:
            raise UnmaskError(
                f"kaggle.wheels: {name} is not installed here; install it, or put its wheel into "
                "the folder kaggle.wheelhouse"
            ) from None
    return sorted(_with_requirements(packages) - _with_requirements(present))


def _with_requirements(packages: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in packages]
    while waiting:
        name = waiting.pop()
        try:
            requirements = map(Requirement, distribution(name).requires or [])
        except PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            waiting += [
                canonicalize_name(one.name)
                for one in requirements
                if one.marker is None or one.marker.evaluate({"extra": ""})
            ]
    return found


def licence_of(package: str) -> str:
    """Return the licence in an installed package's metadata; its wheel has the text."""
    metadata = distribution(package).metadata
    classifiers: list[str] = metadata.get_all("Classifier", [])
    named = metadata.get_all("License-Expression", []) + [
        one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License :: ")
    ]
    return named[0] if named else "see its wheel"


def repack_wheel(package: str, output: Path) -> Path:
    """Pack an installed package into a wheel with the tags it was installed with; return it."""
    installed = distribution(package)
    header = (installed.read_text("WHEEL") or "").splitlines()
    tags = [line.removeprefix("Tag: ") for line in header if line.startswith("Tag: ")]
    interpreter, abi, _ = tags[0].split("-", 2)
    platforms = ".".join(dict.fromkeys(tag.split("-", 2)[2] for tag in tags))
    name = canonicalize_name(package).replace("-", "_")
    path = output / f"{name}-{installed.version}-{interpreter}-{abi}-{platforms}.whl"
    files = sorted(str(file) for file in installed.files or [])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name in files:
            if not name.startswith("..") and "__pycache__" not in name:
                entry = zipfile.ZipInfo(name, _DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                wheel.writestr(entry, Path(str(installed.locate_file(name))).read_bytes())
    return path
