"""A Python environment with a few packages and without a network, as the bundle may find it."""

from __future__ import annotations

import sysconfig
import venv
from importlib.metadata import distribution
from pathlib import Path

from unmask.kaggle.wheels import required

PACKAGES = ("torch", "timm", "numpy", "opencv-python-headless", "pandas", "safetensors")
KERNEL = "ipykernel"  # runs a notebook

# Jupyter talks to its kernel over the loopback.
_NO_NETWORK = '''"""Allow no connection to leave this machine."""

import sys

HERE = ("127.0.0.1", "localhost", "::1", None)


def forbid(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host not in HERE:
        raise RuntimeError(f"no network here: {host}")


sys.addaudithook(forbid)
'''


def bare_environment(folder: Path) -> Path:
    """Link a few installed packages and all that they require into a new environment.

    Returns:
        Its interpreter.
    """
    venv.create(folder, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for name in required([*PACKAGES, KERNEL], present=()):
        installed = distribution(name)
        tops = {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}
        for top in tops:
            link = packages / top
            if not link.exists():
                link.symlink_to(Path(str(installed.locate_file(top))))
    (packages / "sitecustomize.py").write_text(_NO_NETWORK)
    return folder / "bin" / "python"
