"""Predict a test set with this folder, without internet; see README.md.

This is the bundle's `predict.py`. unmask and some of its requirements may not be installed, so it
starts with the standard library and `packaging`, a requirement of timm.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

_OWN = "unmask"


def shipped_wheels(folder: Path) -> list[Path]:
    """Return the wheels that the manifest names, after checking their SHA-256.

    Raises:
        ValueError: a wheel is absent or differs, or there is no manifest; the message says which.
    """
    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{folder}: no readable manifest.json; upload it again") from None
    wheels = [folder / name for name in sorted(files) if name.endswith(".whl")]
    for wheel in wheels:
        if not wheel.is_file():
            raise ValueError(f"{wheel}: named in manifest.json but absent; upload it again")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != files[wheel.name]["sha256"]:
            raise ValueError(f"{wheel}: differs from manifest.json; upload the bundle again")
    return wheels


def add_wheels(wheels: Iterable[Path], unpacked: Path) -> list[str]:
    """Make unmask and its missing requirements importable from wheels.

    Requirements go to the folder `unpacked`, because shared libraries cannot be loaded from a zip.

    Returns:
        A line for each package that is neither installed nor in a wheel for this Python.
    """
    usable, missing = set(sys_tags()), []
    packages: dict[str, list[Path]] = {}
    for wheel in wheels:
        packages.setdefault(parse_wheel_filename(wheel.name)[0], []).append(wheel)
    for name, of_package in packages.items():
        fitting = [one for one in of_package if usable & parse_wheel_filename(one.name)[3]]
        if name == _OWN:
            sys.path.insert(0, str(fitting[0]))
            # Worker processes must not import another version that is installed.
            paths = (str(fitting[0]), os.environ.get("PYTHONPATH"))
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        elif not all(map(importlib.util.find_spec, _modules(of_package))):
            if fitting:
                zipfile.ZipFile(fitting[0]).extractall(unpacked)
            else:
                missing.append(
                    f"{name} is not installed, and {of_package[0].name} is not for Python "
                    f"{sys.version_info.major}.{sys.version_info.minor}; put a wheel that is into "
                    "the folder kaggle.wheelhouse, and export again"
                )
    sys.path.append(str(unpacked))  # last, so that installed packages come first
    return missing


def _modules(wheels: Iterable[Path]) -> set[str]:
    """Return the top-level modules of the wheels of one package."""
    tops = {name.split("/")[0] for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()}
    folders = {top for top in tops if not top.endswith((".dist-info", ".data", ".libs"))}
    return {top.partition(".")[0] for top in folders}


def run() -> int:
    """Predict the test set; return the exit status."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads slow down the decoders
    folder = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as unpacked:
        try:
            problems = add_wheels(shipped_wheels(folder), Path(unpacked))
        except ValueError as error:
            problems = [str(error)]
        if problems:
            print(*(f"predict.py: {line}" for line in problems), sep="\n", file=sys.stderr)
            return 2
        from unmask.kaggle.submission import main

        return main(["--bundle", str(folder), *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(run())
