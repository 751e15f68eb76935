"""The JSON files of inference, as types."""

from __future__ import annotations

from dataclasses import dataclass

from unmask.inference.properties import Properties, TrainingData
from unmask.inference.scoring_head import ScoringHead
from unmask.vocabulary import Status


@dataclass(frozen=True)
class ScoringSpeed:
    """`results/scores/EXPERIMENT/MODEL.json`: what a model costs."""

    experiment: str
    model: str  # for example `fold0-seed1`
    bytes: int  # of its weights as float16
    seconds_per_crop: float  # of the network alone, without loading, on the machine that scored


@dataclass(frozen=True)
class MemberRecord:
    """A member of a bundle's ensemble: one trained model."""

    file: str  # name of its weights in the bundle
    experiment: str
    model: str  # for example `fold0-seed1`
    fold: int
    seed: int
    run_id: str  # of its MLflow run
    prior_shift: float  # added to its logits, from the prior of its batches to that of its data
    backbone: str  # timm name
    image_size: int  # side of its input in pixels
    scoring_head: ScoringHead  # fitted on its validation videos
    weight: float  # of its log-odds; the weights of all members sum to 1


@dataclass(frozen=True)
class Parity:
    """How much the precision of the shipped weights changes predictions."""

    videos: int  # number of videos that were compared
    largest_change: float  # of the probability of a video
    video: str  # the video that changed most


@dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 of a file of a bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """`manifest.json` of a bundle."""

    unmask: str  # version of this package
    members: list[MemberRecord]
    metrics: dict[str, float | None]  # test metrics of the experiment or ensemble
    intervals: dict[str, tuple[float | None, float | None]]  # 95 %, of metrics
    parity: Parity  # of the shipped and the trained weights
    versions: dict[str, str]  # package to the version that exported the bundle
    licences: dict[str, str]  # component to licence
    files: dict[str, FileRecord]  # name to record, of all files but the manifest
    data: TrainingData | None = None  # None in bundles of earlier versions


@dataclass(frozen=True)
class FaceScore:
    """A face in one sampled frame."""

    frame: int  # index of the sampled frame
    time: float  # of the frame in seconds
    box: tuple[float, float, float, float]  # x0 y0 x1 y1 in pixels of the upright frame
    probability: float  # of FAKE, as if the video consisted of this face


@dataclass(frozen=True)
class TrackPrediction:
    """One person in one video."""

    track: int  # from 0, in decreasing order of the detector's confidence
    probability: float  # of FAKE, as if the video showed this person alone
    faces: list[FaceScore]  # in the order of their frames


@dataclass(frozen=True)
class VideoPrediction:
    """What a bundle predicts for a video."""

    video: str  # path of the file
    probability: float | None  # of FAKE; None where nothing could be seen
    status: Status  # `ok` where there is a probability
    detail: str  # why nothing could be seen, or what is damaged
    frames: int  # number of sampled frames
    tracks: list[TrackPrediction]
    properties: Properties
    differences: list[str]  # sentences: how it differs from the training videos


@dataclass(frozen=True)
class ImagePrediction:
    """What a bundle predicts for a single picture."""

    probability: float | None  # of FAKE; None where no face was found
    faces: list[FaceScore]
