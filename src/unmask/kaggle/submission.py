"""Prediction from a bundle: the code that runs on Kaggle.

It imports nothing that a Kaggle notebook lacks: no Snakemake, MLflow, Lightning or albumentations.
Crops, preprocessing, aggregation and calibration are the functions that training used.

Worker processes decode videos and find faces, within limits of time and memory; this process runs
the networks. A governor says how much a video may cost, so that all are answered in time.
"""

from __future__ import annotations

import argparse
import csv
import logging
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import torch

from unmask.config import FramesConfig
from unmask.errors import UnmaskError
from unmask.faces.crops import Crop
from unmask.files import atomic_path
from unmask.inference.predictor import (
    Bundle,
    Prepared,
    choose_device,
    load_bundle,
    load_members,
    predict_videos,
    prepare_video,
    read_bundle,
)
from unmask.kaggle.governor import Effort, Governor, efforts
from unmask.orphans import end_with_snakemake
from unmask.progress import configure_logging, track
from unmask.videos.isolation import Lost, Task, run_isolated
from unmask.videos.source import is_safe_name

logger = logging.getLogger(__name__)

SCRIPT = "predict.py"

# Crops that a GPU is given at a time, of several videos; a CPU gains nothing by waiting for more.
_CROPS_FOR_GPU = 256
# Rewriting the submission costs milliseconds; what is in it survives a killed notebook.
_WRITE_EVERY_S = 10.0
# A stop that a library lost is raised again after this time.
_ASK_AGAIN_S = 5.0
# No video may take more than this share of all the time that there is.
_LONGEST_SHARE = 0.01
_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


class _Stopped(BaseException):
    """Time is up, or the process was told to end; no video's `except Exception` may keep it."""


@dataclass
class _Stop:
    """The signal that asked to end, None before. Libraries can lose the exception it raises."""

    reason: str | None = None

    def check(self) -> None:
        """Raise what was lost."""
        if self.reason is not None:
            raise _Stopped(self.reason)


def fewer_frames(frames: FramesConfig, share: float) -> FramesConfig:
    """Return a sampling of a share of the frames."""
    if frames.rate is not None:
        return frames.model_copy(update={"rate": frames.rate * share})
    return frames.model_copy(update={"per_video": max(1, round(frames.per_video * share))})


def read_sample(path: Path) -> list[str]:
    """Return the file names of a sample submission, each once, in its order.

    Raises:
        UnmaskError: it cannot be read, or has no column `filename`.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UnmaskError(f"{path}: cannot be read ({error.strerror})") from None
    if not rows or "filename" not in rows[0]:
        raise UnmaskError(f"{path}: no rows with a column 'filename'; is it a sample submission?")
    names = [row["filename"] for row in rows]
    if len(set(names)) < len(names):
        logger.warning("%s: names some videos more than once; each is answered once", path)
    return list(dict.fromkeys(names))


def write_submission(answers: Mapping[str, float], path: Path) -> None:
    """Write `filename,label` rows; the file under `path` is complete at any moment."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["filename", "label"])
        writer.writerows((name, f"{answer:.6f}") for name, answer in answers.items())


class _Submission:
    """The answers so far, on disk as well; the file is complete and valid at any moment."""

    def __init__(self, names: Iterable[str], prior: float, clip: float, path: Path) -> None:
        self.answers = dict.fromkeys(names, prior)
        self.answered = 0
        self._clip, self._path = clip, path
        self.write()

    def write(self) -> None:
        write_submission(self.answers, self._path)
        self._written = time.monotonic()

    def answer(self, name: str, answer: float | None, reason: str) -> None:
        if answer is None:
            logger.warning("%s: %s; answered with the prior", name, reason)
        else:
            self.answered += 1
            self.answers[name] = min(max(answer, self._clip), 1 - self._clip)
        if time.monotonic() - self._written > _WRITE_EVERY_S:
            self.write()


