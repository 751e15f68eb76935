"""Sampled frames are the right ones, bit-exact, upright, in the right colours, and all arrive."""

import logging
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unmask.config import FramesConfig
from unmask.errors import UnmaskError
from unmask.tables import Status
from unmask.videos.frames import Frame, plan_times, read_stream, sample_frames, write_stream
from unmask.videos.probe import probe_shard

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]


def sample(path: Path, count: int) -> list[Frame]:
    return list(sample_frames(path, FramesConfig(per_video=count)))


def decode_all(path: Path) -> dict[float, av.VideoFrame]:
    with av.open(str(path)) as container:
        return {float(frame.time): frame for frame in container.decode(video=0)}


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.int16]:
    assert a.shape == b.shape
    return np.abs(np.subtract(a, b, dtype=np.int16))


@given(
    gaps=st.lists(st.floats(0.001, 5), min_size=1, max_size=200),
    start=st.floats(-1, 100),
    count=st.integers(1, 40),
)
def test_the_plan_is_even_over_the_whole_clip(gaps: list[float], start: float, count: int) -> None:
    times = start + np.cumsum(gaps)
    plan = plan_times(times, count)
    assert len(plan) == min(count, len(times))
    assert (np.diff(plan) > 0).all()
    assert times[0] <= plan[0] <= plan[-1] <= times[-1]
    if count > 1:
        assert plan[-1] - plan[0] >= (count - 1) / count * (times[-1] - times[0])


def test_the_plan_of_one_frame_is_the_middle() -> None:
    assert plan_times(np.array([1.0, 2.0, 5.0]), 1).tolist() == [3.0]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_sampled_frames_equal_a_full_decode_bit_by_bit(
    pix_fmt: str, make_video: MakeVideo, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "a.mp4", frames=60, pix_fmt=pix_fmt)
    frames, every = sample(clip, 20), decode_all(clip)
    assert {PictureType(frame.pict_type).name for frame in every.values()} == {"I", "P", "B"}
    assert len(frames) == 20
    for frame in frames:
        assert frame.pix_fmt == pix_fmt
        np.testing.assert_array_equal(frame.data, every[frame.time].to_ndarray())


@pytest.mark.parametrize("b_frames", [0, 3])
def test_samples_are_spread_over_the_clip_and_none_comes_twice(
    b_frames: int, make_video: MakeVideo, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "a.mp4", frames=60, fps=30, b_frames=b_frames)
    frames = sample(clip, 8)
    times = [frame.time for frame in frames]
    assert [frame.index for frame in frames] == list(range(8))
    # Two frames of every four are references with a pyramid, so a sample is at most two off.
    np.testing.assert_allclose(times, np.linspace(0, 59 / 30, 8), atol=2.01 / 30)
    assert len(set(times)) == 8
    assert times[-1] - times[0] >= 7 / 8 * 2


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_clip_shorter_than_the_plan_gives_each_of_its_frames_once(
    frames: int, make_video: MakeVideo, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "a.mp4", frames=frames, b_frames=0)
    assert [frame.time for frame in sample(clip, 32)] == list(decode_all(clip))


def test_a_plan_denser_than_the_decoded_frames_repeats_none(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "a.mp4", frames=33)
    times = [frame.time for frame in sample(clip, 32)]
    assert len(set(times)) == len(times)
    assert times == sorted(times)
    assert (times[0], times[-1]) == (0, 32 / 24)


def test_a_variable_rate_is_sampled_evenly_in_time(make_video: MakeVideo, tmp_path: Path) -> None:
    # Ten frames a second for a second, then a hundred.
    milliseconds = [100 * i for i in range(10)] + [1000 + 10 * i for i in range(101)]
    clip = make_video(
        tmp_path / "a.mp4", (64, 48), len(milliseconds), milliseconds=milliseconds, b_frames=0
    )
    times = [frame.time for frame in sample(clip, 9)]
    np.testing.assert_allclose(times, np.linspace(0, 2, 9), atol=0.051)


