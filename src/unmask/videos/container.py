"""Containers: how a video file is opened, and what it says about itself, under ffprobe's names.

Runs in worker processes, which start faster without the configuration and numpy.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from unmask.errors import UnmaskError, reason
from unmask.videos.source import METADATA, Entry, VideoFile
from unmask.vocabulary import Status

# What `VideoFile.opened` yields: a URL for `av.open`, or the bytes of the file.
VideoSource = str | BinaryIO
# FFmpeg's names of video containers. Single pictures are left out. So are playlists, because they
# refer to other files and addresses.
_CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,ivf,h264,hevc,m4v,mpegvideo,obu,av1,gif,mxf,dv,nut,"
    "webm_dash_manifest,yuv4mpegpipe,rm,wtv,3gp"
)


def open_container(source: VideoSource) -> InputContainer:
    """Open a video file, but nothing that it refers to.

    Tags need not be UTF-8: a title in Latin-1 does not make a video unreadable.

    Raises:
        av.FFmpegError: no demuxer accepts it.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    return av.open(source, "r", metadata_errors="replace", options=options)


def video_stream(container: InputContainer) -> VideoStream | None:
    """Return the first video stream that is not a cover picture, set to decode in one thread."""
    for stream in container.streams.video:
        if not stream.disposition & stream.disposition.attached_pic:
            if stream.codec_context is not None:  # FFmpeg may have no decoder for it
                stream.codec_context.thread_count = 1
            return stream
    return None


def probe_entry(part: Path, entry: Entry) -> dict[str, Any]:
    """Return status, detail and metadata of one entry's file. This runs in a worker process."""
    values: dict[str, Any] = {"status": entry.status, "detail": entry.detail}
    if entry.status != Status.OK:
        return values
    video = VideoFile(part, entry.name)
    size = video.size()
    if size is None:
        return {
            "status": Status.MISSING,
            "detail": f"no regular file of this name in the part ({METADATA})",
        }
    values["file_size"] = size
    try:
        values["fingerprint"] = video.fingerprint()
        with video.opened() as source, open_container(source) as container:
            return values | _container_values(container)
    except MemoryError:
        raise
    except (av.FFmpegError, UnmaskError, OSError) as error:
        return values | {"status": Status.UNREADABLE, "detail": reason(error)}


def _container_values(container: InputContainer) -> dict[str, Any]:
    values: dict[str, Any] = {"format": container.format.name}
    # A stream whose codec FFmpeg does not know has no context.
    if container.streams.audio and container.streams.audio[0].codec_context is not None:
        values |= _audio_values(container.streams.audio[0])
    stream = video_stream(container)
    if stream is None:
        detail = "the file holds no video stream"
        return values | {"status": Status.NO_VIDEO_STREAM, "detail": detail}
    if stream.codec_context is None:
        return values | {"status": Status.DECODE_ERROR, "detail": "no decoder for its video codec"}
    values |= {
        "video_codec_name": stream.codec_context.codec.canonical_name,
        "video_height": stream.codec_context.height,
        "video_width": stream.codec_context.width,
        "video_nb_frames": stream.frames or None,
        "video_bit_rate": stream.bit_rate,
        "video_duration": _seconds(stream.duration, stream),
        "video_start_time": _seconds(stream.start_time, stream),
        "video_fps": float(stream.average_rate) if stream.average_rate else None,
        "video_pix_fmt": stream.codec_context.pix_fmt,
        "video_keyframes": sum(entry.is_keyframe for entry in stream.index_entries),
        "video_has_b_frames": stream.codec_context.has_b_frames,
    }
    try:
        rotation = _first_rotation(container, stream)
    except MemoryError:
        raise
    except av.FFmpegError as error:
        return values | {"status": Status.DECODE_ERROR, "detail": reason(error)}
    if rotation is None:
        detail = "no frame in the video stream can be decoded"
        return values | {"status": Status.DECODE_ERROR, "detail": detail}
    return values | {"video_rotation": rotation}


def _first_rotation(container: InputContainer, stream: VideoStream) -> int | None:
    """Return the rotation of the first frame that can be decoded; None where none can."""
    damage: av.FFmpegError | None = None
    packets = container.demux(stream)
    first = next(packets)
    # Flushed at once, because a decoder that reorders frames would need three more packets.
    with suppress(av.error.InvalidDataError):
        frames = first.decode() or (stream.codec_context.decode(None) if first.size else [])
        if frames:
            return frames[0].rotation % 360
    stream.codec_context.flush_buffers()
    # The first picture may be damaged, or cut off by an edit list. Later ones may be intact.
    for packet in chain([first], packets):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError as error:
            damage = error
            frames = []
        if frames:
            return frames[0].rotation % 360
    if damage is not None:
        raise damage
    return None


def _audio_values(stream: av.audio.stream.AudioStream) -> dict[str, Any]:
    return {
        "audio_codec_name": stream.codec_context.codec.canonical_name,
        "audio_channels": stream.codec_context.channels,
        "audio_sample_rate": stream.codec_context.sample_rate,
        "audio_nb_frames": stream.frames or None,
        "audio_bit_rate": stream.bit_rate,
        "audio_duration": _seconds(stream.duration, stream),
        "audio_start_time": _seconds(stream.start_time, stream),
    }


def _seconds(ticks: int | None, stream: av.stream.Stream) -> float | None:
    return None if ticks is None or stream.time_base is None else float(ticks * stream.time_base)
