"""Sampled frames are the right ones, bit-exact and upright."""

import gc
import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unmask.videos import sampling
from unmask.videos.color import picture_bgr
from unmask.videos.frames import Frame
from unmask.videos.sampling import plan_times, sample_frames

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]


def sample(path: Path, count: int) -> list[Frame]:
    return list(sample_frames(f"file:{path}", count))


def decode_all(path: Path) -> dict[float, av.VideoFrame]:
    """Decode every frame; interlaced ones pass through FFmpeg's `bwdif`."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    if any(frame.interlaced_frame for frame in frames):
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=frames[0].width,
            height=frames[0].height,
            format=frames[0].format,
            time_base=frames[0].time_base,
        )
        bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
        graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
        for frame in [*frames, None]:
            graph.push(frame)
        frames = [graph.vpull() for _ in frames]
    return {float(frame.time): frame for frame in frames}


def duration_of(times: NDArray[np.float64]) -> float:
    """Return the seconds from the first frame to the end of the last."""
    return float(times[-1] - times[0] + (np.median(np.diff(times)) if len(times) > 1 else 0.0))


def packed(frame: Frame) -> NDArray[np.uint8]:
    """Return the planes one after another, as PyAV's own array has them."""
    return np.concatenate([plane.reshape(-1) for plane in frame.planes])


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
def test_sampling_times_are_evenly_spaced(gaps: list[float], start: float, count: int) -> None:
    times = start + np.cumsum(gaps)
    plan = plan_times(times, count)
    assert len(plan) == min(count, len(times))
    assert (np.diff(plan) > 0).all()
    assert plan[0] == times[0] or count == 1
    if len(times) <= count:
        assert plan.tolist() == times.tolist()
    elif count > 1:
        np.testing.assert_allclose(np.diff(plan), duration_of(times) / count, rtol=1e-6)


def test_a_rate_samples_per_second_and_at_most_1000_frames() -> None:
    minute, hour = np.arange(60 * 30) / 30, np.arange(3600 * 5) / 5
    assert len(plan_times(minute, 32, 2)) == 120
    assert len(plan_times(minute, 32, 0.5)) == 30
    assert plan_times(minute, 32, 10)[:3].tolist() == pytest.approx([0, 0.1, 0.2])
    assert len(plan_times(hour, 32, 4)) == 1000
    assert len(plan_times(minute[:40], 32, 60)) == 40


def test_a_single_sample_is_taken_in_the_middle() -> None:
    assert plan_times(np.array([1.0, 2.0, 5.0]), 1).tolist() == [3.0]


