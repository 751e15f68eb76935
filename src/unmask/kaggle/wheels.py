"""Wheels for the bundle, made without a network: the project's own, and installed packages'."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import unmask
from unmask.errors import UnmaskError

# Zip files know no year before 1980; one date for all makes equal content equal bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


def build_wheel(output: Path) -> None:
    """Build the project's own wheel into `output`, without isolation: nothing is fetched.

    Raises:
        UnmaskError: the code does not lie in a checkout of the project.
    """
    root = Path(unmask.__file__).resolve().parents[2]
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    command += ["--directory", str(output.resolve())]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1]
        raise UnmaskError(f"export: the wheel cannot be built in {root}: {reason}")


def repack_wheel(package: str, output: Path) -> Path:
    """Pack an installed package into a wheel again.

    Args:
        package: its name on PyPI.
        output: folder of the wheel.

    Returns:
        The wheel, named by the tags it was installed with.
    """
    installed = distribution(package)
    header = (installed.read_text("WHEEL") or "").splitlines()
    tags = [line.removeprefix("Tag: ") for line in header if line.startswith("Tag: ")]
    interpreter, abi, _ = tags[0].split("-", 2)
    platforms = ".".join(dict.fromkeys(tag.split("-", 2)[2] for tag in tags))
    path = output / f"{package}-{installed.version}-{interpreter}-{abi}-{platforms}.whl"
    files = sorted(str(file) for file in installed.files or [])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name in files:
            if not name.startswith("..") and "__pycache__" not in name:
                entry = zipfile.ZipInfo(name, _DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                wheel.writestr(entry, Path(str(installed.locate_file(name))).read_bytes())
    return path
