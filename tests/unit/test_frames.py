"""Sampled frames are the right ones, bit-exact and upright."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unmask.config import FramesConfig
from unmask.errors import UnmaskError
from unmask.videos.color import picture_bgr
from unmask.videos.frames import Frame, plan_times, sample_frames

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]


def sample(path: Path, count: int) -> list[Frame]:
    return list(sample_frames(f"file:{path}", FramesConfig(per_video=count)))


def decode_all(path: Path) -> dict[float, av.VideoFrame]:
    with av.open(str(path)) as container:
        return {float(frame.time): frame for frame in container.decode(video=0)}


def duration_of(times: NDArray[np.float64]) -> float:
    """Return the seconds from the first frame to the end of the last."""
    return float(times[-1] - times[0] + (np.median(np.diff(times)) if len(times) > 1 else 0.0))


def packed(frame: Frame) -> NDArray[np.uint8]:
    """Return the planes one after another, as PyAV's own array has them."""
    return np.concatenate([plane.reshape(-1) for plane in frame.planes])


def planes_of(frame: av.VideoFrame) -> list[NDArray[np.uint8]]:
    """Return the planes of a picture of 8 bits, cut out of its rows."""
    chroma = 2 if frame.format.name == "yuv420p" else 1
    height, width = frame.height, frame.width
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:rows, :columns]
        for plane, rows, columns in zip(
            frame.planes,
            (height, height // chroma, height // chroma),
            (width, width // chroma, width // chroma),
            strict=True,
        )
    ]


def upright_bgr(frame: Frame) -> NDArray[np.uint8]:
    return picture_bgr(frame, frame.width, frame.height)


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
    plan = plan_times(times, FramesConfig(per_video=count))
    assert len(plan) == min(count, len(times))
    assert (np.diff(plan) > 0).all()
    assert plan[0] == times[0] or count == 1
    if len(times) <= count:
        assert plan.tolist() == times.tolist()
    elif count > 1:
        np.testing.assert_allclose(np.diff(plan), duration_of(times) / count, rtol=1e-6)


@given(
    gaps=st.lists(st.floats(0.001, 5), min_size=1, max_size=200),
    rate=st.floats(0.05, 240),
)
def test_a_plan_of_a_rate_is_as_dense_as_asked_for(gaps: list[float], rate: float) -> None:
    times = np.cumsum(gaps)
    plan = plan_times(times, FramesConfig(per_video=3, rate=rate))
    assert len(plan) <= 1000
    if len(plan) == len(times):
        assert plan.tolist() == times.tolist()
    elif len(plan) > 1:
        distance = np.diff(plan)
        np.testing.assert_allclose(distance, distance[0], rtol=1e-6)
        assert distance[0] == pytest.approx(max(1 / rate, duration_of(times) / 1000))
        # The next one would be beyond the end.
        assert plan[-1] + distance[0] >= times[0] + duration_of(times) - 1e-5


def test_a_rate_gives_frames_by_the_second_and_a_thousand_at_most() -> None:
    minute, hour = np.arange(60 * 30) / 30, np.arange(3600 * 5) / 5
    assert len(plan_times(minute, FramesConfig(rate=2))) == 120
    assert len(plan_times(minute, FramesConfig(rate=0.5))) == 30
    assert plan_times(minute, FramesConfig(rate=10))[:3].tolist() == pytest.approx([0, 0.1, 0.2])
    assert len(plan_times(hour, FramesConfig(rate=4))) == 1000
    assert len(plan_times(minute[:40], FramesConfig(rate=60))) == 40


def test_the_plan_of_one_frame_is_the_middle() -> None:
    assert plan_times(np.array([1.0, 2.0, 5.0]), FramesConfig(per_video=1)).tolist() == [3.0]


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
        np.testing.assert_array_equal(packed(frame), every[frame.time].to_ndarray().reshape(-1))


@pytest.mark.parametrize("b_frames", [0, 3])
def test_samples_are_spread_over_the_clip_and_none_comes_twice(
    b_frames: int, make_video: MakeVideo, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "a.mp4", frames=60, fps=30, b_frames=b_frames)
    frames = sample(clip, 8)
    times = [frame.time for frame in frames]
    assert [frame.index for frame in frames] == list(range(8))
    # Two frames of every four are references with a pyramid, so a sample is at most two off.
    np.testing.assert_allclose(times, np.arange(8) / 4, atol=2.01 / 30)
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
    np.testing.assert_allclose(times, np.arange(9) / 9 * 2.01, atol=0.051)


def test_a_picture_that_stands_still_for_long_comes_once(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    milliseconds = [40 * i for i in range(10)] + [3000 + 40 * i for i in range(10)]
    clip = make_video(tmp_path / "a.mp4", (64, 48), 20, milliseconds=milliseconds, b_frames=0)
    times = [frame.time for frame in sample(clip, 12)]
    assert times == sorted(set(times))
    assert {0.0, 0.36, 3.0} <= {round(time, 3) for time in times}
    assert times[-1] >= 11 / 12 * 3.4


def test_a_clip_that_starts_late_is_sampled_from_its_own_start(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    milliseconds = [5000 + 40 * i for i in range(20)]
    clip = make_video(tmp_path / "a.mkv", (64, 48), 20, milliseconds=milliseconds, b_frames=0)
    times = [frame.time for frame in sample(clip, 4)]
    assert times[0] == pytest.approx(min(decode_all(clip)))
    assert times[-1] - times[0] >= 3 / 4 * 20 * 0.04 - 1e-9


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
    times = [frame.time for frame in sample(cut, 31)]
    assert times[-1] == pytest.approx(30 / 24, abs=0.01)  # the B-frame of the pyramid
    assert times == sorted(set(times))


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
        assert difference(upright_bgr(frame), upright_bgr(upright)).mean() < 3  # encoded apart
        for plane, of_stored in zip(frame.planes, planes_of(stored[frame.time]), strict=True):
            np.testing.assert_array_equal(plane, np.rot90(of_stored, rotation // 90))


def test_a_file_without_pictures_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    with pytest.raises(UnmaskError, match=r"no video stream"):
        sample(tmp_path / "a.mp4", 2)