def test_a_clip_of_variable_rate_is_sampled_evenly_in_time(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    # Ten frames a second for a second, then a hundred.
    milliseconds = [100 * i for i in range(10)] + [1000 + 10 * i for i in range(101)]
    clip = make_video(
        tmp_path / "a.mp4", (64, 48), len(milliseconds), milliseconds=milliseconds, b_frames=0
    )
    times = [frame.time for frame in sample(clip, 9)]
    np.testing.assert_allclose(times, np.arange(9) / 9 * 2.01, atol=0.051)


def test_a_clip_that_starts_late_is_sampled_from_its_start(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    milliseconds = [5000 + 40 * i for i in range(20)]
    clip = make_video(tmp_path / "a.mkv", (64, 48), 20, milliseconds=milliseconds, b_frames=0)
    times = [frame.time for frame in sample(clip, 4)]
    assert times[0] == pytest.approx(min(decode_all(clip)))
    assert times[-1] - times[0] >= 3 / 4 * 20 * 0.04 - 1e-9


def test_a_clip_is_sampled_up_to_its_last_decodable_frame(
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
def test_a_rotated_clip_is_sampled_upright(
    rotation: int, pix_fmt: str, make_video: MakeVideo, tmp_path: Path
) -> None:
    plain = make_video(tmp_path / "plain.mp4", (128, 96), 4, pix_fmt=pix_fmt)
    lying = make_video(tmp_path / "lying.mp4", (128, 96), 4, pix_fmt=pix_fmt, rotation=rotation)
    for frame, upright in zip(sample(lying, 3), sample(plain, 3), strict=True):
        assert (frame.width, frame.height) == (128, 96)
        assert difference(upright_bgr(frame), upright_bgr(upright)).mean() < 3  # encoded apart


@settings(max_examples=25)
@given(
    frames=st.integers(2, 70),
    count=st.integers(2, 40),
    b_frames=st.sampled_from([0, 1, 3]),
    keyint=st.integers(2, 60),
)
def test_samples_span_the_clip(
    tmp_path_factory: pytest.TempPathFactory,
    make_video: MakeVideo,
    frames: int,
    count: int,
    b_frames: int,
    keyint: int,
) -> None:
    clip = make_video(
        tmp_path_factory.mktemp("clip") / "a.mp4",
        (48, 32),
        frames,
        b_frames=b_frames,
        keyint=keyint,
        people=0,
    )
    times = [frame.time for frame in sample(clip, count)]
    assert len(times) <= min(frames, count)
    assert times == sorted(set(times))
    assert times[0] == 0
    if frames > count:
        assert times[-1] - times[0] >= (count - 1) / count * frames / 24 - 1e-9
    else:
        assert times[-1] == pytest.approx((frames - 1) / 24)


# The encoders of this build whose streams hold what a decoder could stumble over when frames are
# left out or a group of pictures is entered in its middle.
ENCODINGS: dict[str, dict[str, Any]] = {
    "closed": {"keyint": 6},
    "open": {"encoder": {"x264-params": "keyint=8:bframes=3:b-adapt=0:open-gop=1:threads=1"}},
    "open, deep pyramid": {
        "encoder": {"x264-params": "keyint=12:bframes=7:b-adapt=0:open-gop=1:scenecut=0:threads=1"}
    },
    "no pyramid": {
        "encoder": {"x264-params": "keyint=8:bframes=3:b-adapt=0:b-pyramid=none:threads=1"}
    },
    "many references": {"encoder": {"x264-params": "keyint=10:bframes=4:ref=8:threads=1"}},
    "intra refresh": {"encoder": {"x264-params": "keyint=10:intra-refresh=1:threads=1"}},
    "interlaced": {"encoder": {"x264-params": "keyint=8:bframes=3:tff=1:threads=1"}},
    "intra only": {"encoder": {"x264-params": "keyint=1:threads=1"}},
    "hevc, open": {
        "codec": "libx265",
        "encoder": {"x265-params": "keyint=8:min-keyint=8:bframes=3:open-gop=1:log-level=none"},
    },
    "hevc, closed": {
        "codec": "libx265",
        "encoder": {"x265-params": "keyint=8:min-keyint=8:bframes=3:open-gop=0:log-level=none"},
    },
    "vp9": {
        "codec": "libvpx-vp9",
        "encoder": {"g": "8", "deadline": "good", "cpu-used": "5", "auto-alt-ref": "1"},
    },
    "vp8": {"codec": "libvpx", "encoder": {"g": "8", "deadline": "good", "auto-alt-ref": "1"}},
    "mpeg4": {"codec": "mpeg4", "encoder": {"g": "8", "bf": "2"}},
    "mpeg2, open": {"codec": "mpeg2video", "encoder": {"g": "8", "bf": "2"}},
    "av1": {"codec": "libsvtav1", "encoder": {"g": "8", "preset": "12"}},
}


@pytest.mark.parametrize(
    ("encoding", "container"),
    [
        (encoding, container)
        for encoding in ENCODINGS
        for container in ("mkv", "mp4", "ts")
        # VP8, VP9 and AV1 live in Matroska.
        if container == "mkv" or encoding not in ("vp8", "vp9", "av1")
    ],
)
def test_skipping_frames_changes_no_bit(
    encoding: str, container: str, make_video: MakeVideo, tmp_path: Path
) -> None:
    values = ENCODINGS[encoding]
    clip = make_video(tmp_path / f"a.{container}", (96, 64), 60, **values)
    every = decode_all(clip)
    for count in (2, 3, 5, 9, 30):
        frames = sample(clip, count)
        times = [frame.time for frame in frames]
        assert times == sorted(set(times))
        if count < 10:
            assert len(frames) == count
            even = min(every) + np.arange(count) / count * 60 / 24
            np.testing.assert_allclose(times, even, atol=8.01 / 24)
        for frame in frames:
            np.testing.assert_array_equal(packed(frame), every[frame.time].to_ndarray().ravel())


@pytest.mark.parametrize(
    ("frames", "fps", "values"),
    [
        *((60, 24, values) for values in ENCODINGS.values() if "codec" not in values),
        (150, 25, {"keyint": 12}),  # whose times are no binary fractions
    ],
)
def test_flushing_the_decoder_early_gives_the_same_samples(
    frames: int,
    fps: int,
    values: dict[str, Any],
    make_video: MakeVideo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip = make_video(tmp_path / "a.mp4", (96, 64), frames, fps, **values)
    counts = (2, 5, 7, 11, 15, 16, 23, 59)
    early = [sample(clip, count) for count in counts]
    monkeypatch.setattr(sampling, "_shortcuts", lambda *_: {})
    for sampled, in_turn in zip(early, (sample(clip, count) for count in counts), strict=True):
        assert [frame.time for frame in sampled] == [frame.time for frame in in_turn]
        for one, other in zip(sampled, in_turn, strict=True):
            np.testing.assert_array_equal(packed(one), packed(other))


def test_only_the_visible_part_of_a_trimmed_clip_is_sampled(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    clip, trimmed = make_video(tmp_path / "a.mp4", (96, 64), 60, keyint=12), tmp_path / "b.mp4"
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(clip)) as source, av.open(str(trimmed), "w", options=options) as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.pts -= round(10 / 24 / packet.time_base)
                packet.dts -= round(10 / 24 / packet.time_base)
                packet.stream = stream
                sink.mux(packet)
    every = decode_all(trimmed)
    assert (min(every), len(every)) == (0, 50)
    frames = sample(trimmed, 5)
    np.testing.assert_allclose([frame.time * 24 for frame in frames], np.arange(5) * 10, atol=2.01)
    for frame in frames:
        np.testing.assert_array_equal(packed(frame), every[frame.time].to_ndarray().reshape(-1))


@pytest.mark.parametrize("b_frames", [0, 3])
def test_a_damaged_last_frame_is_the_only_one_lost(
    b_frames: int, make_video: MakeVideo, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "a.mp4", (96, 64), 13, b_frames=b_frames)
    whole = sample(clip, 13)
    with av.open(str(clip)) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][-1]
        lost = float(last.pts * last.time_base)
    spoilt = with_noise(clip, tmp_path / "b.mp4", lambda time: time == lost)
    problems: list[str] = []
    frames = list(sample_frames(f"file:{spoilt}", 13, None, problems))
    kept = [frame for frame in whole if frame.time != lost]
    assert [frame.time for frame in frames] == [frame.time for frame in kept]
    assert ("damaged" in "".join(problems)) == (len(kept) < len(whole))


def with_noise(clip: Path, copy: Path, spoil: Callable[[float], bool], kept: int = 0) -> Path:
    """Copy a clip; of packets at times that `spoil` tells, all but `kept` bytes become noise."""
    noise = np.random.default_rng(0)
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as source:
        for packet in source.demux(video=0):
            if packet.size and spoil(float(packet.pts * packet.time_base)):
                start, end = packet.pos + kept, packet.pos + packet.size
                data[start:end] = noise.bytes(end - start)
    copy.write_bytes(data)
    return copy


def test_groups_without_a_sample_are_not_decoded(make_video: MakeVideo, tmp_path: Path) -> None:
    # Groups of 10; samples at 0, 24, 48, 72 and 96 need the groups from 0, 20, 40, 70 and 90.
    clip = make_video(tmp_path / "a.mp4", (64, 48), 120, keyint=10, b_frames=0)
    needed = {0, *range(20, 25), *range(40, 49), *range(70, 73), *range(90, 97)}
    keys = set(range(0, 120, 10))  # by their bytes the demuxer knows them for key frames

    def spoil(time: float) -> bool:
        return round(time * 24) not in needed | keys

    spoilt = with_noise(clip, tmp_path / "b.mp4", spoil)
    with pytest.raises(av.FFmpegError):
        decode_all(spoilt)
    for one, other in zip(sample(spoilt, 5), sample(clip, 5), strict=True):
        assert one.time == pytest.approx(other.time)
        np.testing.assert_array_equal(packed(one), packed(other))


def test_a_group_is_decoded_up_to_its_last_sample(make_video: MakeVideo, tmp_path: Path) -> None:
    clip = make_video(tmp_path / "a.mp4", (64, 48), 120, keyint=20, b_frames=3)
    frames = sample(clip, 9)
    sampled = {round(frame.time * 24) for frame in frames}
    with av.open(str(clip)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    order = [round(float(packet.pts * packet.time_base) * 24) for packet in packets]
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    unread: set[int] = set()
    for start, end in pairwise([*keys, len(packets)]):
        last = max(number for number in range(start, end) if order[number] in sampled)
        unread.update(order[last + 1 : end])
    assert len(unread) > 20
    # The length of a unit and its header, which says whether others refer to it, stay.
    spoilt = with_noise(clip, tmp_path / "b.mp4", lambda time: round(time * 24) in unread, kept=5)
    problems: list[str] = []
    again = list(sample_frames(f"file:{spoilt}", 9, None, problems))
    assert problems == []
    for one, other in zip(again, frames, strict=True):
        assert one.time == other.time
        np.testing.assert_array_equal(packed(one), packed(other))


def test_only_references_are_sampled(make_video: MakeVideo, tmp_path: Path) -> None:
    clip = make_video(tmp_path / "a.mp4", (64, 48), 61, keyint=100)
    # Of a pyramid of three B-frames, the second alone is a reference.
    assert [round(frame.time * 24) for frame in sample(clip, 100)] == list(range(0, 61, 2))


@pytest.mark.parametrize("b_frames", [0, 3])
def test_a_stream_without_times_is_sampled_evenly(
    b_frames: int, make_video: MakeVideo, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "a.h264", (64, 48), 40, b_frames=b_frames, keyint=7)
    with av.open(str(clip)) as container:
        every = [frame.to_ndarray().reshape(-1) for frame in container.decode(video=0)]
    frames = sample(clip, 4)
    positions = [round(frame.time * 25) for frame in frames]
    np.testing.assert_allclose(positions, [0, 10, 20, 30], atol=1)
    for frame, position in zip(frames, positions, strict=True):
        np.testing.assert_array_equal(packed(frame), every[position])


@pytest.mark.parametrize(
    ("size", "expected"), [((4320, 2160), (4207, 2103)), ((2160, 4320), (2103, 4207))]
)
def test_an_enormous_picture_is_scaled_down(
    size: tuple[int, int], expected: tuple[int, int], make_video: MakeVideo, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "a.mkv", size, 2, people=0, codec="ffv1", encoder={})
    every = decode_all(clip)
    for frame in sample(clip, 2):
        assert (frame.width, frame.height) == expected
        assert frame.planes[0].shape == expected[::-1]
        scaled = every[frame.time].reformat(*expected, "bgr24", interpolation="AREA")
        assert difference(upright_bgr(frame), scaled.to_ndarray()).mean() < 4


@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile a.mp4\n", "#EXTM3U\n#EXTINF:2,\na.ts\n#EXT-X-ENDLIST\n"]
)
def test_a_playlist_in_an_archive_is_refused(text: str) -> None:
    with pytest.raises(av.FFmpegError):
        list(sample_frames(io.BytesIO(text.encode()), 2))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_single_picture_is_refused(name: str, make_video: MakeVideo, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / name), np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(av.FFmpegError):
        sample(tmp_path / name, 2)


def test_a_frame_stays_valid_while_more_are_decoded(make_video: MakeVideo, tmp_path: Path) -> None:
    clip = make_video(tmp_path / "a.mp4", (64, 48), 40, b_frames=0)
    kept = []
    for frame in sample_frames(f"file:{clip}", 40):
        kept.append((frame, packed(frame).copy()))
    gc.collect()
    for frame, copied in kept:
        np.testing.assert_array_equal(packed(frame), copied)
