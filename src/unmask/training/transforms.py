"""Transforms that albumentations lacks or is slow at, used in the same lists.

A sample has one crop (target `image`) or two (`image` and `partner`), which get the same
parameters. Transforms that need more than pixels find it in `crops`, a `StoredCrop` for each
target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import albumentations as A
import cv2
import numpy as np
from albumentations.core.pydantic import nondecreasing
from albumentations.core.transforms_interface import BaseTransformInitSchema
from pydantic import AfterValidator, Field

from unmask.faces.images import cut_to_face
from unmask.training.backbones import ModelInput
from unmask.training.face_masks import Face, Points, fill_hull
from unmask.training.recompress import TUNES, Picture, recode

Interpolation = Literal["nearest", "linear", "cubic", "area"]
_INTERPOLATIONS: dict[Interpolation, int] = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}
_CRF = Annotated[int, Field(ge=0, le=51)]
_Share = Annotated[float, Field(ge=0)]
TARGETS = ("image", "partner")


@dataclass(frozen=True)
class StoredCrop:
    """What transforms may ask of a crop as long as its pixels have not been moved.

    Attributes:
        face: position of the face.
        neighbours: returns n crops of the track before this one, this one, and n after it, RGB
            uint8 (h, w, 3) each; at the ends of the track the last crop repeats.
    """

    face: Face
    neighbours: Callable[[int], list[Picture]]


class StoredCropTransform(A.ImageOnlyTransform):  # type: ignore[misc]
    """A transform that needs the `StoredCrop`, so it must precede whatever moves pixels.

    Subclasses implement `apply_to_crop(picture, crop, **params)`.
    """

    apply_to_crop: Callable[..., Picture]

    def apply_with_params(self, params: dict[str, Any], *args: Any, **data: Any) -> dict[str, Any]:
        """Transform each target with its own crop."""
        for target, crop in zip(TARGETS, data["crops"], strict=False):
            data[target] = self.apply_to_crop(data[target], crop, **params)
        return data


class LandmarkCutout(StoredCropTransform):
    """Blacken eyes, mouth, nose or half of the face, as DFDC's winner did.

    A part is a line between landmarks, as wide as half the distance of the eyes (eyes and nose) or
    two thirds of the mouth's width. The winner dilated a line of two pixels by a quarter and a
    third of these, which is the same up to the corners; the frequencies of the parts are the
    winner's too. Without landmarks it is always half of the face.
    """

    _PARTS = {"eyes": 0.35, "mouth": 0.175, "nose": 0.0875, "half": 0.06}  # noqa: RUF012

    def get_params(self) -> dict[str, Any]:
        """Draw the part, and which half."""
        random = self.py_random
        return {
            "part": random.choices(list(self._PARTS), list(self._PARTS.values()))[0],
            "horizontal": random.random() < 0.5,
            "first": random.random() < 0.5,
        }

    def apply_to_crop(
        self,
        picture: Picture,
        crop: StoredCrop,
        part: str,
        horizontal: bool,
        first: bool,
        **params: Any,
    ) -> Picture:
        """Return the crop with the part blackened."""
        five = crop.face.five()
        cut = picture.copy()
        if part == "half" or five is None:
            cut[_half_of(crop.face.hull(), picture.shape[:2], horizontal, first)] = 0
            return cut
        right_eye, left_eye, nose, right_mouth, left_mouth = five
        start, end, radius = {
            "eyes": (right_eye, left_eye, np.linalg.norm(left_eye - right_eye) / 4),
            "mouth": (right_mouth, left_mouth, np.linalg.norm(left_mouth - right_mouth) / 3),
            "nose": ((right_eye + left_eye) / 2, nose, np.linalg.norm(left_eye - right_eye) / 4),
        }[part]
        thickness = max(1, 2 * round(float(radius)) + 2)
        cv2.line(cut, _pixel(start), _pixel(end), (0, 0, 0), thickness)
        return cut


def _half_of(
    hull: Points, shape: tuple[int, ...], horizontal: bool, first: bool
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return the mask of one side of a hull, split through its centroid."""
    mask = fill_hull(hull, *shape[:2]) > 0
    x, y = hull.mean(axis=0)
    split = int(np.clip(y if horizontal else x, 0, shape[0 if horizontal else 1]))
    other = slice(split, None) if first else slice(0, split)
    mask[(other, slice(None)) if horizontal else (slice(None), other)] = False
    return mask


def _pixel(point: Points) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


class VideoCodec(StoredCropTransform):
    """Encode the crop and its neighbours in time with x264, and decode it, like an upload.

    Neighbours are as far apart as the sampled frames. By far the slowest transform: 5 to 10 ms.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        """Limits of the parameters."""

        crf_range: Annotated[tuple[_CRF, _CRF], AfterValidator(nondecreasing)]
        frames: Annotated[int, Field(ge=1, le=31)]

    def __init__(
        self, crf_range: tuple[int, int] = (17, 40), frames: int = 5, p: float = 0.5
    ) -> None:
        """Take the range of x264's constant rate factor, and the number of crops to encode."""
        super().__init__(p=p)
        self.crf_range = crf_range
        self.frames = frames

    def get_params(self) -> dict[str, Any]:
        """Draw the rate factor and x264's tuning."""
        return {
            "crf": self.py_random.randint(*self.crf_range),
            "tune": self.py_random.choice(TUNES),
        }

    def apply_to_crop(
        self, picture: Picture, crop: StoredCrop, crf: int, tune: str, **params: Any
    ) -> Picture:
        """Return the decoded crop."""
        reach = self.frames // 2
        pictures = crop.neighbours(reach)
        pictures[reach] = picture
        return recode(pictures, crf, tune)