def test_a_picture_that_stands_still_for_long_comes_once(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    milliseconds = [40 * i for i in range(10)] + [3000 + 40 * i for i in range(10)]
    clip = make_video(tmp_path / "a.mp4", (64, 48), 20, milliseconds=milliseconds, b_frames=0)
    times = [frame.time for frame in sample(clip, 12)]
    assert times == sorted(set(times))
    assert {0.0, 0.36, 3.0, 3.36} <= {round(time, 3) for time in times}


def test_a_clip_that_starts_late_is_sampled_from_its_own_start(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    milliseconds = [5000 + 40 * i for i in range(20)]
    clip = make_video(tmp_path / "a.mkv", (64, 48), 20, milliseconds=milliseconds, b_frames=0)
    times = [frame.time for frame in sample(clip, 4)]
    assert times[0] == pytest.approx(min(decode_all(clip)))
    assert times[-1] - times[0] == pytest.approx(19 * 0.04)


def test_a_clip_that_ends_in_frames_not_decoded_is_sampled_to_the_last_that_is(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    whole = make_video(tmp_path / "whole.mp4", frames=33)
    cut = tmp_path / "cut.mkv"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as sink:
        stream = source.streams.video[0]
        copy = sink.add_stream_from_template(stream)
        for packet in source.demux(stream):
            # Without the last reference frame, the B-frames before it are the last ones.
            if packet.pts is not None and float(packet.pts * packet.time_base) < 32 / 24:
                packet.stream = copy
                sink.mux(packet)
    times = [frame.time for frame in sample(cut, 4)]
    assert times[-1] == pytest.approx(30 / 24, abs=0.01)  # the B-frame of the pyramid
    assert len(times) == 4


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_clip_stored_lying_is_sampled_upright(
    rotation: int, pix_fmt: str, make_video: MakeVideo, tmp_path: Path
) -> None:
    plain = make_video(tmp_path / "plain.mp4", (128, 96), 4, pix_fmt=pix_fmt)
    lying = make_video(tmp_path / "lying.mp4", (128, 96), 4, pix_fmt=pix_fmt, rotation=rotation)
    stored = decode_all(lying)
    for frame, upright in zip(sample(lying, 3), sample(plain, 3), strict=True):
        assert (frame.width, frame.height) == (128, 96)
        assert difference(frame.to_bgr(), upright.to_bgr()).mean() < 3  # encoded apart
        turned = np.rot90(stored[frame.time].to_ndarray(format="bgr24"), rotation // 90)
        assert difference(frame.to_bgr(), turned).max() <= 1


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("a.mp4", {}),
        ("a.mp4", {"pix_fmt": "yuv444p"}),
        ("a.mp4", {"pix_fmt": "yuv422p"}),
        ("a.mp4", {"pix_fmt": "yuv420p10le"}),
        ("a.mp4", {"pix_fmt": "yuv420p10le", "full_range": True}),
        ("a.mp4", {"pix_fmt": "yuv420p", "full_range": True}),
        ("a.mp4", {"pix_fmt": "yuv422p", "full_range": True}),
        ("a.mp4", {"pix_fmt": "yuv444p", "full_range": True}),
        ("a.mp4", {"pix_fmt": "gray"}),
        ("a.mp4", {"colorspace": 1}),
        ("a.mp4", {"colorspace": 1, "pix_fmt": "yuv422p"}),
        ("a.mp4", {"size": (161, 121), "pix_fmt": "yuv444p"}),
        ("a.mkv", {"size": (161, 121), "codec": "ffv1"}),
        ("a.mkv", {"codec": "ffv1", "pix_fmt": "bgr0"}),
        ("a.avi", {"size": (161, 121), "codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    ],
)
def test_colours_are_those_of_ffmpeg(
    name: str, encoding: dict[str, Any], make_video: MakeVideo, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / name, frames=5, people=0, **encoding)
    every = decode_all(clip)
    for frame in sample(clip, 2):
        # FFmpeg's direct way from 4:2:2 and 10 bits rounds down; a wrong matrix or range would
        # be off by more than 6 levels on these saturated colours.
        converted = every[frame.time].to_ndarray(format="bgr24")
        assert difference(frame.to_bgr(), converted).mean() < 2.5


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_a_region_equals_the_same_region_of_the_whole(
    pix_fmt: str, make_video: MakeVideo, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "a.mp4", (64, 48), 2, pix_fmt=pix_fmt)
    frame = sample(clip, 1)[0]
    whole = frame.to_bgr()
    for x0, y0, x1, y1 in [
        (0, 0, 64, 48),
        (11, 7, 54, 33),
        (10, 6, 21, 9),
        (63, 47, 64, 48),
        (0, 1, 1, 2),
    ]:
        np.testing.assert_array_equal(frame.region_to_bgr(x0, y0, x1, y1), whole[y0:y1, x0:x1])


def test_a_picture_is_scaled_to_the_size_asked_for(make_video: MakeVideo, tmp_path: Path) -> None:
    frame = sample(make_video(tmp_path / "a.mp4", frames=1), 1)[0]
    small = frame.to_bgr(80, 60)
    assert small.shape == (60, 80, 3)
    averaged = frame.to_bgr().reshape(60, 2, 80, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - averaged).mean() < 2


def test_a_file_without_pictures_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        block = av.AudioFrame(format="s16", layout="mono", samples=800)
        block.sample_rate = 8000
        container.mux(stream.encode(block))
    with pytest.raises(UnmaskError, match=r"a\.wav: no video stream"):
        sample(tmp_path / "a.wav", 2)


@pytest.fixture
def part(make_video: MakeVideo, make_part: MakePart, tmp_path: Path) -> Path:
    folder = make_part(tmp_path / "part", {f"{name}.mp4": "REAL" for name in "abc"})
    make_video(folder / "a.mp4", (64, 48), 6)
    make_video(folder / "b.mp4", (64, 48), 6, pix_fmt="yuv444p", full_range=True)
    make_video(folder / "c.mp4", (48, 64), 6, rotation=90, colorspace=1)
    probe_shard(folder, 0, 1, tmp_path / "probe.parquet")
    return folder


def stream_of(part: Path) -> Path:
    stream = part.parent / "frames.tar"
    write_stream(part, part.parent / "probe.parquet", FramesConfig(per_video=3), stream)
    return stream


def test_a_stream_carries_each_frame_as_it_was_sampled(part: Path) -> None:
    carried = {video.video: (video, frames) for video, frames in read_stream(stream_of(part))}
    assert list(carried) == ["a.mp4", "b.mp4", "c.mp4"]
    for name, (video, frames) in carried.items():
        sampled = sample(part / name, 3)
        assert (video.status, video.detail) == (Status.OK, "")
        for one, other in zip(frames, sampled, strict=True):
            np.testing.assert_array_equal(one.data, other.data)
            assert replace(one, data=b"") == replace(other, data=b"")  # type: ignore[arg-type]
            np.testing.assert_array_equal(one.to_bgr(), other.to_bgr())


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
    assert "b.mp4: decode_error" in caplog.text


def test_a_clip_cut_short_gives_what_can_be_decoded(
    make_video: MakeVideo, make_part: MakePart, tmp_path: Path
) -> None:
    folder = make_part(tmp_path / "part", {"a.mp4": "REAL"})
    clip = make_video(folder / "a.mp4", frames=48, b_frames=0, options={"movflags": "+faststart"})
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    probe_shard(folder, 0, 1, tmp_path / "probe.parquet")
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
    probe_shard(folder, 0, 1, tmp_path / "probe.parquet")
    assert list(read_stream(stream_of(folder))) == []
