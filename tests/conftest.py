"""Tiny real videos and what the first stages make of them, for all tests."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import pytest
from hypothesis import settings

from clips import encode_video
from unmask.config import Config, FacesConfig

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


@pytest.fixture(scope="session")
def worked_part(tmp_path_factory: pytest.TempPathFactory, faces_config: FacesConfig) -> Path:
    """A part of two REAL and two FAKE clips and an unreadable file, after the first three stages.

    Holds `part/`, `probe.parquet`, `frames.tar`, `faces/part-00.tar`, `faces/part-00.parquet` and
    `cropped.parquet`.
    """
    from unmask.faces.cropping import crop_shard
    from unmask.videos.probe import probe_shard
    from unmask.videos.stream import write_stream

    root = tmp_path_factory.mktemp("worked")
    entries = {"a.mp4": "REAL", "b.mp4": "REAL", "c.mp4": "a.mp4", "d.mp4": "b.mp4"}
    part = write_part(root / "part", entries | {"broken.mp4": "a.mp4", "nobody.mp4": "REAL"})
    for index, name in enumerate(entries):
        encode_video(part / name, at=(0.45 + 0.03 * index, 0.5))
    encode_video(part / "nobody.mp4", people=0)
    (part / "broken.mp4").write_bytes(b"not a video")
    config = Config.model_validate({"frames": {"per_video": 4}})
    probe_shard([part], 0, 1, config.limits, root / "probe.parquet")
    write_stream([part], root / "probe.parquet", config, 1, root / "frames.tar")
    crop_shard(
        root / "frames.tar",
        root / "probe.parquet",
        faces_config,
        root / "faces/part-00.tar",
        root / "faces/part-00.parquet",
        root / "cropped.parquet",
    )
    return root


# They take many minutes, or packages that few machines have; Slurm starts Snakemake for each job.
_ONLY_WHERE_ASKED = {"fuzz", "gridengine", "slurm"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what runs only where `-m` names it."""
    # Not `addopts = "-m 'not fuzz'"`, which any other -m on the command line would undo.
    left_out = {name for name in _ONLY_WHERE_ASKED if name not in config.option.markexpr}
    deselected = [one for one in items if left_out & {mark.name for mark in one.iter_markers()}]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [one for one in items if one not in deselected]
