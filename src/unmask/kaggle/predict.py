"""Prediction from a bundle: the code that runs on Kaggle.

It imports nothing that a Kaggle notebook lacks: no Snakemake, MLflow, Lightning or albumentations.
Crops, preprocessing, aggregation and calibration are the functions that training used.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import nn

from unmask.config import Config, load_settings
from unmask.errors import UnmaskError
from unmask.evaluation.aggregate import FaceLogits
from unmask.evaluation.readout import Readout
from unmask.faces.crops import Crop, crop_faces, decode_jpeg
from unmask.faces.detectors import Detector, create_detector
from unmask.faces.search import find_faces
from unmask.progress import configure_logging, track
from unmask.tables import atomic_path
from unmask.training.backbones import ModelInput, load_model
from unmask.videos.frames import sample_frames
from unmask.videos.source import VideoFile, is_safe_name

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CONFIG = "config.json"
SCRIPT = "predict.py"

_BATCH = 64
# Rewriting the submission costs milliseconds; what is in it survives a killed notebook.
_WRITE_EVERY_S = 30.0


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
    """A loaded bundle."""

    config: Config
    members: list[Member]
    detector: Detector
    device: torch.device


def load_bundle(folder: Path) -> Bundle:
    """Load a bundle after checking every file against the manifest.

    Raises:
        UnmaskError: a file is absent or is not what was exported; the message names it.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, json.JSONDecodeError):
        raise UnmaskError(f"{folder}: no readable {MANIFEST}; export or upload it again") from None
    check_files(folder, manifest["files"])
    settings = json.loads((folder / CONFIG).read_text())
    if settings["faces"]["weights"] is not None:
        settings["faces"]["weights"] = str(folder / settings["faces"]["weights"])
    config = load_settings(settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    members = []
    for described in manifest["members"]:
        network, model_input = load_model(folder / described["file"])
        readout = Readout.from_json(described["readout"])
        shift, weight = described["prior_shift"], described["weight"]
        members.append(Member(network.to(device), model_input, shift, readout, weight))
    return Bundle(config, members, create_detector(config.faces), device)


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


def predict_crops(bundle: Bundle, crops: list[Crop]) -> float | None:
    """Return the probability of FAKE of one video's crops; None where there are none.

    Each member's crops become one logit as in evaluation, then a calibrated probability at the
    expected prior of the test set; members are averaged in log-odds,
    by their weights.
    """
    if not crops:
        return None
    pictures = [decode_jpeg(crop.jpeg, f"frame {crop.frame}") for crop in crops]
    track = np.unique([crop.track for crop in crops], return_inverse=True)[1]
    answers = []
    for member in bundle.members:
        logits = member_logits(member, pictures, bundle.device) + member.prior_shift
        faces = FaceLogits(logits, np.zeros(len(logits), np.int64), track)
        video = member.readout.logits(faces)
        (log_odds,) = member.readout.calibration.log_odds(video, bundle.config.kaggle.prior)
        answers.append(log_odds)
    return float(expit(np.average(answers, weights=[one.weight for one in bundle.members])))


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


def predict_video(bundle: Bundle, videos: Path, name: str) -> tuple[float | None, str]:
    """Return the probability of one video and, where there is none, why."""
    if not is_safe_name(name):
        return None, "the name is not a plain file name"
    if not (videos / name).is_file():
        return None, "no such file"
    config = bundle.config
    try:
        with VideoFile(videos, name).opened() as source:
            frames = list(sample_frames(source, config.frames))
    except (av.FFmpegError, UnmaskError) as error:
        return None, str(error)
    search = find_faces(frames, bundle.detector, config.faces)
    answer = predict_crops(bundle, crop_faces(frames, search, config.faces))
    return answer, "" if answer is not None else f"no face in {len(frames)} frames"


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


def predict(folder: Path, videos: Path, sample: Path, output: Path, threads: int) -> None:
    """Answer every video that a sample submission names.

    Args:
        folder: the bundle.
        videos: folder of the test videos.
        sample: `sample_submission.csv`.
        output: `submission.csv`; complete from the first second, with the prior for what is not
            answered yet.
        threads: CPU threads.

    Raises:
        UnmaskError: the bundle is damaged, or the sample cannot be read.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    bundle = load_bundle(folder)
    settings = bundle.config.kaggle
    answers = dict.fromkeys(read_sample(sample), settings.prior)
    write_submission(answers, output)
    started = written = time.monotonic()
    unanswered = 0
    for name in track(list(answers), "videos"):
        try:
            answer, reason = predict_video(bundle, videos, name)
        except Exception as error:  # one odd video must not cost the other answers
            logger.exception("%s", name)
            answer, reason = None, type(error).__name__
        if answer is None:
            unanswered += 1
            logger.warning("%s: %s; answered with the prior", name, reason)
            answer = settings.prior
        answers[name] = min(max(answer, settings.clip), 1 - settings.clip)
        if time.monotonic() - written > _WRITE_EVERY_S:
            write_submission(answers, output)
            written = time.monotonic()
    write_submission(answers, output)
    seconds = (time.monotonic() - started) / len(answers)
    logger.info(
        "%d videos, %d by the prior, %.2f s a video: 4,000 would take %.1f h",
        len(answers),
        unanswered,
        seconds,
        seconds * 4000 / 3600,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog=SCRIPT, description="Answer a test set from a bundle.")
    parser.add_argument("--bundle", type=Path, required=True, help="the exported folder")
    parser.add_argument("--videos", type=Path, required=True, help="folder of the test videos")
    parser.add_argument("--sample", type=Path, required=True, help="sample_submission.csv")
    parser.add_argument("--out", type=Path, required=True, help="submission.csv to write")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--log", type=Path, help="log file; by default the log goes to stderr")
    options = parser.parse_args(arguments)
    configure_logging(options.log)
    try:
        predict(options.bundle, options.videos, options.sample, options.out, options.threads)
    except UnmaskError as error:
        logger.error("%s", error)
        print(f"{SCRIPT}: {error}", file=sys.stderr)
        return 2
    return 0