def predict(
    folder: Path,
    videos: Path,
    sample: Path,
    output: Path,
    threads: int,
    deadline_s: float | None = None,
) -> None:
    """Answer every video that a sample submission names.

    Args:
        folder: the bundle.
        videos: folder of the test videos.
        sample: `sample_submission.csv`.
        output: `submission.csv`; complete from the first seconds, with the prior for what is not
            answered yet, whatever ends the process.
        threads: CPU threads.
        deadline_s: seconds from now in which to be done: later videos are answered with fewer
            frames and members, the last with the prior. None is without end.

    Raises:
        UnmaskError: the bundle is damaged, or the sample cannot be read.
        SystemExit: the process was told to end (SIGTERM); the answers so far are written.
    """
    started = time.monotonic()
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    manifest, config = read_bundle(folder)
    submission = _Submission(read_sample(sample), config.kaggle.prior, config.kaggle.clip, output)
    end = None if deadline_s is None else started + deadline_s
    stop = _Stop()
    try:
        with _stopped_at(end, stop):
            bundle = load_members(folder, manifest, config, choose_device())
            _answer_all(folder, bundle, videos, submission, threads, end, deadline_s, stop)
    except _Stopped:
        pass
    except Exception:  # which a library may have made of it
        if stop.reason is None:
            raise
    finally:
        submission.write()
    count = len(submission.answers)
    seconds = (time.monotonic() - started) / count
    logger.info(
        "%d videos, %d by the prior, %.2f s a video: 4,000 would take %.1f h",
        *(count, count - submission.answered, seconds, seconds * 4000 / 3600),
    )
    if stop.reason is not None:
        logger.warning("%s: ended by %s; videos not reached have the prior", output, stop.reason)
    if stop.reason == signal.SIGTERM.name:
        raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def _stopped_at(end: float | None, stop: _Stop) -> Iterator[None]:
    """Raise `_Stopped` in here at a time of `time.monotonic`, and when told to terminate."""

    def handle(number: int, _: object) -> None:
        stop.reason = stop.reason or signal.Signals(number).name
        signal.setitimer(signal.ITIMER_REAL, _ASK_AGAIN_S)
        stop.check()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGALRM)}
    if end is not None:
        signal.setitimer(signal.ITIMER_REAL, max(end - time.monotonic(), 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _answer_all(
    folder: Path,
    bundle: Bundle,
    videos: Path,
    submission: _Submission,
    threads: int,
    end: float | None,
    deadline_s: float | None,
    stop: _Stop,
) -> None:
    config, on_gpu = bundle.config, bundle.device.type == "cuda"
    names = []
    for name in submission.answers:
        if not is_safe_name(name):
            submission.answer(name, None, "the name is not a plain file name")
        elif not (videos / name).is_file():
            submission.answer(name, None, "no such file")
        else:
            names.append(name)
    if unknown := {path.name for path in videos.glob("*.mp4")} - submission.answers.keys():
        logger.warning(
            "%d videos are not in the sample and not answered, the first is %s",
            *(len(unknown), min(unknown)),
        )
    per_video = config.frames.per_video if config.frames.rate is None else None
    workers = max(1, threads - 1)
    governor = Governor(len(names), efforts(per_video, len(bundle.members)), workers, end)
    chosen: dict[str, Effort] = {}

    def tasks() -> Iterator[Task[Prepared]]:
        for name in names:
            effort = governor.choose()
            if effort is None:
                return
            chosen[name] = effort
            frames = fewer_frames(config.frames, effort.share)
            yield Task(prepare_video, (videos, name, frames, config.faces))

    limits = config.limits
    if deadline_s is not None:
        longest = max(1.0, deadline_s * _LONGEST_SHARE)
        limits = limits.model_copy(update={"seconds": min(limits.seconds, longest)})
    results = run_isolated(tasks(), limits, workers)
    prepared = zip(names, track(results, "videos", len(names)), strict=False)
    for group in _grouped(prepared, _CROPS_FOR_GPU if on_gpu else 1):
        made = [_or_lost(one, limits.seconds) for _, one in group]
        began = time.perf_counter()
        # The cheapest effort of a group: it was chosen last, or time is shorter than it was.
        members = min(chosen[name].members for name, _ in group)
        try:
            bundle, answers = _answer_or_fall_back(
                folder, bundle, [one.crops for one in made], members
            )
        except Exception as error:  # one odd video must not cost the other answers
            stop.check()
            logger.exception("%s", ", ".join(name for name, _ in group))
            answers = [None] * len(group)
            made = [replace(one, reason=one.reason or type(error).__name__) for one in made]
        share = (time.perf_counter() - began) / len(group)
        for (name, _), one, answer in zip(group, made, answers, strict=True):
            governor.answered(replace(chosen[name], members=members), one.seconds, share)
            submission.answer(name, answer, one.reason)


def _grouped(
    prepared: Iterable[tuple[str, Prepared | Lost]], crops: int
) -> Iterator[list[tuple[str, Prepared | Lost]]]:
    """Yield videos together that have at least so many crops."""
    group, held = [], 0
    for name, one in prepared:
        group.append((name, one))
        held += len(one.crops) if isinstance(one, Prepared) else 0
        if held >= crops or crops == 1:
            yield group
            group, held = [], 0
    if group:
        yield group


def _or_lost(one: Prepared | Lost, seconds: float) -> Prepared:
    return one if isinstance(one, Prepared) else Prepared([], one.detail, seconds)


def _answer_or_fall_back(
    folder: Path, bundle: Bundle, videos: Sequence[Sequence[Crop]], members: int
) -> tuple[Bundle, list[float | None]]:
    """Answer some videos; from a GPU that fails on, the CPU answers them and all that follow."""
    try:
        return bundle, predict_videos(bundle, videos, members)
    except RuntimeError as error:
        if bundle.device.type == "cpu":
            raise
        logger.warning("the GPU failed (%s); the CPU goes on", str(error).splitlines()[0])
        bundle = load_bundle(folder, torch.device("cpu"))
        return bundle, predict_videos(bundle, videos, members)


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `8.5h`, `30m`, `90s` or `90`.

    Raises:
        argparse.ArgumentTypeError: it is none, or is not positive.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(h|min|m|s|)\s*", text)
    if found is None or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 8.5h, 30m or 90s")
    return float(found[1]) * _UNITS[found[2]]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog=SCRIPT, description="Answer a test set from a bundle.")
    parser.add_argument("--bundle", type=Path, required=True, help="the exported folder")
    parser.add_argument("--videos", type=Path, required=True, help="folder of the test videos")
    parser.add_argument("--sample", type=Path, required=True, help="sample_submission.csv")
    parser.add_argument("--out", type=Path, required=True, help="submission.csv to write")
    parser.add_argument(
        "--deadline", type=parse_duration, help="be done in this time, for example 8.5h"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--log", type=Path, help="log file; by default the log goes to stderr")
    options = parser.parse_args(arguments)
    configure_logging(options.log)
    try:
        end_with_snakemake()
        predict(
            options.bundle,
            options.videos,
            options.sample,
            options.out,
            options.threads,
            options.deadline,
        )
    except UnmaskError as error:
        logger.error("%s", error)
        print(f"{SCRIPT}: {error}", file=sys.stderr)
        return 2
    return 0
