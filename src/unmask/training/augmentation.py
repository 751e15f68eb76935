"""Augmentation of training crops by a list of transforms, composed by albumentations.

`training.augment` gives the list: a preset, the list itself, or a function that returns one. It
names classes of albumentations and of `unmask.training.transforms`.
"""

from __future__ import annotations

import difflib
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import albumentations as A
import numpy as np

from unmask.config import Augment
from unmask.config_files import resolve_augment
from unmask.errors import UnmaskError
from unmask.importing import import_object
from unmask.training import transforms
from unmask.training.backbones import ModelInput, one_line
from unmask.training.recompress import Picture
from unmask.training.transforms import (
    TARGETS,
    ResizeToInput,
    StoredCrop,
    StoredCropTransform,
    TightCrop,
)

Transform: TypeAlias = A.BasicTransform | A.BaseCompose
# After them, a position in the stored crop is one elsewhere in the picture.
_MOVES = (A.DualTransform, ResizeToInput, TightCrop)


class Augmented(NamedTuple):
    """One or two augmented crops.

    Attributes:
        pictures: RGB uint8 (size, size, 3) each, contiguous.
        share: of a mixed pair, see `PairMixup`; else None.
    """

    pictures: list[Picture]
    share: float | None


class Augmentation:
    """The transforms of one experiment."""

    def __init__(self, transforms: Sequence[Transform], model_input: ModelInput) -> None:
        """Compose the transforms.

        Args:
            transforms: in order.
            model_input: gives the size of augmented crops.
        """
        self._model_input = model_input
        self._compose = A.Compose(
            [*transforms, ResizeToInput()],
            additional_targets=dict.fromkeys(TARGETS[1:], "image"),
            is_check_shapes=False,
        )

    def __call__(
        self,
        pictures: Sequence[Picture],
        crops: Sequence[StoredCrop],
        seed: int,
        is_aligned: bool = False,
    ) -> Augmented:
        """Augment one crop, or both of a pair with the same parameters.

        Args:
            pictures: RGB uint8 (h, h, 3) each, of the same size.
            crops: what transforms may ask of each.
            seed: equal seeds draw equal parameters, whatever was augmented before.
            is_aligned: whether a pair shows the same square at the same moment.
        """
        self._compose.set_random_state(
            np.random.Generator(np.random.PCG64(seed)), random.Random(seed)
        )
        result = self._compose(
            **dict(zip(TARGETS, pictures, strict=False)),
            crops=crops,
            model_input=self._model_input,
            is_aligned=is_aligned,
        )
        augmented = [np.ascontiguousarray(result[target]) for target in TARGETS[: len(pictures)]]
        return Augmented(augmented, result.get("share"))


def create_augmentation(augment: Augment, model_input: ModelInput) -> Augmentation:
    """Create what `training.augment` describes.

    Raises:
        UnmaskError: see `create_transforms`.
    """
    return Augmentation(create_transforms(augment), model_input)


def create_transforms(augment: Augment) -> list[Transform]:
    """Create the transforms that `training.augment` describes, including those of its presets.

    Raises:
        UnmaskError: there is no such preset or transform, or a parameter is wrong; the message
            names the preset and the transform.
    """
    if isinstance(augment, str) and ":" in augment:
        created = import_object(augment, "training.augment")()
        if not isinstance(created, Sequence) or not all(isinstance(t, Transform) for t in created):
            raise UnmaskError(f"training.augment: {augment} returns no list of transforms")
        return list(created)
    entries = resolve_augment(augment)
    assert not isinstance(entries, str)
    created = _create_all(entries, "training.augment")
    moves = None
    for transform in created:
        needs_crop = any(isinstance(one, StoredCropTransform) for one in flatten(transform))
        if needs_crop and moves is not None:
            raise UnmaskError(
                f"training.augment: {_name(transform)} needs stored crops; move it before {moves}"
            )
        if any(isinstance(one, _MOVES) for one in flatten(transform)):
            moves = _name(transform)
    return created


def scoring_margin(augment: Augment) -> float | None:
    """Return the margin with which a model scores that trains with these transforms.

    It is the middle of the range of `TightCrop`; None, the whole stored crop, without one.
    """
    for transform in create_transforms(augment):
        for one in flatten(transform):
            if isinstance(one, TightCrop):
                return sum(one.margin) / 2
    return None


def flatten(transform: Transform) -> list[Transform]:
    """Return the transforms of a composition such as OneOf, or the transform itself."""
    if isinstance(transform, A.BaseCompose):
        return [leaf for one in transform.transforms for leaf in flatten(one)]
    return [transform]


def _name(transform: Transform) -> str:
    return type(transform).__name__


def _create_all(entries: Sequence[Mapping[str, Any]], where: str) -> list[Transform]:
    created: list[Transform] = []
    for entry in entries:
        if "preset" in entry:
            created += _create_all(entry["transforms"], f"augmentation {entry['preset']}")
        else:
            ((name, parameters),) = entry.items()
            created.append(_create(name, dict(parameters or {}), where))
    return created


def _create(name: str, parameters: dict[str, Any], where: str) -> Transform:
    """Create a transform from the name of its class and its parameters."""
    kind = _find_class(name, where)
    if "transforms" in parameters:
        parameters["transforms"] = _create_all(parameters["transforms"], f"{where}: {name}")
    try:
        with warnings.catch_warnings():
            # albumentations only warns of an unknown parameter.
            warnings.simplefilter("error")
            return kind(**parameters)
    except (TypeError, ValueError, UserWarning) as error:
        raise UnmaskError(f"{where}: {name}: {one_line(error)}") from None


def _find_class(name: str, where: str) -> type[Transform]:
    if ":" in name:
        kind = import_object(name, where)
    else:
        kind = getattr(transforms, name, None) or getattr(A, name, None)
    if isinstance(kind, type) and issubclass(kind, Transform):
        return kind
    known = [
        one
        for module in (transforms, A)
        for one, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Transform)
    ]
    near = difflib.get_close_matches(name, known, 1)
    remedy = f"did you mean {near[0]}?" if near else "see albumentations.ai/docs for their names"
    raise UnmaskError(f"{where}: there is no transform {name}; {remedy}")
