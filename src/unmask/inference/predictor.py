"""Prediction: load a bundle, and predict the probability of FAKE for videos.

Runs on a plain Kaggle image, without Snakemake, MLflow, Lightning, albumentations or pyarrow.
Crops, preprocessing, aggregation and calibration are those of training and evaluation.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import nn

from unmask.config import Config
from unmask.config_files import load_settings
from unmask.errors import UnmaskError
from unmask.faces.boxes import in_crops
from unmask.faces.crops import Crop
from unmask.faces.images import decode_jpeg
from unmask.files import read_json
from unmask.inference.aggregate import FaceLogits
from unmask.inference.records import FileRecord, Manifest
from unmask.inference.scoring_head import ScoringHead
from unmask.training.backbones import ModelInput, one_line
from unmask.training.model_file import load_model

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CONFIG = "config.json"

_BATCH = 64


@dataclass(frozen=True)
class Member:
    """One model of the ensemble."""

    network: nn.Module  # maps normalised crops (n, 3, size, size) to logits (n, 1)
    input: ModelInput
    prior_shift: float  # added to its logits, from the prior of its batches to that of its data
    head: ScoringHead
    weight: float  # of its log-odds among those of all members


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle; its members in descending order of weight."""

    config: Config
    members: list[Member]
    device: torch.device


class FlipAverage(nn.Module):
    """A network that predicts the mean logit of a crop and its mirror image."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap a network that maps (n, 3, size, size) to (n, 1)."""
        super().__init__()
        self.network = network

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Return the mean logits (n, 1) of normalised crops (n, 3, size, size)."""
        mean: torch.Tensor = (self.network(crops) + self.network(crops.flip(3))) / 2
        return mean


@dataclass(frozen=True)
class VideoCrops:
    """The face crops of some videos, sorted by video and by track."""

    pictures: list[NDArray[np.uint8]]  # n RGB crops (h, h, 3)
    boxes: NDArray[np.float32]  # (n, 4), of the faces in units of the crops' sides
    video: NDArray[np.int64]  # (n,), the number of each crop's video, see `FaceLogits`
    track: NDArray[np.int64]  # (n,), the number of each crop's track over all videos


@dataclass(frozen=True)
class LogOdds:
    """Calibrated log-odds of FAKE; a track, or a face, is calibrated as if it were a video."""

    videos: NDArray[np.float64]  # (videos,)
    tracks: NDArray[np.float64]  # (tracks,)
    faces: NDArray[np.float64]  # (n,)


@dataclass(frozen=True)
class Scores:
    """Probabilities of FAKE in one video."""

    video: float
    tracks: list[float]  # of each track, in the order of the crops
    faces: list[float]  # of each crop


def read_bundle(folder: Path) -> tuple[Manifest, Config]:
    """Return the manifest and the configuration of a bundle after checking its files.

    Wheels are left out: `predict.py` checks those before it imports from them.

    Raises:
        UnmaskError: a file is absent or is not the exported one; the message names it.
    """
    try:
        manifest = read_json(folder / MANIFEST, Manifest)
    except UnmaskError:
        raise UnmaskError(
            f"{folder}: not a bundle (no readable {MANIFEST}); take the folder below "
            "results/kaggle/, or export it again"
        ) from None
    files = {name: one for name, one in manifest.files.items() if not name.endswith(".whl")}
    check_files(folder, files)
    settings = json.loads((folder / CONFIG).read_text())
    if settings["faces"]["weights"] is not None:
        settings["faces"]["weights"] = str(folder / settings["faces"]["weights"])
    return manifest, load_settings(settings)


def load_bundle(folder: Path, device: torch.device | None = None) -> Bundle:
    """Load a bundle, see `read_bundle`; without a device, on a supported GPU or else the CPU."""
    return load_members(folder, *read_bundle(folder), device or choose_device())


def load_members(folder: Path, manifest: Manifest, config: Config, device: torch.device) -> Bundle:
    """Load the models of a bundle whose files have been checked."""
    members = []
    for record in sorted(manifest.members, key=lambda one: -one.weight):
        network, model_input = load_model(folder / record.file)
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.evaluation.flip:
            network = FlipAverage(network)
        head, weight = record.scoring_head, record.weight
        members.append(Member(network, model_input, record.prior_shift, head, weight))
    return Bundle(config, members, device)


def check_files(folder: Path, files: Mapping[str, FileRecord]) -> None:
    """Raise UnmaskError if a file is absent, or its SHA-256 is not the manifest's."""
    for name, record in files.items():
        path = folder / name
        if not path.is_file():
            raise UnmaskError(f"{path}: named in {MANIFEST} but absent; upload the bundle again")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != record.sha256:
            raise UnmaskError(
                f"{path}: sha256 is {digest[:16]}…, the manifest says {record.sha256[:16]}…; "
                "upload the bundle again"
            )


