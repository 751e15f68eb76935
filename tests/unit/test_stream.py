"""The frame stream transfers every sampled frame, or the reader notices that it is incomplete."""

import os
import subprocess
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from unmask.config import Config, FacesConfig, FramesConfig, LimitsConfig
from unmask.errors import UnmaskError
from unmask.faces import cropping
from unmask.faces.cropping import crop_shard
from unmask.faces.images import decode_jpeg
from unmask.faces.shards import ShardReader
from unmask.tables import FACES, PROBE, read_rows, write_rows
from unmask.videos.extraction import write_stream
from unmask.videos.frames import Frame, SampledVideo
from unmask.videos.probe import probe_shard
from unmask.videos.sampling import sample_frames
from unmask.videos.stream import read_stream
from unmask.vocabulary import Status

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]

THREE = Config(frames=FramesConfig(per_video=3))


def probe(part: Path) -> None:
    probe_shard([part], 0, 1, LimitsConfig(), part.parent / "probe.parquet")


def stream_of(part: Path, config: Config = THREE, workers: int = 1) -> Path:
    stream = part.parent / "frames.tar"
    write_stream([part], part.parent / "probe.parquet", config, workers, stream)
    return stream


def sample(path: Path, count: int = 3) -> list[Frame]:
    return list(sample_frames(f"file:{path}", count))


@pytest.fixture
def part(make_video: MakeVideo, make_part: MakePart, tmp_path: Path) -> Path:
    folder = make_part(tmp_path / "part", {f"{name}.mp4": "REAL" for name in "abc"})
    make_video(folder / "a.mp4", (64, 48), 6)
    make_video(folder / "b.mp4", (64, 48), 6, pix_fmt="yuv444p", full_range=True)
    make_video(folder / "c.mp4", (48, 64), 6, rotation=90, colorspace=1)
    probe(folder)
    return folder


def test_a_stream_carries_each_frame_as_it_was_sampled(part: Path) -> None:
    names = []
    for _, name, video in read_stream(stream_of(part)):
        names.append(name)
        assert (video.status, video.detail) == (Status.OK, "")
        for one, other in zip(video.frames, sample(part / name), strict=True):
            for plane, original in zip(one.planes, other.planes, strict=True):
                np.testing.assert_array_equal(plane, original)
            assert replace(one, planes=()) == replace(other, planes=())
    assert names == ["a.mp4", "b.mp4", "c.mp4"]


def test_a_video_without_a_decodable_frame_has_a_status(
    make_video: MakeVideo, make_part: MakePart, tmp_path: Path
) -> None:
    folder = make_part(tmp_path / "part", {"a.mkv": "REAL"})
    whole = make_video(tmp_path / "whole.mp4", frames=24)
    with av.open(str(whole)) as source, av.open(str(folder / "a.mkv"), "w") as sink:
        video = source.streams.video[0]
        copy = sink.add_stream_from_template(video)
        alone = list(source.demux(video))[3]  # a B-frame without those that it is predicted from
        alone.stream = copy
        sink.mux(alone)
    rows = [dict.fromkeys(PROBE.columns) | {"part": "part", "video": "a.mkv", "status": Status.OK}]
    write_rows(rows, PROBE, tmp_path / "probe.parquet")
    ((_, _, sampled),) = read_stream(stream_of(folder))
    assert (sampled.status, sampled.frames) == (Status.DECODE_ERROR, [])
    assert "no frame can be decoded" in sampled.detail


def test_a_truncated_clip_gives_its_decodable_frames(
    make_video: MakeVideo, make_part: MakePart, tmp_path: Path
) -> None:
    folder = make_part(tmp_path / "part", {"a.mp4": "REAL"})
    clip = make_video(folder / "a.mp4", frames=48, b_frames=0, options={"movflags": "+faststart"})
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    probe(folder)
    ((_, _, video),) = read_stream(stream_of(folder))
    assert video.status == Status.OK
    assert 1 < len(video.frames) <= 3
    assert video.frames[-1].time < 47 / 24


def test_a_stream_of_noise_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(4096)
    (tmp_path / "frames.tar").write_bytes(noise)
    with pytest.raises(UnmaskError, match="the frame stream is damaged"):
        list(read_stream(tmp_path / "frames.tar"))


def test_a_shard_without_a_readable_video_is_a_complete_stream(
    make_part: MakePart, tmp_path: Path
) -> None:
    folder = make_part(tmp_path / "part", {"absent.mp4": "REAL"})
    probe(folder)
    assert list(read_stream(stream_of(folder))) == []


@pytest.mark.parametrize(
    "name", ["x" * 251 + ".mp4", "ü" * 125 + ".mp4", "a b/c".replace("/", ":")]
)
def test_long_and_odd_names_arrive_complete(
    name: str, make_video: MakeVideo, make_part: MakePart, tmp_path: Path
) -> None:
    folder = make_part(tmp_path / "part", {name: "REAL", "z.mp4": "REAL"})
    made = make_video(tmp_path / "z.mp4", frames=4)
    for link in (name, "z.mp4"):
        (folder / link).symlink_to(made)
    probe(folder)
    stream = stream_of(folder)
    assert {video for _, video, _ in read_stream(stream)} == {name, "z.mp4"}
    with tarfile.open(stream) as tar:
        assert f"part/{name}/0002.yuv420p" in tar.getnames()
    crops = [tmp_path / leaf for leaf in ("faces.tar", "faces.parquet", "cropped.parquet")]
    crop_shard(stream, tmp_path / "probe.parquet", FacesConfig(size=64), *crops)
    rows = read_rows(crops[1], FACES)
    assert {row["video"] for row in rows} == {name, "z.mp4"}
    reader = ShardReader(tmp_path)
    for row in rows:
        decode_jpeg(reader.read(row["shard"], row["offset"], row["size"]), row["key"])


