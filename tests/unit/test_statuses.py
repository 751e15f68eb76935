"""Every status occurs, each with its own fault, and no fault stops the other videos."""

import ctypes
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from clips import write_sound
from stages import crop_parts
from unmask.config import Config, FacesConfig, FramesConfig, LimitsConfig
from unmask.faces import cropping
from unmask.tables import CROPPED, VIDEOS, read_rows
from unmask.videos import extraction
from unmask.videos.ledger import write_ledger
from unmask.videos.sampling import Written
from unmask.videos.source import VideoFile
from unmask.vocabulary import Status

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]

CONFIG = Config(
    frames=FramesConfig(per_video=3),
    limits=LimitsConfig(seconds=1, memory_mb=200, retries=0),
    faces=FacesConfig(size=64),
)
LOST = ("crashed", "timeout", "too_large", "failed")
write_frames = extraction.write_frames


def write_frames_or_misbehave(buffer: Path, name: str, video: VideoFile, *sampling: Any) -> Written:
    if Path(video.name).stem in LOST:
        buffer.write_bytes(bytes(1000))  # as if something had been decoded
    if video.name == "crashed.mp4":
        ctypes.string_at(0)
    if video.name == "timeout.mp4":
        time.sleep(100)
    if video.name == "too_large.mp4":
        np.ones(400_000_000, np.uint8)
    if video.name == "failed.mp4":
        raise ZeroDivisionError
    return write_frames(buffer, name, video, *sampling)


def spoil(path: Path) -> None:
    """Put noise in the place of every packet."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                end = packet.pos + packet.size
                data[packet.pos : end] = np.random.default_rng(0).bytes(packet.size)
    path.write_bytes(data)


@pytest.fixture
def parts(make_video: MakeVideo, make_part: MakePart, tmp_path: Path) -> list[Path]:
    good = ["ok", "crashed", "timeout", "too_large", "failed", "decode_error", "duplicate"]
    names = [*good, "no_face", "unreadable", "no_video_stream", "missing"]
    entries: dict[str, Any] = {f"{name}.mp4": "REAL" for name in names}
    part = make_part(
        tmp_path / "part_0", entries | {"bad_metadata.mp4": {"label": "?"}, "../a.mp4": "REAL"}
    )
    for name in good:
        make_video(part / f"{name}.mp4", frames=12)
    make_video(part / "no_face.mp4", people=0)
    spoil(part / "decode_error.mp4")
    (part / "unreadable.mp4").write_text("404: not found")
    write_sound(part / "no_video_stream.mp4")
    again = make_part(tmp_path / "part_1", {"duplicate.mp4": "REAL"})
    (again / "duplicate.mp4").write_bytes((part / "duplicate.mp4").read_bytes())
    return [part, again]


def test_every_status_has_a_fault_that_leads_to_it(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = crop_parts(parts[:1], tmp_path / "undisturbed", CONFIG, workers=2)
    monkeypatch.setattr(extraction, "write_frames", write_frames_or_misbehave)
    for part in parts:
        cropped = crop_parts([part], tmp_path / "out" / part.name, CONFIG, workers=2)
        for name, row in cropped.items():
            if part is parts[0] and Path(name).stem not in LOST:
                assert row == undisturbed[name]
    write_ledger(
        sorted(tmp_path.glob("out/*/probe.parquet")),
        sorted(tmp_path.glob("out/*/cropped.parquet")),
        tmp_path / "videos.parquet",
        tmp_path / "ledger.json",
    )
    rows = read_rows(tmp_path / "videos.parquet", VIDEOS)
    statuses = {(row["part"], row["video"]): row["status"] for row in rows}
    assert statuses.pop(("part_1", "duplicate.mp4")) == Status.DUPLICATE
    assert statuses.pop(("part_0", "../a.mp4")) == Status.UNSAFE_NAME
    assert statuses.pop(("part_0", "duplicate.mp4")) == Status.OK
    assert statuses == {("part_0", f"{name}.mp4"): name for name in reached(statuses)}
    summary = json.loads((tmp_path / "ledger.json").read_text())
    assert set(summary["statuses"]) == set(Status)
    assert sum(summary["statuses"].values()) == summary["videos"] == len(rows)
    assert summary["usable"] == {"REAL": summary["statuses"]["ok"]}
    for row in rows:
        assert bool(row["detail"]) == (row["status"] != Status.OK), row["video"]


def reached(statuses: Mapping[tuple[str, str], str]) -> list[str]:
    return [Path(video).stem for _, video in statuses]


def divide_by_zero(*_: Any) -> None:
    raise ZeroDivisionError


def test_what_the_crop_stage_does_not_expect_fails_the_video_alone(
    worked_part: Path, faces_config: FacesConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cropping, "crop_video", divide_by_zero)
    outputs = [tmp_path / leaf for leaf in ("faces.tar", "faces.parquet", "cropped.parquet")]
    stream_and_probe = (worked_part / "frames.tar", worked_part / "probe.parquet")
    cropping.crop_shard(*stream_and_probe, faces_config, *outputs)
    rows = read_rows(outputs[2], CROPPED)
    assert {(row["status"], row["detail"]) for row in rows} == {("failed", "ZeroDivisionError")}


def test_the_readme_explains_every_status(repository: Path) -> None:
    table = (repository / "README.md").read_text().partition("| status | meaning |")[2]
    rows = table.partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)) == set(Status)
