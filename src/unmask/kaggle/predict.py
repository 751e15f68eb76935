"""Prediction from a bundle: the code that runs on Kaggle.

It imports nothing that a Kaggle notebook lacks: no Snakemake, MLflow, Lightning or albumentations.
Crops, preprocessing, aggregation and calibration are the functions that training used.

Worker processes decode videos and find faces, within limits of time and memory; this process runs
the networks. A governor says how much a video may cost, so that all are answered in time.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import json
import logging
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import nn

from unmask.config import Config, FacesConfig, FramesConfig, load_settings
from unmask.errors import UnmaskError
from unmask.evaluation.aggregate import FaceLogits
from unmask.evaluation.readout import Readout
from unmask.faces.crops import Crop, crop_faces, decode_jpeg
from unmask.faces.detectors import Detector, create_detector
from unmask.faces.search import find_faces
from unmask.kaggle.governor import Effort, Governor, efforts
from unmask.orphans import end_with_snakemake
from unmask.progress import configure_logging, track
from unmask.tables import atomic_path
from unmask.training.backbones import ModelInput
from unmask.training.storage import load_model
from unmask.videos.frames import sample_frames
from unmask.videos.isolation import Lost, Task, run_isolated
from unmask.videos.source import VideoFile, is_safe_name

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CONFIG = "config.json"
SCRIPT = "predict.py"

_BATCH = 64
# Crops that a GPU is given at a time, of several videos; a CPU gains nothing by waiting for more.
_CROPS_FOR_GPU = 256
# Rewriting the submission costs milliseconds; what is in it survives a killed notebook.
_WRITE_EVERY_S = 10.0
# A stop that a library lost is raised again after this time.
_ASK_AGAIN_S = 5.0
# No video may take more than this share of all the time that there is.
_LONGEST_SHARE = 0.01
_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Member:
    """One model of the ensemble.

    Attributes:
        network: maps normalised crops (n, 3, size, size) to logits (n, 1).
        input: what it takes.
        prior_shift: moves its logits from the training prior to that of its data.
        readout: how they are read; fitted on the select role of its fold.
        weight: of its log-odds among all members'.
    """

    network: nn.Module
    input: ModelInput
    prior_shift: float
    readout: Readout
    weight: float


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle; the members are in order of their weights, the heaviest first."""

    config: Config
    members: list[Member]
    device: torch.device


@dataclass(frozen=True)
class Prepared:
    """What a worker made of a video.

    Attributes:
        crops: of the faces; none where there is a reason.
        reason: why there are none.
        seconds: that it took.
    """

    crops: list[Crop]
    reason: str
    seconds: float


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


def read_bundle(folder: Path) -> tuple[dict[str, Any], Config]:
    """Return the manifest and the configuration of a bundle after checking all of its files.

    Raises:
        UnmaskError: a file is absent or is not what was exported; the message names it.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, json.JSONDecodeError):
        raise UnmaskError(f"{folder}: no readable {MANIFEST}; export or upload it again") from None
    check_files(folder, manifest["files"])
    settings = json.loads((folder / CONFIG).read_text())
    if settings["faces"]["weights"] is not None:
        settings["faces"]["weights"] = str(folder / settings["faces"]["weights"])
    return manifest, load_settings(settings)


def load_bundle(folder: Path, device: torch.device | None = None) -> Bundle:
    """Load a bundle after checking every file against the manifest.

    Args:
        folder: the bundle.
        device: where the networks run; None takes a GPU if there is one that can be used.

    Raises:
        UnmaskError: a file is absent or is not what was exported; the message names it.
    """
    return _load_members(folder, *read_bundle(folder), device or choose_device())


def _load_members(
    folder: Path, manifest: Mapping[str, Any], config: Config, device: torch.device
) -> Bundle:
    """Load the models of a bundle whose files have been checked."""
    members = []
    for described in sorted(manifest["members"], key=lambda one: -float(one["weight"])):
        network, model_input = load_model(folder / described["file"])
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        readout = Readout.from_json(described["readout"])
        shift, weight = described["prior_shift"], described["weight"]
        members.append(Member(network, model_input, shift, readout, weight))
    return Bundle(config, members, device)


def choose_device() -> torch.device:
    """Return the GPU where the installed PyTorch has code for it, otherwise the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    capability, codes = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
    if runs_on(capability, codes):
        return torch.device("cuda")
    logger.warning(
        "%s is sm_%d%d, and PyTorch %s has code for %s only: the CPU answers; choose another GPU "
        "(on Kaggle a T4) or a PyTorch that has it",
        *(torch.cuda.get_device_name(), *capability, torch.__version__, ", ".join(codes)),
    )
    return torch.device("cpu")


def runs_on(capability: tuple[int, int], codes: Sequence[str]) -> bool:
    """Tell whether code that was built for some architectures runs on a GPU.

    Args:
        capability: the GPU's, for example (6, 0) for a P100.
        codes: `torch.cuda.get_arch_list()`. `sm_75` is machine code, for GPUs of the same major and
            no smaller minor number; `sm_90a` for its own alone; `compute_70` is compiled on the
            spot for any GPU that is not older.
    """
    for code in codes:
        kind, _, number = code.partition("_")
        digits = re.fullmatch(r"(\d+)(\d)([af]?)", number)
        if digits is None:
            continue
        built = (int(digits[1]), int(digits[2]))
        if digits[3]:
            fits = built == capability
        elif kind == "compute":
            fits = built <= capability
        else:
            fits = built[0] == capability[0] and built[1] <= capability[1]
        if fits:
            return True
    return False


