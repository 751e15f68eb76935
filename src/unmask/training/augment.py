"""Augmentation of training crops: the only module that uses albumentations."""

from __future__ import annotations

from collections.abc import Callable

import albumentations as A
import numpy as np
from numpy.typing import NDArray

from unmask.config import TrainingConfig

Augmentation = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]


def create_augmentation(config: TrainingConfig) -> Augmentation | None:
    """Return a function of an RGB crop, uint8 (h, w, 3), and a seed; None for `augment: none`.

    The result depends on the crop and the seed alone, whichever process computes it.
    """
    if config.augment == "none":
        return None
    pipeline = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.RandomBrightnessContrast(0.15, 0.15, p=0.5),
            A.ImageCompression(quality_range=(60, 100), p=0.3),
        ]
    )

    def augment(crop: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        pipeline.set_random_seed(seed)
        return np.asarray(pipeline(image=crop)["image"], np.uint8)

    return augment
