"""The JSON files of inference, as types."""

from __future__ import annotations

from dataclasses import dataclass

from unmask.inference.scoring_head import ScoringHead


@dataclass(frozen=True)
class ScoringSpeed:
    """`results/scores/EXPERIMENT/MODEL.json`: what a model costs.

    Attributes:
        experiment: name of the experiment.
        model: name of the model, for example `fold0-seed1`.
        bytes: of its weights as float16.
        seconds_per_crop: of the network alone, without loading, on the machine that scored.
    """

    experiment: str
    model: str
    bytes: int
    seconds_per_crop: float


@dataclass(frozen=True)
class MemberRecord:
    """A member of a bundle's ensemble: one trained model.

    Attributes:
        file: name of its weights in the bundle.
        experiment: name of its experiment.
        model: name of the model, for example `fold0-seed1`.
        fold: its fold.
        seed: its seed.
        run_id: of its MLflow run.
        prior_shift: added to its logits, from the prior of its batches to that of its data.
        backbone: timm name.
        image_size: side of its input in pixels.
        scoring_head: fitted on its validation videos.
        weight: of its log-odds; the weights of all members sum to 1.
    """

    file: str
    experiment: str
    model: str
    fold: int
    seed: int
    run_id: str
    prior_shift: float
    backbone: str
    image_size: int
    scoring_head: ScoringHead
    weight: float


@dataclass(frozen=True)
class Parity:
    """How much the precision of the shipped weights changes predictions.

    Attributes:
        videos: number of videos that were compared.
        largest_change: of the probability of a video.
        video: the video that changed most.
    """

    videos: int
    largest_change: float
    video: str


@dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 of a file of a bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """`manifest.json` of a bundle.

    Attributes:
        unmask: version of this package.
        members: the models.
        metrics: test metrics of the experiment or ensemble.
        intervals: 95 % interval of each metric that has one.
        parity: of the shipped and the trained weights.
        versions: package to the version that exported the bundle.
        licences: component to licence.
        files: name to record, of all files but the manifest.
    """

    unmask: str
    members: list[MemberRecord]
    metrics: dict[str, float | None]
    intervals: dict[str, tuple[float | None, float | None]]
    parity: Parity
    versions: dict[str, str]
    licences: dict[str, str]
    files: dict[str, FileRecord]
