"""The command `predict`: what a bundle says about some videos, as text, JSON, CSV and a page."""

from __future__ import annotations

import csv as csv_module
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from unmask.errors import UnmaskError
from unmask.files import atomic_path, write_json
from unmask.inference.detector import load_detector
from unmask.inference.meaning import describe, limits_of, warning_of
from unmask.inference.page import PICTURE_SIDE, create_entry, render_prediction_page
from unmask.inference.records import VideoPrediction
from unmask.progress import track
from unmask.videos import listing
from unmask.vocabulary import Status

logger = logging.getLogger(__name__)

# Statuses of files that are no videos at all.
_NO_VIDEO = (Status.UNREADABLE, Status.NO_VIDEO_STREAM, Status.MISSING)


@dataclass(frozen=True)
class PredictionFile:
    """The JSON file of the command `predict`."""

    bundle: str  # folder of the bundle
    prior: float  # share of FAKE that the probabilities assume
    limits: list[str]  # sentences: what the bundle's test says, and what it does not
    videos: list[VideoPrediction]


def predict_files(
    videos: list[str],
    bundle: Path = Path("results/kaggle/unmask"),
    json: Path | None = None,
    csv: Path | None = None,
    html: Path | None = None,
    prior: float | None = None,
    device: str | None = None,
    workers: int | None = None,
) -> str:
    """Predict how probable it is that faces in videos were manipulated.

    Args:
        videos: files, folders (all videos, and folders of images, below them) or quoted patterns
            such as "clips/*.mp4".
        bundle: the folder that the workflow exports.
        json: file to write: all probabilities, per video, track and face, and why some are absent.
        csv: file to write: a row per video.
        html: page to write: timelines, the frames that count most, and what the values mean.
        prior: share of FAKE to expect among the videos; by default `kaggle.prior` of the bundle.
        device: for example "cpu" or "cuda:1"; by default the GPU if there is one that works.
        workers: processes that decode videos; by default one fewer than there are cores.

    Raises:
        UnmaskError: a file is absent, a folder has no video, or none of the files is a video.
    """
    paths = find_videos(videos)
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    workers = max(1, cores - 1) if workers is None else workers
    detector = load_detector(bundle, device, prior, min(workers, len(paths)))
    predictions, entries = [], []
    examined = detector.examine(paths, PICTURE_SIDE if html else 0)
    for one in track(examined, "videos", len(paths)):
        predictions.append(one.prediction)
        if html is not None:
            entries.append(create_entry(detector, one))
    limits, expected = limits_of(detector.manifest), detector.bundle.config.kaggle.prior
    if json is not None:
        write_json(PredictionFile(str(bundle), expected, limits, predictions), json)
    if csv is not None:
        _write_csv(predictions, csv)
    if html is not None:
        with atomic_path(html) as temporary:
            temporary.write_text(render_prediction_page(detector, entries), encoding="utf-8")
    if all(one.status in _NO_VIDEO for one in predictions):
        first = predictions[0]
        rest = f", and {len(predictions) - 1} more" if len(predictions) > 1 else ""
        raise UnmaskError(f"{first.video}: no video ({first.detail}){rest}")
    warning = warning_of(detector.manifest)
    warnings = [f"WARNING: {warning}"] if warning else []
    return "\n".join([*map(describe, predictions), "", *warnings, *limits])


def find_videos(given: Sequence[str]) -> list[Path]:
    """Return the files that names, folders and patterns stand for, each once.

    Raises:
        UnmaskError: there is no such file, or a folder has no video.
    """
    return list(dict.fromkeys(path for one in given for path in _files_of(one)))


def _files_of(given: str) -> list[Path]:
    path = Path(given)
    if path.is_file():
        return [path]
    if path.is_dir():
        files = [*listing.find_videos(path)]
    else:
        pattern = str(path.relative_to(path.anchor))
        files = sorted(one for one in Path(path.anchor).glob(pattern) if one.is_file())
    if not files:
        what = "no video in this folder" if path.is_dir() else "no such file"
        raise UnmaskError(f"{given}: {what}")
    return files


def _write_csv(predictions: Sequence[VideoPrediction], path: Path) -> None:
    columns = ("video", "probability", "status", "detail", "frames", "tracks", "faces")
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv_module.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for one in predictions:
            outcome = (one.video, one.probability, one.status, one.detail, one.frames)
            faces = sum(len(person.faces) for person in one.tracks)
            writer.writerow([*outcome, len(one.tracks), faces])
