"""A Python as bare as an image may be, and without a network, for what the bundle must bear."""

from __future__ import annotations

import sysconfig
import venv
from importlib.metadata import distribution
from pathlib import Path

from unmask.kaggle.wheels import required

PACKAGES = ("torch", "timm", "numpy", "opencv-python-headless", "pandas", "safetensors")
# What runs a notebook there.
KERNEL = "ipykernel"

# Jupyter talks to its kernel over the loopback.
_NO_NETWORK = '''"""Let no connection leave this machine."""

import sys

HERE = ("127.0.0.1", "localhost", "::1", None)


def forbid(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        asked = arguments[1][0]
    elif event == "socket.getaddrinfo":
        asked = arguments[0]
    else:
        return
    if asked not in HERE:
        raise RuntimeError(f"no network here: {asked}")


sys.addaudithook(forbid)
'''


def bare_environment(folder: Path) -> Path:
    """Make an environment of a few installed packages, and all that they require, by links.

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