def check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare each file's sha256 with the manifest's.

    Raises:
        UnmaskError: one is absent or differs.
    """
    for name, described in files.items():
        path = folder / name
        if not path.is_file():
            raise UnmaskError(f"{path}: named in {MANIFEST} but absent; upload the bundle again")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != described["sha256"]:
            raise UnmaskError(
                f"{path}: sha256 is {digest[:16]}…, the manifest says "
                f"{described['sha256'][:16]}…; upload the bundle again"
            )


def answer_videos(
    bundle: Bundle, videos: Sequence[Sequence[Crop]], members: int | None = None
) -> list[float | None]:
    """Return the probability of FAKE of each of some videos; None where one has no crop.

    Each member's crops become one logit a video as in evaluation, then a calibrated probability at
    the expected prior of the test set; members are averaged in log-odds, by their weights.

    Args:
        bundle: its members answer.
        videos: the crops of each.
        members: how many of the members answer, the heaviest first; None for all.
    """
    seen = [number for number, crops in enumerate(videos) if crops]
    answers: list[float | None] = [None] * len(videos)
    if not seen:
        return answers
    pictures, video, people = [], [], []
    for number, crops in enumerate(videos[one] for one in seen):
        pictures += [decode_jpeg(crop.jpeg, f"frame {crop.frame}") for crop in crops]
        video += [number] * len(crops)
        people += [(number, crop.track) for crop in crops]
    track_of = np.unique(np.array(people), axis=0, return_inverse=True)[1].reshape(-1)
    faces = (np.array(video, np.int64), track_of)
    asked = bundle.members[:members]
    prior, device = bundle.config.kaggle.prior, bundle.device
    log_odds = [member_log_odds(one, pictures, *faces, prior, device) for one in asked]
    averaged = expit(np.average(log_odds, axis=0, weights=[one.weight for one in asked]))
    for number, answer in zip(seen, averaged, strict=True):
        answers[number] = float(answer)
    return answers


def member_log_odds(
    member: Member,
    pictures: list[NDArray[np.uint8]],
    video: NDArray[np.int64],
    track: NDArray[np.int64],
    prior: float,
    device: torch.device,
) -> NDArray[np.float64]:
    """Return one member's calibrated log-odds of FAKE of each video.

    Args:
        member: it answers.
        pictures: n RGB crops, uint8 (h, w, 3) each, sorted by video and track.
        video: int64 (n,), from 0, which each crop is of.
        track: int64 (n,), which person of all videos.
        prior: share of FAKE that is expected.
        device: where the network is.
    """
    logits = member_logits(member, pictures, device) + member.prior_shift
    read = member.readout.logits(FaceLogits(logits, video, track))
    return member.readout.calibration.log_odds(read, prior)


def member_logits(
    member: Member, pictures: list[NDArray[np.uint8]], device: torch.device
) -> NDArray[np.float64]:
    """Return float64 logits (n,) of n RGB crops, uint8 (h, w, 3) each."""
    logits = []
    mean, std = member.input.statistics(device)
    with torch.inference_mode():
        for start in range(0, len(pictures), _BATCH):
            resized = [member.input.resize(one) for one in pictures[start : start + _BATCH]]
            images = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(device)
            normalized = member.input.normalize(images, mean, std)
            logits.append(member.network(normalized).cpu())
    return np.asarray(torch.cat(logits).squeeze(1), np.float64)


def prepare_video(videos: Path, name: str, frames: FramesConfig, faces: FacesConfig) -> Prepared:
    """Decode a video and crop its faces; this runs in a worker process."""
    started = time.perf_counter()
    crops, reason = [], ""
    try:
        with VideoFile(videos, name).opened() as source:
            sampled = list(sample_frames(source, frames))
        search = find_faces(sampled, _detector(faces.model_dump_json()), faces)
        crops = crop_faces(sampled, search, faces)
        if not crops:
            reason = f"no face in {len(sampled)} frames"
    except (av.FFmpegError, UnmaskError) as error:
        reason = str(error)
    except MemoryError:  # the limit of the worker, which its parent tells
        raise
    except Exception as error:  # one odd video must not cost the other answers
        reason = f"{type(error).__name__}: {error}"
    return Prepared(crops, reason, time.perf_counter() - started)


@functools.lru_cache(maxsize=1)
def _detector(faces: str) -> Detector:
    """Create the detector once in each worker."""
    return create_detector(FacesConfig.model_validate_json(faces))


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
            bundle = _load_members(folder, manifest, config, choose_device())
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
        return bundle, answer_videos(bundle, videos, members)
    except RuntimeError as error:
        if bundle.device.type == "cpu":
            raise
        logger.warning("the GPU failed (%s); the CPU goes on", str(error).splitlines()[0])
        bundle = load_bundle(folder, torch.device("cpu"))
        return bundle, answer_videos(bundle, videos, members)


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
