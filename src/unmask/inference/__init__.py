"""Inference: a model and a video to a probability."""
