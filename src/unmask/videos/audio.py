"""Audio: the sound track of each video, to detect swapped voices.

Off by default: in DFDC, few videos are FAKE by their sound alone, and many have none.
"""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer

from unmask.config import Config
from unmask.errors import UnmaskError, reason
from unmask.files import atomic_path
from unmask.progress import track
from unmask.tables import AUDIO, PROBE, read_rows, write_rows
from unmask.videos.container import open_container
from unmask.videos.isolation import Lost, Task, run_isolated
from unmask.videos.source import VideoFile, video_files
from unmask.vocabulary import Status

logger = logging.getLogger(__name__)

_MUXERS = {"wav": "wav", "aac": "adts"}


def extract_audio(
    parts: Sequence[Path], probe: Path, config: Config, shard: Path, index: Path
) -> None:
    """Write the sound tracks of one shard's videos.

    Args:
        parts: folders or archives with the videos.
        probe: the shard's probe table; only its videos with status `ok` are opened.
        config: the sections `audio` and `limits`.
        shard: the tar of sound files to write, one per video with sound.
        index: the table to write, see `unmask.tables.AUDIO`: one row per video.
    """
    readable = [row for row in read_rows(probe, PROBE) if row["status"] == Status.OK]
    kind = config.audio.extract
    tasks = [
        Task(encode_audio, (video, kind), name=video.name) for video in video_files(parts, readable)
    ]
    outcomes = track(run_isolated(tasks, config.limits, workers=1), "videos", len(tasks))
    rows: list[dict[str, Any]] = []
    with atomic_path(shard) as temporary, tarfile.open(temporary, "w") as tar:
        for row, outcome in zip(readable, outcomes, strict=True):
            names = {"part": row["part"], "video": row["video"]}
            if isinstance(outcome, Lost):
                outcome = b"", {"detail": f"{outcome.status}: {outcome.detail}"}
            sound, values = outcome
            if values["detail"]:
                logger.info("%s/%s: %s", row["part"], row["video"], values["detail"])
            else:
                member = tarfile.TarInfo(f"{row['part']}/{row['video']}.{kind}")
                member.size = len(sound)
                tar.addfile(member, io.BytesIO(sound))
                values["key"] = member.name
            rows.append(names | values)
    write_rows(rows, AUDIO, index)
    logger.info("sound of %d of %d videos", sum("key" in row for row in rows), len(rows))


def encode_audio(video: VideoFile, kind: str) -> tuple[bytes, dict[str, Any]]:
    """Return a video's sound track as a file, empty where there is none, and its metadata.

    `wav` is 16-bit PCM at the track's own rate. `aac` copies an AAC track and encodes any other.
    Where there is no sound, which is normal, `detail` says why.
    """
    sound = io.BytesIO()
    try:
        with video.opened() as source:
            if isinstance(source, Path):
                return b"", {"detail": "images have no sound"}
            with open_container(source) as container:
                if not container.streams.audio:
                    return b"", {"detail": "no audio stream"}
                stream = container.streams.audio[0]
                if stream.codec_context is None:
                    return b"", {"detail": "no decoder for its audio codec"}
                values = {
                    "detail": "",
                    "sample_rate": stream.codec_context.sample_rate,
                    "channels": stream.codec_context.channels,
                }
                with av.open(sound, "w", format=_MUXERS[kind]) as sink:
                    if kind == "aac" and stream.codec_context.name == "aac":
                        seconds = _copy(container, stream, sink)
                    else:
                        seconds = _encode(container, stream, sink, kind)
    except MemoryError:
        raise
    except (av.FFmpegError, UnmaskError) as error:
        return b"", {"detail": f"cannot be decoded: {reason(error)}"}
    if not seconds:
        return b"", {"detail": "the audio stream is empty"}
    return sound.getvalue(), values | {"duration": seconds}


def _copy(container: InputContainer, stream: AudioStream, sink: OutputContainer) -> float:
    """Copy the packets of a stream; return its duration in seconds."""
    target: AudioStream = sink.add_stream_from_template(stream)
    seconds = 0.0
    for packet in container.demux(stream):
        if packet.dts is not None and packet.size:
            seconds += float((packet.duration or 0) * (packet.time_base or 0))
            packet.stream = target
            sink.mux(packet)
    return seconds


def _encode(
    container: InputContainer, stream: AudioStream, sink: OutputContainer, kind: str
) -> float:
    """Decode a stream and encode it again; return its duration in seconds."""
    rate, layout = stream.codec_context.sample_rate, stream.codec_context.layout.name
    codec, sample_format = ("pcm_s16le", "s16") if kind == "wav" else ("aac", "fltp")
    target = sink.add_stream(codec, rate=rate, layout=layout)
    assert isinstance(target, AudioStream)
    resampler = AudioResampler(format=sample_format, layout=layout, rate=rate)
    samples = 0
    for frame in container.decode(stream):
        samples += frame.samples
        # Times start at zero; the start time of a late track is in the probe table.
        frame.pts = None
        for resampled in resampler.resample(frame):
            sink.mux(target.encode(resampled))
    for resampled in resampler.resample(None):
        sink.mux(target.encode(resampled))
    sink.mux(target.encode(None))
    return samples / rate if rate else 0.0
