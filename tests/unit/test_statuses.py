"""Every status there is comes to pass, each by its own kind of trouble, and the rest go on."""

import ctypes
import faulthandler
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from unmask.config import Config, FacesConfig, FramesConfig, LimitsConfig
from unmask.faces import cropping
from unmask.faces.search import Search
from unmask.tables import VIDEOS, read_rows
from unmask.videos import frames, probe, stream
from unmask.videos.ledger import write_ledger
from unmask.vocabulary import Status

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]

CONFIG = Config(
    frames=FramesConfig(per_video=3),
    limits=LimitsConfig(seconds=1, memory_mb=200),
    faces=FacesConfig(size=64),
)
ODD_FRAMES = 7


def misbehave(name: str) -> None:
    if name == "crashed.mp4":
        faulthandler.disable()
        ctypes.string_at(0)
    if name == "timeout.mp4":
        time.sleep(100)
    if name == "too_large.mp4":
        np.ones(400_000_000, np.uint8)


def spoil(path: Path) -> None:
    """Put noise in the place of every packet."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                end = packet.pos + packet.size
                data[packet.pos : end] = np.random.default_rng(0).bytes(packet.size)
    path.write_bytes(data)


def write_song(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode())


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
    write_song(part / "no_video_stream.mp4")
    again = make_part(tmp_path / "part_1", {"duplicate.mp4": "REAL"})
    (again / "duplicate.mp4").write_bytes((part / "duplicate.mp4").read_bytes())
    return [part, again]


def test_every_status_comes_to_pass(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(source: str, config: FramesConfig, problems: list[str]) -> Iterator[frames.Frame]:
        misbehave(Path(source).name)
        return frames.sample_frames(source, config, problems)

    found = cropping.find_faces

    def find(shot: list[frames.Frame], *rest: Any) -> Search:
        if spied and spied[-1] == "failed.mp4":
            raise ZeroDivisionError
        return found(shot, *rest)

    def read(path: Path) -> Iterator[tuple[stream.SampledVideo, list[frames.Frame]]]:
        for video, shot in stream.read_stream(path):
            spied.append(video.video)
            yield video, shot

    spied: list[str] = []
    monkeypatch.setattr(stream, "sample_frames", sample)
    monkeypatch.setattr(cropping, "find_faces", find)
    monkeypatch.setattr(cropping, "read_stream", read)
    for part in parts:
        table = tmp_path / f"{part.name}.probe"
        probe.probe_shard([part], 0, 1, CONFIG.limits, table)
        stream.write_stream([part], table, CONFIG, 2, tmp_path / "frames.tar")
        outputs = (tmp_path / f"{part.name}.{leaf}" for leaf in ("tar", "faces", "cropped"))
        cropping.crop_shard(tmp_path / "frames.tar", table, CONFIG.faces, *outputs)
    write_ledger(
        sorted(tmp_path.glob("*.probe")),
        sorted(tmp_path.glob("*.cropped")),
        tmp_path / "videos.parquet",
        tmp_path / "ledger.json",
    )
    rows = read_rows(tmp_path / "videos.parquet", VIDEOS)
    statuses = {(row["part"], row["video"]): row["status"] for row in rows}
    assert statuses.pop(("part_1", "duplicate.mp4")) == Status.DUPLICATE
    assert statuses.pop(("part_0", "../a.mp4")) == Status.UNSAFE_NAME
    assert statuses.pop(("part_0", "duplicate.mp4")) == Status.OK
    assert statuses == {("part_0", f"{name}.mp4"): name for name in reached(statuses)}
    everything: Mapping[str, int] = json.loads((tmp_path / "ledger.json").read_text())["statuses"]
    assert set(everything) == set(Status)
    for row in rows:
        assert bool(row["detail"]) == (row["status"] != Status.OK), row["video"]


def reached(statuses: Mapping[tuple[str, str], str]) -> list[str]:
    return [Path(video).stem for _, video in statuses]


def test_what_the_probe_does_not_know_has_failed_alone(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_container(source: str) -> Any:
        if source.endswith("/failed.mp4"):
            raise ZeroDivisionError
        return frames.open_container(source)

    monkeypatch.setattr(probe, "open_container", open_container)
    probe.probe_shard([parts[0]], 0, 1, CONFIG.limits, tmp_path / "x.probe")
    rows = {row["video"]: row for row in read_rows(tmp_path / "x.probe", probe.PROBE)}
    assert rows["failed.mp4"]["status"] == Status.FAILED
    assert "ZeroDivisionError" in rows["failed.mp4"]["detail"]
    assert rows["ok.mp4"]["status"] == Status.OK
