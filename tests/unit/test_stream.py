"""The frame stream brings every sampled frame to the next process, or says that it is cut short."""

import logging
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from unmask.config import Config, FramesConfig, LimitsConfig
from unmask.errors import UnmaskError
from unmask.tables import PROBE, Status, write_rows
from unmask.videos.frames import Frame, sample_frames
from unmask.videos.probe import probe_shard
from unmask.videos.stream import read_stream, write_stream

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]

THREE = Config(frames=FramesConfig(per_video=3))


def probe(part: Path) -> None:
    probe_shard(part, 0, 1, LimitsConfig(), part.parent / "probe.parquet")


def stream_of(part: Path, config: Config = THREE, workers: int = 1) -> Path:
    stream = part.parent / "frames.tar"
    write_stream(part, part.parent / "probe.parquet", config, workers, stream)
    return stream


def sample(path: Path, count: int = 3) -> list[Frame]:
    return list(sample_frames(f"file:{path}", FramesConfig(per_video=count)))


@pytest.fixture
def part(make_video: MakeVideo, make_part: MakePart, tmp_path: Path) -> Path:
    folder = make_part(tmp_path / "part", {f"{name}.mp4": "REAL" for name in "abc"})
    make_video(folder / "a.mp4", (64, 48), 6)
    make_video(folder / "b.mp4", (64, 48), 6, pix_fmt="yuv444p", full_range=True)
    make_video(folder / "c.mp4", (48, 64), 6, rotation=90, colorspace=1)
    probe(folder)
    return folder


def test_a_stream_carries_each_frame_as_it_was_sampled(part: Path) -> None:
    carried = {video.video: (video, frames) for video, frames in read_stream(stream_of(part))}
    assert list(carried) == ["a.mp4", "b.mp4", "c.mp4"]
    for name, (video, frames) in carried.items():
        sampled = sample(part / name, 3)
        assert (video.status, video.detail) == (Status.OK, "")
        for one, other in zip(frames, sampled, strict=True):
            for plane, original in zip(one.planes, other.planes, strict=True):
                np.testing.assert_array_equal(plane, original)
            assert replace(one, planes=()) == replace(other, planes=())


def test_a_stream_is_a_tar_of_raw_planes(part: Path) -> None:
    with tarfile.open(stream_of(part)) as tar:
        sizes = {member.name: member.size for member in tar}
    assert sizes["a.mp4/0000.yuv420p"] == 64 * 48 * 3 // 2
    assert sizes["b.mp4/0002.yuv444p"] == 64 * 48 * 3


def test_a_broken_video_does_not_stop_the_others(
    part: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (part / "b.mp4").write_bytes(b"overwritten after the probe")
    with caplog.at_level(logging.WARNING):
        outcomes, frames = zip(*read_stream(stream_of(part)), strict=True)
    assert [video.status for video in outcomes] == [Status.OK, Status.DECODE_ERROR, Status.OK]
    assert [len(of_video) for of_video in frames] == [3, 0, 3]
    assert "decoding stopped after 0 frames" in outcomes[1].detail
    assert "'b.mp4': decode_error" in caplog.text


def test_a_video_of_which_no_frame_can_be_decoded_says_so(
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
    ((sampled, frames),) = read_stream(stream_of(folder))
    assert (sampled.status, frames) == (Status.DECODE_ERROR, [])
    assert "no frame can be decoded" in sampled.detail


def test_a_clip_cut_short_gives_what_can_be_decoded(
    make_video: MakeVideo, make_part: MakePart, tmp_path: Path
) -> None:
    folder = make_part(tmp_path / "part", {"a.mp4": "REAL"})
    clip = make_video(folder / "a.mp4", frames=48, b_frames=0, options={"movflags": "+faststart"})
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    probe(folder)
    ((video, frames),) = read_stream(stream_of(folder))
    assert video.status == Status.OK
    assert 1 < len(frames) <= 3
    assert frames[-1].time < 47 / 24


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_stream_that_ends_early_is_refused(share: float, part: Path) -> None:
    stream = stream_of(part)
    whole = stream.read_bytes()
    with tarfile.open(stream) as tar:
        end = tar.getmember("end.json").offset
    stream.write_bytes(whole[: int(share * end)])
    with pytest.raises(UnmaskError, match=r"frames\.tar: the frame stream .* log of extract"):
        list(read_stream(stream))


def test_a_stream_that_ends_between_two_videos_is_refused(part: Path) -> None:
    stream = stream_of(part)
    with tarfile.open(stream) as tar:
        stop = tar.getmember("b.mp4/end.json").offset
    stream.write_bytes(stream.read_bytes()[: stop + 1536])
    with pytest.raises(UnmaskError, match=r"the frame stream .* log of extract"):
        list(read_stream(stream))


def test_a_stream_of_noise_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(4096)
    (tmp_path / "frames.tar").write_bytes(noise)
    with pytest.raises(UnmaskError, match="the frame stream is damaged"):
        list(read_stream(tmp_path / "frames.tar"))


def test_a_shard_without_a_readable_video_makes_a_whole_stream(
    make_part: MakePart, tmp_path: Path
) -> None:
    folder = make_part(tmp_path / "part", {"absent.mp4": "REAL"})
    probe(folder)
    assert list(read_stream(stream_of(folder))) == []
