"""The detector: a loaded bundle that predicts videos and pictures, for use as a library.

`unmask.load` returns one. The commands `predict` and `app`, the Kaggle submission and the model in
MLflow's registry use it as well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from unmask.config import Config
from unmask.errors import UnmaskError
from unmask.faces.crops import Crop
from unmask.inference.predictor import (
    Bundle,
    FlipAverage,
    Scores,
    choose_device,
    join_crops,
    load_bundle,
    load_members,
    network_inputs,
    predict_videos,
    read_bundle,
)
from unmask.inference.prepare import Prepared, prepare_image, prepare_video, prepare_videos
from unmask.inference.properties import differences, properties_of
from unmask.inference.records import (
    FaceScore,
    ImagePrediction,
    Manifest,
    TrackPrediction,
    VideoPrediction,
)
from unmask.training.backbones import one_line
from unmask.videos.images import image_files
from unmask.videos.isolation import Task

Name = TypeVar("Name")

logger = logging.getLogger(__name__)

# A GPU gets the crops of several videos at once; a CPU gains nothing from larger batches.
_CROPS_PER_GPU_BATCH = 256


@dataclass(frozen=True)
class Examined:
    """A prediction, and the pictures that it is made of."""

    prediction: VideoPrediction
    crops: list[Crop]  # by track and frame
    pictures: list[bytes]  # JPEGs of the sampled frames, if asked for
    width: int  # of the frames in pixels


class DeepfakeDetector:
    """Predicts how probable it is that a face in a video was manipulated.

    Attributes:
        manifest: members, test metrics and training data of the bundle.
        bundle: its networks and configuration.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, config: Config, device: torch.device, workers: int
    ) -> None:
        """Load the networks of a bundle whose files have been checked; see `unmask.load`."""
        self.manifest = manifest
        self.bundle: Bundle = load_members(folder, manifest, config, device)
        self._folder, self._workers = folder, workers

    def predict(self, video: str | Path) -> VideoPrediction:
        """Predict a video.

        A file that cannot be read, or shows no face, has a status, a reason and no probability.

        Raises:
            UnmaskError: there is no such file.
        """
        (prediction,) = self.predict_many([video])
        return prediction

    def predict_many(self, videos: Iterable[str | Path]) -> Iterator[VideoPrediction]:
        """Predict videos in order, each as soon as it is ready; see `predict`."""
        return (one.prediction for one in self.examine(videos))

    def examine(self, videos: Iterable[str | Path], picture_side: int = 0) -> Iterator[Examined]:
        """Predict videos, and keep the pictures that the predictions are made of.

        Args:
            videos: the files, or folders of images.
            picture_side: long side in pixels of the pictures of whole frames; 0 for none.

        Raises:
            UnmaskError: a file is absent.
        """
        paths = [Path(video) for video in videos]
        for path in paths:
            if not (path.is_file() or (path.is_dir() and image_files(path))):
                raise UnmaskError(f"{path}: no such file, or folder of images")
        config = self.bundle.config
        settings = (config.frames, config.faces, picture_side)
        tasks = (
            Task(prepare_video, (path.absolute().parent, path.name, *settings)) for path in paths
        )
        prepared = prepare_videos(tasks, config.limits, self._workers)
        for batch in batches(zip(paths, prepared, strict=True), self.crops_per_batch):
            scores = self.score([one.crops for _, one in batch])
            for (path, one), scored in zip(batch, scores, strict=True):
                prediction = self._prediction(path, one, scored)
                yield Examined(prediction, one.crops, one.pictures, one.width)

    def predict_images(self, images: NDArray[np.uint8]) -> list[ImagePrediction]:
        """Predict pictures, each for itself: their faces are found as in a video of one frame.

        Args:
            images: RGB uint8 (n, h, w, 3).

        Raises:
            UnmaskError: the array has another dtype or shape.
        """
        prepared = self._prepare_images(images)
        scores = self.score([one.crops for one in prepared])
        return [
            ImagePrediction(
                None if scored is None else scored.video,
                [] if scored is None else _face_scores(one.crops, scored.faces),
            )
            for one, scored in zip(prepared, scores, strict=True)
        ]

    def embed(self, faces: str | Path | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features that the heaviest member's last layer turns into a logit.

        Args:
            faces: a video, or pictures as for `predict_images`.

        Returns:
            float32 (n, features), a row per face: of a video by track and frame, of pictures in
            their order.

        Raises:
            UnmaskError: there is no such file, or no face, or the network has no such features.
        """
        if isinstance(faces, str | Path):
            (examined,) = self.examine([faces])
            crops, where = examined.crops, f"{faces}: {examined.prediction.detail}"
        else:
            prepared = self._prepare_images(faces)
            crops, where = [crop for one in prepared for crop in one.crops], "no face in the images"
        if not crops:
            raise UnmaskError(where)
        member = self.bundle.members[0]
        network: Any = member.network
        network = network.network if isinstance(network, FlipAverage) else network
        if not hasattr(network, "forward_head"):
            raise UnmaskError(f"{member.input.backbone}: has no forward_head, so no features")
        joined = join_crops([crops])
        with torch.inference_mode():
            rows = [
                network.forward_head(network.forward_features(images), pre_logits=True).cpu()
                for images in network_inputs(
                    member.input, joined.pictures, joined.boxes, self.bundle.device
                )
            ]
        return np.asarray(torch.cat(rows).flatten(1), np.float32)

    @property
    def crops_per_batch(self) -> int:
        """Return how many crops `score` should be given at least."""
        return _CROPS_PER_GPU_BATCH if self.bundle.device.type == "cuda" else 1

    def score(
        self, videos: Sequence[Sequence[Crop]], members: int | None = None
    ) -> list[Scores | None]:
        """Return `predict_videos` of the bundle; if the GPU fails, continue on the CPU."""
        try:
            return predict_videos(self.bundle, videos, members)
        except RuntimeError as error:
            if self.bundle.device.type == "cpu":
                raise
            logger.warning("the GPU failed (%s); using the CPU", str(error).splitlines()[0])
            on_cpu = load_bundle(self._folder, torch.device("cpu"))
            self.bundle = replace(on_cpu, config=self.bundle.config)
            return predict_videos(self.bundle, videos, members)

    def _prediction(self, path: Path, one: Prepared, scores: Scores | None) -> VideoPrediction:
        properties, data = properties_of(one.container, one.crops), self.manifest.data
        return VideoPrediction(
            video=str(path),
            probability=None if scores is None else scores.video,
            status=one.status,
            detail=one.reason,
            frames=one.frames,
            tracks=[] if scores is None else _track_predictions(one.crops, scores),
            properties=properties,
            differences=[] if data is None else differences(properties, data),
        )

    def _prepare_images(self, images: NDArray[np.uint8]) -> list[Prepared]:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UnmaskError(
                f"images: must be RGB uint8 (n, h, w, 3), not {images.dtype} {images.shape}"
            )
        faces = self.bundle.config.faces
        return [prepare_image(np.ascontiguousarray(image), faces) for image in images]


def load_detector(
    folder: str | Path, device: str | None = None, prior: float | None = None, workers: int = 0
) -> DeepfakeDetector:
    """Load a bundle as a detector, see `unmask.load`."""
    manifest, config = read_bundle(Path(folder))
    if prior is not None:
        if not 0 < prior < 1:
            raise UnmaskError(f"prior: {prior:g} is not between 0 and 1")
        kaggle = config.kaggle.model_copy(update={"prior": prior})
        config = config.model_copy(update={"kaggle": kaggle})
    chosen = choose_device() if device is None else _checked_device(device)
    return DeepfakeDetector(Path(folder), manifest, config, chosen, workers)


def _checked_device(name: str) -> torch.device:
    try:
        return torch.ones(1, device=name).device
    except (RuntimeError, AssertionError) as error:  # PyTorch's, of a device that is not there
        raise UnmaskError(f"device: {name} cannot be used ({one_line(error)})") from None


def batches(
    prepared: Iterable[tuple[Name, Prepared]], crops: int
) -> Iterator[list[tuple[Name, Prepared]]]:
    """Yield videos in batches of at least so many crops; a video without crops counts as one."""
    batch, held = [], 0
    for name, one in prepared:
        batch.append((name, one))
        held += max(1, len(one.crops))
        if held >= crops:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _face_scores(crops: Sequence[Crop], probabilities: Sequence[float]) -> list[FaceScore]:
    return [
        FaceScore(crop.frame, crop.time, (x0, y0, x1, y1), probability)
        for crop, probability in zip(crops, probabilities, strict=True)
        for x0, y0, x1, y1 in [crop.box.tolist()]
    ]


def _track_predictions(crops: Sequence[Crop], scores: Scores) -> list[TrackPrediction]:
    tracks, faces = sorted({crop.track for crop in crops}), _face_scores(crops, scores.faces)
    return [
        TrackPrediction(
            track,
            probability,
            [face for face, crop in zip(faces, crops, strict=True) if crop.track == track],
        )
        for track, probability in zip(tracks, scores.tracks, strict=True)
    ]
