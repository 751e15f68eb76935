"""The JSON files of inference, as types."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoringSpeed:
    """`results/scores/EXPERIMENT/MODEL.json`: what a model costs.

    Attributes:
        experiment: name of the experiment.
        model: name of the model, for example `fold0-seed1`.
        bytes: of its weights as float16.
        seconds_per_crop: of the network alone, without loading, on the machine that scored.
    """

    experiment: str
    model: str
    bytes: int
    seconds_per_crop: float
