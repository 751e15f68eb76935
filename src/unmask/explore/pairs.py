"""Originals beside their fakes, as small clips that a browser plays in step."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import av
import pandas as pd

from unmask.config import FramesConfig, LimitsConfig
from unmask.explore.data import evenly
from unmask.report.pages import write_page
from unmask.tables import VIDEOS, read_table
from unmask.videos.color import picture_bgr
from unmask.videos.frames import sample_frames
from unmask.videos.isolation import Lost, Task, run_isolated
from unmask.videos.source import VideoFile, part_name
from unmask.vocabulary import Label, Status

T = TypeVar("T")

logger = logging.getLogger(__name__)

_PAIRS = 4
_RATE = 12
_LONG_SIDE = 360
_SECONDS = 6.0


@dataclass(frozen=True)
class Pair:
    """An original and one of its fakes, each with its clip as MP4."""

    original: str
    fake: str
    original_clip: bytes
    fake_clip: bytes


def small_clip(file: VideoFile) -> bytes:
    """Return the first seconds of a video as a small silent MP4 that every browser plays.

    Both of a pair are sampled at the same rate from their start, so that they stay in step.

    Raises:
        av.FFmpegError: the file cannot be decoded.
        UnmaskError: there is no frame in it.
    """
    memory = io.BytesIO()
    with file.opened() as source, av.open(memory, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_RATE)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "27", "preset": "fast", "x264-params": "threads=1"}
        started: float | None = None
        for frame in sample_frames(source, FramesConfig(rate=_RATE)):
            started = frame.time if started is None else started
            if frame.time - started > _SECONDS:
                break
            scale = min(1.0, _LONG_SIDE / max(frame.width, frame.height))
            width, height = (max(2, 2 * round(s * scale / 2)) for s in (frame.width, frame.height))
            if not stream.width or not stream.codec_context.is_open:
                stream.width, stream.height = width, height
            picture = picture_bgr(frame, stream.width, stream.height)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    return memory.getvalue()


def explore_pairs(ledger: Path, parts: list[Path], limits: LimitsConfig, output: Path) -> None:
    """Write a page that plays some originals beside one of their fakes, in step.

    Args:
        ledger: `results/videos.parquet`.
        parts: folders or archives of the parts that pairs are taken from.
        limits: of each video's decoder; one that breaks them is left out with its pair.
        output: the page; the videos are in it.
    """
    folders = {part_name(part): part for part in parts}
    videos = read_table(ledger, VIDEOS)
    usable = videos[(videos["status"] == Status.OK) & videos["part"].isin(list(folders))]
    chosen = choose_pairs(usable, _PAIRS)
    files = [
        VideoFile(folders[row[f"part{side}"]], row[f"video{side}"])
        for row in chosen.to_dict("records")
        for side in ("_original", "")
    ]
    clips = list(run_isolated([Task(_clip, (file,)) for file in files], limits, workers=1))
    pairs = []
    for (first, second), (original, fake) in zip(_twos(clips), _twos(files), strict=True):
        if isinstance(first, bytes) and isinstance(second, bytes):
            pairs.append(Pair(original.name, fake.name, first, second))
        else:
            lost = [one for one in (first, second) if isinstance(one, Lost | str)]
            logger.warning("%s and %s left out: %s", original.name, fake.name, lost)
    write_page(
        output, "pairs.html.j2", title="Originals and fakes", pairs=pairs, seconds=f"{_SECONDS:g}"
    )


def choose_pairs(usable: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return a fake of each of some families with its original, spread over the table."""
    originals = usable.loc[usable["label"] == Label.REAL, ["part", "video"]]
    fakes = usable[(usable["label"] == Label.FAKE) & usable["original"].notna()]
    pairs = fakes.merge(
        originals.drop_duplicates("video"),
        left_on="original",
        right_on="video",
        suffixes=("", "_original"),
    )
    return evenly(pairs.drop_duplicates("original"), count)


def _clip(file: VideoFile) -> bytes | str:
    try:
        return small_clip(file)
    except Exception as error:  # a page can do without a pair
        return f"{type(error).__name__}: {error}"


def _twos(items: list[T]) -> list[tuple[T, T]]:
    return list(zip(items[::2], items[1::2], strict=True))
