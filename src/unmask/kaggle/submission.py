"""`predict.py` of a bundle: the submission for a folder of videos.

Worker processes decode videos and find faces, within limits of time and memory; this process runs
the networks. A governor decides how much to spend on each video, so that all finish before the
deadline. The submission on disk is always complete: a video has the prior until it is predicted.

Runs on a plain Kaggle image, see `unmask.inference.predictor`.
"""

from __future__ import annotations

import argparse
import csv
import logging
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import cv2
import torch

from unmask.config import FramesConfig, LimitsConfig
from unmask.errors import UnmaskError
from unmask.files import atomic_path
from unmask.inference.detector import DeepfakeDetector, batches
from unmask.inference.predictor import choose_device, read_bundle
from unmask.inference.prepare import Prepared, prepare_video, prepare_videos
from unmask.kaggle.governor import Governor, Setting, list_settings
from unmask.orphans import end_with_snakemake
from unmask.progress import configure_logging, track
from unmask.videos.isolation import Task
from unmask.videos.source import is_safe_name

logger = logging.getLogger(__name__)

SCRIPT = "predict.py"

_WRITE_EVERY_S = 10.0
_RAISE_AGAIN_S = 5.0
# No video may take more than this share of the whole time.
_LONGEST_SHARE = 0.01
_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def read_sample(path: Path) -> list[str]:
    """Return the file names of a sample submission, each once, in their order.

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
        logger.warning("%s: names some videos more than once; each is predicted once", path)
    return list(dict.fromkeys(names))


class Submission:
    """The probabilities of all videos, written to disk every ten seconds."""

    def __init__(self, names: Iterable[str], prior: float, clip: float, path: Path) -> None:
        """Write the prior for each video; probabilities are kept within [clip, 1 - clip]."""
        self.probabilities = dict.fromkeys(names, prior)
        self.predicted = 0
        self._clip, self._path = clip, path
        self.write()

    def write(self) -> None:
        """Write `filename,label` rows; the file is replaced atomically."""
        rows = [(name, f"{value:.6f}") for name, value in self.probabilities.items()]
        with atomic_path(self._path) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([("filename", "label"), *rows])
        self._written = time.monotonic()

    def set(self, name: str, probability: float | None, reason: str = "") -> None:
        """Set the probability of a video; None keeps the prior and logs the reason."""
        if probability is None:
            logger.warning("%s: %s; falls back to the prior", name, reason)
        else:
            self.predicted += 1
            self.probabilities[name] = min(max(probability, self._clip), 1 - self._clip)
        if time.monotonic() - self._written > _WRITE_EVERY_S:
            self.write()


class _Stopped(BaseException):
    """SIGTERM or the deadline; a BaseException, so that no `except Exception` swallows it."""


class _StopSignals:
    """Raises `_Stopped` inside a `with` block on SIGTERM and at a time of `time.monotonic`.

    A library may swallow the exception, so it is raised again every few seconds.
    """

    def __init__(self, deadline: float | None) -> None:
        self.received: str | None = None
        self._deadline = deadline

    def __enter__(self) -> Self:
        numbers = (signal.SIGTERM, signal.SIGALRM)
        self._previous = {number: signal.signal(number, self._handle) for number in numbers}
        if self._deadline is not None:
            signal.setitimer(signal.ITIMER_REAL, max(self._deadline - time.monotonic(), 1e-3))
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        self.received = self.received or signal.Signals(number).name
        signal.setitimer(signal.ITIMER_REAL, _RAISE_AGAIN_S)
        self.check()

    def check(self) -> None:
        """Raise `_Stopped` if a signal was received."""
        if self.received is not None:
            raise _Stopped(self.received)


def predict(
    folder: Path,
    videos: Path,
    sample: Path,
    output: Path,
    threads: int,
    deadline_s: float | None = None,
) -> None:
    """Predict every video that a sample submission names.

    Args:
        folder: the bundle.
        videos: folder of the test videos.
        sample: `sample_submission.csv`.
        output: `submission.csv`.
        threads: CPU threads.
        deadline_s: seconds from now in which to finish, with fewer frames and members for later
            videos where necessary; None for no deadline.

    Raises:
        UnmaskError: the bundle is damaged, the sample cannot be read, or none of its videos is
            in the folder.
        SystemExit: SIGTERM was received; the submission has been written.
    """
    started = time.monotonic()
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    manifest, config = read_bundle(folder)
    names = read_sample(sample)
    if not any(is_safe_name(name) and (videos / name).is_file() for name in names):
        raise UnmaskError(
            f"{videos}: has none of the {len(names)} videos that {sample} names, such as "
            f"{names[0]}; give their folder with --videos"
        )
    submission = Submission(names, config.kaggle.prior, config.kaggle.clip, output)
    deadline, limits = None, config.limits
    if deadline_s is not None:
        deadline = started + deadline_s
        longest = max(1.0, deadline_s * _LONGEST_SHARE)
        limits = limits.model_copy(update={"seconds": min(limits.seconds, longest)})
    signals = _StopSignals(deadline)
    try:
        with signals:
            detector = DeepfakeDetector(folder, manifest, config, choose_device(), threads)
            _predict_all(detector, videos, submission, limits, threads, deadline, signals)
    except _Stopped:
        pass
    except Exception:  # a library may have turned `_Stopped` into another exception
        if signals.received is None:
            raise
    finally:
        submission.write()
    count = len(submission.probabilities)
    seconds = (time.monotonic() - started) / count
    logger.info(
        "%d videos, %d of them with the prior, %.2f s per video: 4,000 would take %.1f h",
        *(count, count - submission.predicted, seconds, seconds * 4000 / 3600),
    )
    if signals.received is not None:
        logger.warning(
            "%s: ended by %s; videos not reached have the prior", output, signals.received
        )
    if signals.received == signal.SIGTERM.name:
        raise SystemExit(128 + signal.SIGTERM)


def _find_videos(videos: Path, submission: Submission) -> list[str]:
    """Return the names of a submission that are files; log the others, and files not in it."""
    names = []
    for name in submission.probabilities:
        if not is_safe_name(name):
            submission.set(name, None, "the name is not a plain file name")
        elif not (videos / name).is_file():
            submission.set(name, None, "no such file")
        else:
            names.append(name)
    if unknown := {path.name for path in videos.glob("*.mp4")} - submission.probabilities.keys():
        logger.warning(
            "%d videos are not in the sample, so they are not predicted; the first is %s",
            *(len(unknown), min(unknown)),
        )
    return names


def _predict_all(
    detector: DeepfakeDetector,
    videos: Path,
    submission: Submission,
    limits: LimitsConfig,
    threads: int,
    deadline: float | None,
    signals: _StopSignals,
) -> None:
    config = detector.bundle.config
    names = _find_videos(videos, submission)
    per_video = config.frames.per_video if config.frames.rate is None else None
    workers = max(1, threads - 1)
    governor = Governor(
        len(names), list_settings(per_video, len(detector.bundle.members)), workers, deadline
    )
    settings: dict[str, Setting] = {}

    def tasks() -> Iterator[Task[Prepared]]:
        for name in names:
            setting = governor.choose()
            if setting is None:
                return
            settings[name] = setting
            frames = fewer_frames(config.frames, setting.frames)
            yield Task(prepare_video, (videos, name, frames, config.faces))

    prepared = track(prepare_videos(tasks(), limits, workers), "videos", len(names))
    for batch in batches(zip(names, prepared, strict=False), detector.crops_per_batch):
        began = time.perf_counter()
        # The lowest number of a batch: settings of later videos are the more recent decisions.
        members = min(settings[name].members for name, _ in batch)
        failure = ""
        try:
            scores = detector.score([one.crops for _, one in batch], members)
        except Exception as error:  # one odd video must not cost the others their predictions
            signals.check()
            logger.exception("%s", ", ".join(name for name, _ in batch))
            scores, failure = [None] * len(batch), type(error).__name__
        network_s = (time.perf_counter() - began) / len(batch)
        for (name, one), scored in zip(batch, scores, strict=True):
            used = Setting(settings[name].frames, members)
            governor.record(used, one.seconds, network_s)
            probability = None if scored is None else scored.video
            submission.set(name, probability, one.reason or failure)


def fewer_frames(frames: FramesConfig, share: float) -> FramesConfig:
    """Return the configuration that samples a share of the frames."""
    if frames.rate is not None:
        return frames.model_copy(update={"rate": frames.rate * share})
    return frames.model_copy(update={"per_video": max(1, round(frames.per_video * share))})


def parse_duration(text: str) -> float:
    """Return the seconds of a positive duration such as `8.5h`, `30m`, `90s` or `90`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(h|min|m|s|)\s*", text)
    if found is None or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 8.5h, 30m or 90s")
    return float(found[1]) * _UNITS[found[2]]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog=SCRIPT, description="Predict a test set with a bundle.")
    parser.add_argument("--bundle", type=Path, required=True, help="the exported folder")
    parser.add_argument("--videos", type=Path, required=True, help="folder of the test videos")
    parser.add_argument("--sample", type=Path, required=True, help="sample_submission.csv")
    parser.add_argument("--out", type=Path, required=True, help="submission.csv to write")
    parser.add_argument("--deadline", type=parse_duration, help="finish in this time, e.g. 8.5h")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--log", type=Path, help="log file; by default the log goes to stderr")
    given = parser.parse_args(arguments)
    configure_logging(given.log)
    try:
        end_with_snakemake()
        predict(given.bundle, given.videos, given.sample, given.out, given.threads, given.deadline)
    except UnmaskError as error:
        logger.error("%s", error)
        print(f"{SCRIPT}: {error}", file=sys.stderr)
        return 2
    return 0
