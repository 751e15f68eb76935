"""Readout: how a model's face logits become answers to videos, here and on Kaggle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask.inference.aggregate import AGGREGATIONS, FaceLogits
from unmask.inference.calibrate import Calibration, log_odds

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Readout:
    """From the logits of a video's faces to its answer.

    Attributes:
        aggregate: one of `AGGREGATIONS`.
        calibrate: one of `CALIBRATIONS`.
        assumed_prior: share of FAKE that the face logits assume.
        calibration: of the aggregated logits.
    """

    aggregate: str
    calibrate: str
    assumed_prior: float
    calibration: Calibration

    def logits(self, faces: FaceLogits) -> Floats:
        """Return the logit of each video, float64 (videos,)."""
        return aggregate_logits(faces, self.aggregate, self.assumed_prior)

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Readout:
        """Return the readout that `as_json` described."""
        return cls(**{**values, "calibration": Calibration(**values["calibration"])})


def aggregate_logits(faces: FaceLogits, aggregate: str, assumed_prior: float) -> Floats:
    """Aggregate logits that assume any share of FAKE, at even odds, and return what assumes it too.

    Args:
        faces: their logits assume `assumed_prior`.
        aggregate: one of `AGGREGATIONS`, whose thresholds are meant for even odds.
        assumed_prior: share of FAKE, neither 0 nor 1.
    """
    shift = log_odds(assumed_prior)
    even = FaceLogits(faces.logits - shift, faces.video, faces.track)
    return AGGREGATIONS[aggregate](even) + shift
