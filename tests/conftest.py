"""Tiny real videos and the results of the first stages on them, for all tests."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import pytest
from filelock import FileLock
from hypothesis import settings

from clips import encode_video
from stages import crop_parts
from unmask.config import Config, FacesConfig, FramesConfig

REPOSITORY = Path(__file__).parents[1]

settings.register_profile("unmask", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("unmask")


def pytest_configure() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts: spinning threads are slow
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    cv2.setNumThreads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    return encode_video


def write_part(folder: Path, entries: Mapping[str, Any]) -> Path:
    """Write a part's metadata.json of `{name: label or original or a whole entry}`."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {name: complete_entry(value) for name, value in entries.items()}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def complete_entry(value: Any) -> Any:
    if value in ("REAL", "FAKE"):
        return {"label": value, "split": "train", "original": None}
    if isinstance(value, str):
        return {"label": "FAKE", "split": "train", "original": value}
    return value


@pytest.fixture(scope="session")
def make_part() -> Callable[..., Path]:
    return write_part


@pytest.fixture(scope="session")
def faces_config() -> FacesConfig:
    return FacesConfig(size=64)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first of pytest-xdist's workers to need it has made."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder = root / name
    with FileLock(root / f"{name}.lock"):
        if not folder.exists():
            make(root / f"{name}.unfinished")
            (root / f"{name}.unfinished").rename(folder)
    return folder


@pytest.fixture(scope="session")
def worked_part(tmp_path_factory: pytest.TempPathFactory, faces_config: FacesConfig) -> Path:
    """A part of two REAL and two FAKE clips and an unreadable file, after the first three stages.

    Holds `part/`, `probe.parquet`, `frames.tar`, `faces/part-00.tar`, `faces/part-00.parquet` and
    `cropped.parquet`.
    """
    return made_once(tmp_path_factory, "worked", lambda root: write_worked_part(root, faces_config))


def write_worked_part(root: Path, faces_config: FacesConfig) -> None:
    entries = {"a.mp4": "REAL", "b.mp4": "REAL", "c.mp4": "a.mp4", "d.mp4": "b.mp4"}
    part = write_part(root / "part", entries | {"broken.mp4": "a.mp4", "nobody.mp4": "REAL"})
    for index, name in enumerate(entries):
        encode_video(part / name, at=(0.45 + 0.03 * index, 0.5))
    encode_video(part / "nobody.mp4", people=0)
    (part / "broken.mp4").write_bytes(b"not a video")
    config = Config(frames=FramesConfig(per_video=4), faces=faces_config)
    crop_parts([part], root, config, shard="faces/part-00.tar")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # the longest group first
        items.sort(key=lambda item: item.path.parent.name != "workflow")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file on one worker, and all whole runs of Snakemake on one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "workflow" if "tests/workflow/" in nodeid else nodeid.partition("::")[0]

    config.option.loadscopereorder = False
    return ByFile(config, log)
