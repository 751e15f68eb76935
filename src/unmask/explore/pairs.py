"""Originals next to their fakes, as small clips that a browser plays in step."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import av
import pandas as pd

from unmask.config import LimitsConfig
from unmask.report.examples import spread
from unmask.report.pages import write_page
from unmask.tables import VIDEOS, read_table
from unmask.videos.color import picture_bgr
from unmask.videos.isolation import Task, run_isolated
from unmask.videos.sampling import sample_frames
from unmask.videos.source import VideoFile, part_name
from unmask.vocabulary import Label, Status

logger = logging.getLogger(__name__)

_PAIRS = 4
_FRAMES_PER_SECOND = 12
_LONG_SIDE = 360
_SECONDS = 6.0


@dataclass(frozen=True)
class Pair:
    """File names of an original and of one of its fakes, and their clips as MP4."""

    original: str
    fake: str
    original_clip: bytes
    fake_clip: bytes


def explore_pairs(ledger: Path, parts: list[Path], limits: LimitsConfig, output: Path) -> None:
    """Write a page that plays some originals in step with one of their fakes.

    Args:
        ledger: `results/videos.parquet`.
        parts: folders or archives of the parts that pairs are taken from.
        limits: of each video's decoder; a pair is left out if one of its videos exceeds them.
        output: the page, with the clips in it.
    """
    folders = {part_name(part): part for part in parts}
    videos = read_table(ledger, VIDEOS)
    usable = videos[(videos["status"] == Status.OK) & videos["part"].isin(list(folders))]
    chosen = choose_pairs(usable, _PAIRS).to_dict("records")
    originals = [VideoFile(folders[row["part_original"]], row["video_original"]) for row in chosen]
    fakes = [VideoFile(folders[row["part"]], row["video"]) for row in chosen]
    tasks = [Task(_try_clip, (file,), name=file.name) for file in originals + fakes]
    clips = list(run_isolated(tasks, limits, workers=1))
    pairs = []
    for original, fake, first, second in zip(
        originals, fakes, clips[: len(chosen)], clips[len(chosen) :], strict=True
    ):
        if isinstance(first, bytes) and isinstance(second, bytes):
            pairs.append(Pair(original.name, fake.name, first, second))
        else:
            problems = [clip for clip in (first, second) if not isinstance(clip, bytes)]
            logger.warning("%s and %s left out: %s", original.name, fake.name, problems)
    seconds = f"{_SECONDS:g}"
    write_page(output, "pairs.html.j2", title="Originals and fakes", pairs=pairs, seconds=seconds)


def choose_pairs(usable: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return one fake each of some originals, as `part_original` and `video_original`."""
    originals = usable.loc[usable["label"] == Label.REAL, ["part", "video", "family"]]
    fakes = usable[usable["label"] == Label.FAKE]
    pairs = fakes.merge(originals, on="family", suffixes=("", "_original"))
    return spread(pairs.drop_duplicates("family"), count)


def _try_clip(file: VideoFile) -> bytes | str:
    """Return the clip of a video, or why there is none."""
    try:
        return make_clip(file)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def make_clip(file: VideoFile) -> bytes:
    """Return the first seconds of a video as a small silent MP4 that every browser plays.

    All clips have the same frame rate, so that an original and its fake stay in step.

    Raises:
        av.FFmpegError: the file cannot be decoded.
        UnmaskError: it has no frame.
    """
    memory = io.BytesIO()
    with file.opened() as source, av.open(memory, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_FRAMES_PER_SECOND)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "27", "preset": "fast", "x264-params": "threads=1"}
        start: float | None = None
        for frame in sample_frames(source, per_video=1, rate=_FRAMES_PER_SECOND):
            if start is None:
                start = frame.time
                scale = min(1.0, _LONG_SIDE / max(frame.width, frame.height))
                # H.264 in yuv420p needs even sides.
                stream.width = max(2, 2 * round(frame.width * scale / 2))
                stream.height = max(2, 2 * round(frame.height * scale / 2))
            if frame.time - start > _SECONDS:
                break
            picture = picture_bgr(frame, stream.width, stream.height)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    return memory.getvalue()