def test_an_original_comes_before_its_fakes_and_families_together(
    make_video: MakeVideo, make_part: MakePart, tmp_path: Path
) -> None:
    entries = {"m.mp4": "REAL", "a.mp4": "m.mp4", "z.mp4": "m.mp4", "b.mp4": "REAL"}
    folder = make_part(tmp_path / "part", entries | {"c.mp4": "b.mp4", "k.mp4": "absent.mp4"})
    for name in [*entries, "c.mp4", "k.mp4"]:
        make_video(folder / name, (48, 32), 3)
    probe(folder)
    order = [video for _, video, _ in read_stream(stream_of(folder, workers=3))]
    assert order == ["k.mp4", "b.mp4", "c.mp4", "m.mp4", "a.mp4", "z.mp4"]


def test_the_stream_does_not_depend_on_the_number_of_workers(part: Path) -> None:
    one = stream_of(part).read_bytes()
    assert stream_of(part, workers=2).read_bytes() == one
    assert stream_of(part, workers=5).read_bytes() == one


def test_a_stream_cut_anywhere_is_refused(part: Path) -> None:
    stream = stream_of(part)
    whole = stream.read_bytes()
    with tarfile.open(stream) as tar:
        members = tar.getmembers()
    last = members[-1]
    assert last.name == "end.json"
    cuts = {0, 1, last.offset_data + last.size - 1, *range(100, last.offset_data, 3001)}
    for member in members:
        cuts |= {member.offset, member.offset + 511, member.offset_data, member.offset_data + 1}
    for cut in sorted(cuts):
        stream.write_bytes(whole[:cut])
        with pytest.raises(UnmaskError, match=r"frames\.tar: the frame stream"):
            list(read_stream(stream))
    stream.write_bytes(whole[: last.offset_data + last.size])
    assert len(list(read_stream(stream))) == 3


def test_a_stream_that_lacks_a_video_is_refused(part: Path) -> None:
    stream = stream_of(part)
    whole = stream.read_bytes()
    with tarfile.open(stream) as tar:
        first, after = (tar.getmember(f"part/{name}/0000.{fmt}").offset for name, fmt in BETWEEN)
    stream.write_bytes(whole[:first] + whole[after:])
    with pytest.raises(UnmaskError, match=r"frames\.tar: the frame stream ended early"):
        list(read_stream(stream))


BETWEEN = [("b.mp4", "yuv444p"), ("c.mp4", "yuv420p")]


def test_reading_takes_the_memory_of_one_video(
    make_video: MakeVideo, make_part: MakePart, tmp_path: Path
) -> None:
    folder = make_part(tmp_path / "part", {f"{name}.mp4": "REAL" for name in "abc"})
    for name in "abc":
        make_video(folder / f"{name}.mp4", (640, 480), 12)
    probe(folder)
    stream, one_video = stream_of(folder), 3 * 640 * 480 * 1.5
    tracemalloc.start()
    try:
        for _, _, video in read_stream(stream):
            assert len(video.frames) == 3
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert one_video < peak < 1.5 * one_video


def crop(stream: Path, name: str) -> tuple[bytes, bytes, bytes]:
    outputs = [stream.parent / f"{name}.{leaf}" for leaf in ("tar", "faces", "cropped")]
    crop_shard(stream, stream.parent / "probe.parquet", FacesConfig(size=64, min_size=8), *outputs)
    shard, index, videos = outputs
    keys = [
        {key: value for key, value in row.items() if key != "shard"}
        for row in read_rows(index, FACES)
    ]
    return shard.read_bytes(), repr(keys).encode(), videos.read_bytes()


def test_the_crop_stage_uses_no_frame_after_requesting_the_next_video(
    part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffers of a read video are reused for the next one."""
    stream = stream_of(part)
    expected = crop(stream, "expected")

    def spoil(path: Path) -> Iterator[tuple[str, str, SampledVideo]]:
        for part, name, video in read_stream(path):
            yield part, name, video
            for frame in video.frames:
                for plane in frame.planes:
                    plane[:] = 255 - plane

    monkeypatch.setattr(cropping, "read_stream", spoil)
    assert crop(stream, "spoiled") == expected


def test_a_slow_reader_of_a_pipe_gets_the_same_bytes_as_a_file(
    make_video: MakeVideo, make_part: MakePart, tmp_path: Path
) -> None:
    """Buffers are filled again while the pipe still holds the end of what was in them."""
    names = [f"{name}.mp4" for name in "abcdef"]
    folder = make_part(tmp_path / "part", dict.fromkeys(names, "REAL"))
    for seed, name in enumerate(names):
        make_video(folder / name, (320 + 16 * seed, 240), 6)
    probe(folder)
    fifo = tmp_path / "pipe.tar"
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_stream, [folder], tmp_path / "probe.parquet", THREE, 2, fifo)
        with fifo.open("rb", buffering=0) as source:
            piped = bytearray()
            while data := source.read(5000):
                piped += data
                time.sleep(0.0005)
        writing.result()
    assert piped == stream_of(folder).read_bytes()


def test_a_reader_that_stops_is_one_line_of_the_log(part: Path, make_video: MakeVideo) -> None:
    make_video(part / "a.mp4", (640, 480), 6)  # more than the pipe holds
    fifo = part.parent / "pipe.tar"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "unmask", "videos.extraction:write_stream", "--parts", part]
    command += ["--probe", part.parent / "probe.parquet", "--output", fifo, "--workers", "2"]
    with subprocess.Popen(["head", "-c", "600", fifo], stdout=subprocess.DEVNULL):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.endswith("pipe.tar: its reader stopped; see the log of crop_faces\n")
    assert "Traceback" not in done.stderr
