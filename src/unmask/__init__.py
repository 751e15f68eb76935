"""Train deepfake detectors from a folder of labelled videos to a calibrated Kaggle bundle.

import unmask

detector = unmask.load("results/kaggle/unmask")
print(detector.predict("x.mp4").probability)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from unmask.inference.detector import DeepfakeDetector

__version__ = "0.1.0"


def load(
    bundle: str | Path,
    device: str | None = None,
    prior: float | None = None,
    workers: int = 0,
) -> DeepfakeDetector:
    """Load a bundle as a detector.

    Args:
        bundle: the folder that the workflow exports, such as `results/kaggle/unmask`.
        device: for example "cpu" or "cuda:1"; by default the GPU if there is one that works.
        prior: share of FAKE to expect among the videos; by default `kaggle.prior` of the bundle.
        workers: number of processes that decode videos and find faces, within the bundle's limits
            of time and memory; 0 does it in this process, without limits. As with PyTorch's
            loaders, a script with workers needs `if __name__ == "__main__":`.

    Raises:
        UnmaskError: the folder is not a bundle, or a file of it is damaged.
    """
    from unmask.inference.detector import load_detector  # PyTorch takes seconds

    return load_detector(bundle, device, prior, workers)
