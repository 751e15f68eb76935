"""The detector as a model of MLflow's registry, whose MLmodel file names this module.

model = mlflow.pyfunc.load_model("models:/unmask@champion")
model.predict(pandas.DataFrame({"video": ["a.mp4", "b.mp4"]}))
"""

from __future__ import annotations

import pandas as pd

import unmask
from unmask.inference.detector import DeepfakeDetector

COLUMNS = {"video": "string", "probability": "double", "status": "string", "detail": "string"}
"""Columns of the predictions, and their types in MLflow's signature."""


class RegisteredModel:
    """A bundle with the methods that MLflow expects of a model."""

    def __init__(self, detector: DeepfakeDetector) -> None:
        """Wrap a detector."""
        self._detector = detector

    def predict(self, table: pd.DataFrame) -> pd.DataFrame:
        """Predict the videos whose paths are in the column `video`.

        Returns:
            A row per video with `COLUMNS`; the probability is NaN where nothing could be seen.

        Raises:
            UnmaskError: a file is absent.
        """
        rows = [vars(one) for one in self._detector.predict_many(table["video"])]
        found = pd.DataFrame(rows, columns=[*COLUMNS]).astype({"status": str})
        return found.assign(probability=found["probability"].astype("float64"))


def _load_pyfunc(path: str) -> RegisteredModel:
    """Load the bundle in a folder; MLflow calls this function by its name."""
    return RegisteredModel(unmask.load(path))
