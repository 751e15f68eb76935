"""Train deepfake detectors from a folder of labelled videos to a calibrated Kaggle bundle."""

__version__ = "0.1.0"