def choose_device() -> torch.device:
    """Return the GPU if it can run this PyTorch, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    try:
        torch.ones(1, device="cuda").add(1).item()
    except RuntimeError as error:  # for example a P100, whose code recent builds lack
        logger.warning(
            "the GPU cannot be used (%s): predicting on the CPU; choose another GPU (on Kaggle a "
            "T4) or a PyTorch that supports it",
            one_line(error),
        )
        return torch.device("cpu")
    return torch.device("cuda")


def predict_videos(
    bundle: Bundle, videos: Sequence[Sequence[Crop]], members: int | None = None
) -> list[Scores | None]:
    """Return the probabilities of FAKE of each video; None for a video without crops.

    Each member's logits go through its scoring head at the prior of `kaggle.prior`. The members'
    log-odds are averaged by weight.

    Args:
        bundle: the members.
        videos: the crops of each video, sorted by track.
        members: how many members to use, in descending order of weight; None for all.
    """
    with_crops = [crops for crops in videos if crops]
    if not with_crops:
        return [None] * len(videos)
    crops, used = join_crops(with_crops), bundle.members[:members]
    prior, device = bundle.config.kaggle.prior, bundle.device
    of_members = [member_log_odds(member, crops, prior, device) for member in used]
    weights = [member.weight for member in used]

    def averaged(log_odds: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.asarray(expit(np.average(log_odds, axis=0, weights=weights)))

    of_videos = averaged([one.videos for one in of_members])
    of_tracks = averaged([one.tracks for one in of_members])
    of_faces = averaged([one.faces for one in of_members])
    video_of_track = crops.video[np.unique(crops.track, return_index=True)[1]]
    scores = iter(
        Scores(
            float(probability),
            of_tracks[video_of_track == number].tolist(),
            of_faces[crops.video == number].tolist(),
        )
        for number, probability in enumerate(of_videos)
    )
    return [next(scores) if crops else None for crops in videos]


def join_crops(videos: Sequence[Sequence[Crop]]) -> VideoCrops:
    """Return the decoded crops of some videos, at least one of each."""
    pairs = [(video, crop) for video, crops in enumerate(videos) for crop in crops]
    track = np.array([(video, crop.track) for video, crop in pairs])
    return VideoCrops(
        [decode_jpeg(crop.jpeg, f"frame {crop.frame}") for _, crop in pairs],
        in_crops([c.box for _, c in pairs], [(c.x0, c.y0, c.side) for _, c in pairs]),
        np.array([video for video, _ in pairs], np.int64),
        np.unique(track, axis=0, return_inverse=True)[1].reshape(-1),
    )


def member_log_odds(
    member: Member, crops: VideoCrops, prior: float, device: torch.device
) -> LogOdds:
    """Return a member's calibrated log-odds of FAKE at a prior."""
    logits = member_logits(member, crops, device) + member.prior_shift
    face = np.arange(len(logits))

    def calibrated(video: NDArray[np.int64], track: NDArray[np.int64]) -> NDArray[np.float64]:
        of_videos = member.head.logits(FaceLogits(logits, video, track))
        return member.head.calibration.log_odds(of_videos, prior)

    return LogOdds(
        calibrated(crops.video, crops.track),
        calibrated(crops.track, crops.track),
        calibrated(face, face),
    )


def member_logits(member: Member, crops: VideoCrops, device: torch.device) -> NDArray[np.float64]:
    """Return float64 logits (n,) of n crops."""
    logits = []
    with torch.inference_mode():
        for images in network_inputs(member.input, crops.pictures, crops.boxes, device):
            logits.append(member.network(images).cpu())
    return np.asarray(torch.cat(logits).squeeze(1), np.float64)


def network_inputs(
    model_input: ModelInput,
    pictures: Sequence[NDArray[np.uint8]],
    boxes: NDArray[np.float32],
    device: torch.device,
) -> Iterator[torch.Tensor]:
    """Yield batches of what a network takes, float32 (at most 64, 3, size, size), normalised.

    Args:
        model_input: size and preprocessing.
        pictures: n RGB crops, uint8 (h, h, 3).
        boxes: float32 (n, 4), of the faces in units of the crops' sides.
        device: where the batches go.
    """
    mean, std = model_input.statistics(device)
    for start in range(0, len(pictures), _BATCH):
        batch = slice(start, start + _BATCH)
        prepared = map(model_input.prepare, pictures[batch], boxes[batch])
        images = torch.from_numpy(np.stack(list(prepared))).permute(0, 3, 1, 2).to(device)
        yield model_input.normalize(images, mean, std)