class TightCrop(StoredCropTransform):
    """Cut the crop to the face box and a random margin on each side, a share of the box.

    Self-blended images were trained with 0.05 to 0.2. A model trained with this transform scores
    crops that are cut with the middle of the range; see `ModelInput.prepare`.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        """Limits of the parameters."""

        margin: Annotated[tuple[_Share, _Share], AfterValidator(nondecreasing)]

    def __init__(self, margin: tuple[float, float] = (0.04, 0.2), p: float = 1) -> None:
        """Take the range of the margin."""
        super().__init__(p=p)
        self.margin = margin

    def get_params(self) -> dict[str, Any]:
        """Draw the margins on the left, above, on the right and below."""
        return {"margins": self.random_generator.uniform(*self.margin, 4)}

    def apply_with_params(self, params: dict[str, Any], *args: Any, **data: Any) -> dict[str, Any]:
        """Cut the two of an aligned pair alike, though their boxes may differ."""
        if data["is_aligned"]:
            first, *others = data["crops"]
            data["crops"] = [first, *(first for _ in others)]
        return super().apply_with_params(params, *args, **data)

    def apply_to_crop(
        self,
        picture: Picture,
        crop: StoredCrop,
        margins: np.ndarray[Any, np.dtype[np.float64]],
        **params: Any,
    ) -> Picture:
        """Return a part of the crop."""
        return cut_to_face(picture, crop.face.box / np.float32(len(picture)), margins.tolist())


class PCANoise(A.ImageOnlyTransform):  # type: ignore[misc]
    """Add a colour along the principal components of the crop's colours (Krizhevsky et al., 2012).

    `std` is in units of each component's standard deviation. DFDC's winner took a tenth of the
    variance of values in [0, 1], which is about one level of 255. The FancyPCA of albumentations
    scales the crop along its components instead of adding to it, and takes ten times as long.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        """Limits of the parameters."""

        std: Annotated[float, Field(ge=0)]

    def __init__(self, std: float = 0.1, p: float = 0.5) -> None:
        """Take the standard deviation of the added colour."""
        super().__init__(p=p)
        self.std = std

    def get_params(self) -> dict[str, Any]:
        """Draw the weight of each component."""
        return {"weights": self.random_generator.normal(0, self.std, 3)}

    def apply(
        self, img: Picture, weights: np.ndarray[Any, np.dtype[np.float64]], **params: Any
    ) -> Picture:
        """Return the crop with one colour added."""
        few = img[::4, ::4].reshape(-1, 3).astype(np.float64)
        values, vectors = np.linalg.eigh(np.cov(few, rowvar=False))
        color = vectors @ (weights * np.sqrt(np.maximum(values, 0)))
        # OpenCV's stubs lack colours.
        return np.asarray(cv2.add(img, (*color.tolist(), 0.0)), np.uint8)  # type: ignore[call-overload]


class ResizeToInput(A.ImageOnlyTransform):  # type: ignore[misc]
    """Resize the crop to the model's input, so that later transforms have fewer pixels to change.

    It interpolates like scoring, or as one of `interpolations`: pairs of names for shrinking and
    for enlarging, each nearest, linear, cubic or area. Every list ends with one, added if
    necessary.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        """Limits of the parameters."""

        interpolations: list[tuple[Interpolation, Interpolation]] | None

    def __init__(
        self, interpolations: list[tuple[Interpolation, Interpolation]] | None = None, p: float = 1
    ) -> None:
        """Take the pairs to choose from."""
        super().__init__(p=p)
        self.interpolations = interpolations

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw the interpolations."""
        pair = self.py_random.choice(self.interpolations) if self.interpolations else None
        return {"pair": pair, "model_input": data["model_input"]}

    def apply(
        self,
        img: Picture,
        pair: tuple[Interpolation, Interpolation] | None,
        model_input: ModelInput,
        **params: Any,
    ) -> Picture:
        """Return the crop in the size of the model's input."""
        size, longest = model_input.size, max(img.shape[:2])
        if pair is None:
            return model_input.resize(img)
        interpolation = _INTERPOLATIONS[pair[0] if longest > size else pair[1]]
        return np.asarray(cv2.resize(img, (size, size), interpolation=interpolation), np.uint8)


class PairMixup(A.ImageOnlyTransform):  # type: ignore[misc]
    """Replace both crops of a pair, and their targets, by mixtures of both.

    NTech-Lab, third in the challenge, takes `(1 - t) real + t fake` with the target t, drawn from
    Beta(0.5, 0.5). Here the second crop becomes the reverse mixture, so that FAKE keeps its share
    of one half. Crops of different squares or moments are not mixed.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        """Limits of the parameters."""

        alpha: Annotated[float, Field(gt=0)]

    def __init__(self, alpha: float = 0.5, p: float = 0.5) -> None:
        """Take both parameters of the beta distribution."""
        super().__init__(p=p)
        self.alpha = alpha

    def get_params(self) -> dict[str, Any]:
        """Draw the share of the fake in the first of the pair."""
        return {"share": self.py_random.betavariate(self.alpha, self.alpha)}

    def apply_with_params(self, params: dict[str, Any], *args: Any, **data: Any) -> dict[str, Any]:
        """Mix the pair, and add its `share` to the result, for the targets."""
        if not data["is_aligned"]:
            return data
        real, fake, share = data["image"], data["partner"], params["share"]
        mixed = {
            target: np.asarray(cv2.addWeighted(real, 1 - t, fake, t, 0), np.uint8)
            for target, t in zip(TARGETS, (share, 1 - share), strict=True)
        }
        return data | mixed | {"share": share}
