"""Sampling: which frames of a video are taken, and how they are decoded.

A clip is decoded once, in order. Two kinds of frames are skipped: those that no other frame is
predicted from (`skip_frame=NONREF`), and those between the last sampled frame of a group of
pictures and the next key frame. So every decoded picture is bit-exact, at about half the CPU time
of a full decode. A decoder returns a frame only after it was fed one or two more. Where the last
sampled frame of a group is known beforehand, as in most H.264, the decoder is flushed instead.
Skipping all B-frames (`BIDIR`) would be faster but wrong: x264 predicts P-frames from the B-frames
of a pyramid, and the error grows through the clip (docs/benchmarks.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from unmask.errors import UnmaskError, reason
from unmask.videos.container import VideoSource, open_container, read_image
from unmask.videos.decoding import Decoder, Timeline, read_packets, restarted
from unmask.videos.frames import Frame, SampledVideo
from unmask.videos.images import image_files, image_times
from unmask.videos.isolation import with_attempts
from unmask.videos.picture import as_frame
from unmask.videos.source import VideoFile
from unmask.videos.stream import write_end, write_frame
from unmask.vocabulary import Status

# Most samples of a video at a rate; 1,000 frames at 720p take 1.4 GB.
_MAX_FRAMES = 1000


def plan_times(
    times: NDArray[np.float64], per_video: int, rate: float | None = None
) -> NDArray[np.float64]:
    """Return the times to sample, float64 (n,), evenly spaced over the whole clip.

    Args:
        times: presentation times of all frames in seconds, ascending, at least one. All of them
            are sampled in a clip that has no more frames than wanted.
        per_video: number of samples N. The clip is divided into N stretches and sampled at the
            start of each, so the samples span (N - 1) / N of the duration.
        rate: samples per second, used instead of `per_video`. A clip that would have more than
            1,000 samples has 1,000.
    """
    duration = times[-1] - times[0] + (np.median(np.diff(times)) if len(times) > 1 else 0.0)
    wanted = per_video
    if rate is not None:
        wanted = min(_MAX_FRAMES, max(1, math.ceil(duration * rate - 1e-6)))
    if len(times) <= wanted:
        return times
    if wanted == 1:
        return np.array([(times[0] + times[-1]) / 2])
    step = duration / wanted
    if rate is not None:
        step = max(step, 1 / rate)
    return np.asarray(times[0] + step * np.arange(wanted), np.float64)


class Written(NamedTuple):
    """What was written of one video: bytes, number of frames, and how its decoding went."""

    size: int
    frames: int
    status: Status
    detail: str


def write_frames(
    buffer: Path, name: str, video: VideoFile, per_video: int, rate: float | None
) -> Written:
    """Write the part of the frame stream that is about the video PART/NAME to an existing file.

    This runs in a worker process. `plan_times` describes `per_video` and `rate`.
    """
    frames: list[dict[str, Any]] = []
    with buffer.open("r+b", buffering=0) as sink:

        def write(frame: Frame) -> None:
            frames.append(write_frame(sink, name, frame))

        sampled = sample_video(video.opened(), per_video, rate, write)
        detail = with_attempts(sampled.detail)
        write_end(sink, name, sampled.status, detail, frames)
        return Written(sink.tell(), len(frames), sampled.status, detail)


def sample_video(
    video: AbstractContextManager[VideoSource],
    per_video: int,
    rate: float | None = None,
    take: Callable[[Frame], object] | None = None,
) -> SampledVideo:
    """Decode the sampled frames of a video; errors of the file become its status.

    Args:
        video: what `VideoFile.opened` returns.
        per_video: see `plan_times`, as for `rate`.
        rate: frames per second.
        take: called with each frame, which is then not kept.

    Raises:
        MemoryError: the limit of a worker was reached.
    """
    frames: list[Frame] = []
    problems: list[str] = []
    taken = 0
    try:
        with video as source:
            for frame in sample_frames(source, per_video, rate, problems):
                (take or frames.append)(frame)
                taken += 1
    except MemoryError:
        raise
    except (av.FFmpegError, UnmaskError) as error:
        problems.append(f"decoding stopped after {taken} frames: {reason(error)}")
    return SampledVideo(frames, Status.OK if taken else Status.DECODE_ERROR, "; ".join(problems))


def sample_frames(
    source: VideoSource,
    per_video: int,
    rate: float | None = None,
    problems: list[str] | None = None,
) -> Iterator[Frame]:
    """Decode a video once and yield the sampled frames, upright, in order of time.

    Args:
        source: what `VideoFile.opened` yields.
        per_video: see `plan_times`, as for `rate`.
        rate: frames per second.
        problems: receives a line if the clock jumps, or if the file is damaged but frames could be
            decoded.

    Raises:
        av.FFmpegError: the file cannot be opened or decoded.
        UnmaskError: the file holds no video stream or no frame.
    """
    if isinstance(source, Path):
        yield from _sample_images(source, per_video, rate, problems)
        return
    with open_container(source) as container:
        stream, timeline, packets = read_packets(container)
        wanted = plan_times(timeline.times, per_video, rate)
        if timeline.has_clock and (jump := _describe_jump(timeline, wanted)):
            timeline = timeline.counted()
            wanted = plan_times(timeline.times, per_video, rate)
            if problems is not None:
                problems.append(f"{jump}: sampled evenly over the pictures")
        index = -1
        # A stream in which no frame is predicted from another is decoded whole.
        for skipped in ("NONREF", "DEFAULT") if timeline.has_clock else ("DEFAULT",):
            with restarted(source, container, stream, packets) as (decoded_stream, every):
                shortcuts = _shortcuts(timeline, wanted) if skipped == "NONREF" else {}
                decoder = Decoder(every, decoded_stream, timeline, skipped, shortcuts)
                for index, (time, frame) in enumerate(_nearest(decoder, wanted)):
                    yield as_frame(index, time, frame, decoder.display)
            if index >= 0:
                if problems is not None and decoder.damaged:
                    problems.append(f"{decoder.damaged} packets or frames are damaged")
                return
    raise UnmaskError("no frame can be decoded")


def first_frames(source: VideoSource, seconds: float) -> Iterator[Frame]:
    """Decode the first seconds of a video and yield every frame of them, upright, in order.

    Raises:
        av.FFmpegError: the file cannot be opened or decoded.
        UnmaskError: the file holds no video stream or no frame.
    """
    index = -1
    if isinstance(source, Path):
        files = image_files(source)
        times = image_times(files)
        count = sum(time < times[0] + seconds for time in times)
        yield from _decode_images(files[:count], times[:count])
        return
    with open_container(source) as container:
        stream, timeline, packets = read_packets(container)
        with restarted(source, container, stream, packets) as (decoded_stream, every):
            decoder = Decoder(every, decoded_stream, timeline, "DEFAULT", {})
            for index, (time, frame) in enumerate(decoder.frames()):
                if time >= timeline.times[0] + seconds:
                    return
                yield as_frame(index, time, frame, decoder.display)
    if index < 0:
        raise UnmaskError("no frame can be decoded")


def _sample_images(
    folder: Path, per_video: int, rate: float | None, problems: list[str] | None
) -> Iterator[Frame]:
    """Decode the images of a folder that are nearest to the times to sample."""
    files = image_files(folder)
    times = np.array(image_times(files))
    wanted = plan_times(times, per_video, rate)
    nearest = np.unique(np.abs(times - wanted[:, None]).argmin(axis=1))
    yield from _decode_images(
        [files[number] for number in nearest], times[nearest].tolist(), problems
    )


def _decode_images(
    files: Sequence[Path], times: Sequence[float], problems: list[str] | None = None
) -> Iterator[Frame]:
    index, damaged = 0, []
    for file, time in zip(files, times, strict=True):
        try:
            decoded, display = read_image(file)
        except (av.FFmpegError, OSError):
            damaged.append(file.name)
            continue
        yield as_frame(index, time, decoded, display)
        index += 1
    if not index:
        raise UnmaskError("no image can be decoded")
    if damaged and problems is not None:
        problems.append(f"{len(damaged)} images cannot be decoded, such as {damaged[0]}")


def _describe_jump(timeline: Timeline, wanted: NDArray[np.float64]) -> str:
    """Return what keeps the clock from being sampled evenly; empty where nothing does.

    It does where it goes back, and where the times wanted are nearest to fewer pictures than the
    clip could give.
    """
    pictures = timeline.pictures
    ticks = np.array([math.nan if one.pts is None else one.pts for one in pictures])
    # Nothing that precedes a key picture in decoding order is shown after it.
    is_key = np.array([one.is_key for one in pictures])[1:]
    back = (np.fmax.accumulate(ticks)[:-1] - ticks[1:])[is_key]
    if (back > 0).any():
        return f"the clock goes back by {np.nanmax(back) * float(timeline.base):.4g} s"
    times, shown = timeline.times, sum(one.is_shown for one in pictures)
    if len(wanted) == len(times) < shown:
        return f"only {len(times)} of {shown} pictures have a time of their own"
    nearest = np.unique(np.searchsorted((times[1:] + times[:-1]) / 2, wanted))
    if len(nearest) == len(wanted):
        return ""
    steps = np.diff(times)
    longest = int(steps.argmax())
    return f"the clock jumps by {steps[longest]:.4g} s at {times[longest]:.4g} s"


def _shortcuts(timeline: Timeline, wanted: NDArray[np.float64]) -> dict[int, int]:
    """Return where the decoder can be flushed: picture number to the next number to decode.

    Numbers count in decoding order. Within a group of pictures, only the references nearest to the
    wanted times are needed, chosen as `_nearest` chooses. After the last of them, the decoder is
    flushed and continues with the next group that has a wanted time. A group without an entry is
    decoded whole: its references are unknown, or none follows its last wanted time.
    """
    ticks = [math.nan if one.pts is None else one.pts for one in timeline.pictures]
    # Computed as PyAV computes the times of frames, so that both are equal to the last bit.
    times = np.array(ticks) * timeline.base.numerator / timeline.base.denominator
    is_reference = np.array([one.is_reference for one in timeline.pictures])
    if not is_reference.any():
        return {}
    starts = [number for number, one in enumerate(timeline.pictures) if one.is_key]
    if not (np.diff(times[starts]) > 0).all():  # also where one has no time
        return {}
    shortcuts = {}
    following = len(times)
    for start, end in reversed([*pairwise([*starts, len(times)])]):
        until = times[end] if end < len(times) else math.inf
        own = wanted[(wanted >= times[start]) & (wanted < until)]
        if not len(own):
            continue
        references = start + np.flatnonzero(is_reference[start:end])
        references = references[np.argsort(times[references], kind="stable")]
        after = np.searchsorted(times[references], own)
        if np.nanmax(times[start:end]) < until and after[-1] < len(references):
            around = references[[np.maximum(after - 1, 0), after]]
            distances = np.abs(times[around] - own)
            # Both of two that are equally near.
            is_needed = distances < distances.min(axis=0) + float(timeline.base) / 2
            is_needed[:, own == wanted[-1]] = [[False], [True]]
            shortcuts[int(around[is_needed].max())] = following
        following = start
    return shortcuts


def _nearest(decoder: Decoder, wanted: NDArray[np.float64]) -> Iterator[tuple[float, VideoFrame]]:
    """Yield the nearest decoded frame to each wanted time, with its own time, and none twice.

    For the last wanted time, it is the first frame at or after it. So the samples always span the
    wanted part of the clip.
    """
    targets = iter(wanted)
    target = next(targets)
    previous: tuple[float, VideoFrame] | None = None
    previous_is_out = False
    for time, frame in decoder.frames():
        is_out = False
        while target <= time:
            nearer = previous is not None and target - previous[0] < time - target
            if previous is not None and nearer and target < wanted[-1]:
                if not previous_is_out:
                    yield previous
                previous_is_out = True
            else:
                if not is_out:
                    yield time, frame
                is_out = True
            target = next(targets, math.inf)
        if target == math.inf:
            return
        decoder.skip_to(target)
        previous, previous_is_out = (time, frame), is_out
    if previous is not None and not previous_is_out:
        yield previous
