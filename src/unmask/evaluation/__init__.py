"""Evaluation: from one logit per face to calibrated, reported probabilities per video."""
