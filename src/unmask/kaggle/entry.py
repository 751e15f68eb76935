"""Answer a test set from this folder, without internet; README.md says how.

The bundle's `predict.py`. It runs where unmask and some of what it needs are not installed, so it
starts with the standard library and what timm brings.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

_OWN = "unmask"


def add_wheels(folder: Path, unpacked: Path) -> list[str]:
    """Make unmask importable, and what lies beside it as a wheel and is not installed.

    Args:
        folder: with the wheels.
        unpacked: folder for those that are needed: shared libraries cannot be used inside a zip.

    Returns:
        A line for each package that is neither installed nor in a wheel for this Python.
    """
    usable, missing = set(sys_tags()), []
    wheels: dict[str, list[Path]] = {}
    for wheel in sorted(folder.glob("*.whl")):
        wheels.setdefault(parse_wheel_filename(wheel.name)[0], []).append(wheel)
    for name, of_package in wheels.items():
        fitting = [one for one in of_package if usable & parse_wheel_filename(one.name)[3]]
        if name == _OWN:
            sys.path.insert(0, str(fitting[0]))
        elif not all(map(importlib.util.find_spec, _modules(of_package))):
            if fitting:
                zipfile.ZipFile(fitting[0]).extractall(unpacked)
            else:
                missing.append(
                    f"{name} is not installed, and {of_package[0].name} is not for Python "
                    f"{sys.version_info.major}.{sys.version_info.minor}; put a wheel that is into "
                    "the folder kaggle.wheelhouse, and export again"
                )
    sys.path.append(str(unpacked))  # last, so that what is installed comes first
    return missing


def _modules(wheels: Iterable[Path]) -> set[str]:
    """Return the names that wheels of one package can be imported by."""
    tops = {name.split("/")[0] for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()}
    folders = {top for top in tops if not top.endswith((".dist-info", ".data", ".libs"))}
    return {top.partition(".")[0] for top in folders}


def run() -> int:
    """Answer the test set; return the exit status."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin slow down the decoders
    folder = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as unpacked:
        missing = add_wheels(folder, Path(unpacked))
        if missing:
            print(*(f"predict.py: {line}" for line in missing), sep="\n", file=sys.stderr)
            return 2
        from unmask.kaggle.predict import main

        return main(["--bundle", str(folder), *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(run())
