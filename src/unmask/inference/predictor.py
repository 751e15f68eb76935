"""Prediction from a bundle: videos to probabilities.

It imports nothing that a Kaggle notebook lacks: no Snakemake, MLflow, Lightning or albumentations.
Crops, preprocessing, aggregation and calibration are the functions that training used.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import nn

from unmask.config import Config, FacesConfig, FramesConfig, load_settings
from unmask.errors import UnmaskError
from unmask.faces.crops import Crop, crop_faces
from unmask.faces.detectors import Detector, create_detector
from unmask.faces.images import decode_jpeg
from unmask.faces.search import find_faces
from unmask.inference.aggregate import FaceLogits
from unmask.inference.scoring_head import Readout
from unmask.training.backbones import ModelInput
from unmask.training.model_file import load_model
from unmask.videos.frames import sample_frames
from unmask.videos.source import VideoFile

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


CONFIG = "config.json"


_BATCH = 64


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
    return load_members(folder, *read_bundle(folder), device or choose_device())


def load_members(
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
