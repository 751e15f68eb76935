"""Few detections find every person in a video, and no printed face."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import FACE_HEIGHT, SIZE, Head, Picture, film, mood_at, paste, sway

from unmask.config import FacesConfig
from unmask.faces.boxes import iou
from unmask.faces.crops import crop_video
from unmask.faces.detectors import Detections, Detector, create_detector
from unmask.faces.images import decode_jpeg
from unmask.faces.search import Search, detect_faces, find_faces
from unmask.videos.frames import Frame, SampledVideo

Scene = Callable[[float], Sequence[Head]]


class Counting:
    """A detector that keeps the sizes of the pictures it was shown."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self.sizes: list[int] = []

    def __call__(self, picture: NDArray[np.uint8]) -> Detections:
        self.sizes.append(max(picture.shape))
        return self._detector(picture)


@pytest.fixture
def detector(faces_config: FacesConfig) -> Counting:
    return Counting(create_detector(faces_config))


def alive(x: float, y: float, height: float = 90, reach: float = 6, mood: float = 1) -> Scene:
    """Someone who talks and does not quite keep still."""

    def scene(time: float) -> list[Head]:
        moved = x + sway(time, reach), y + sway(time + 3, reach / 2)
        return [Head(*moved, height, mood * mood_at(time + x))]

    return scene


def still(x: float, y: float, height: float = 90) -> Scene:
    return lambda _: [Head(x, y, height)]


def together(*scenes: Scene) -> Scene:
    return lambda time: [head for scene in scenes for head in scene(time)]


def centres(search: Search) -> list[tuple[int, int]]:
    """Return where the people of a search are on average, to 10 pixels."""
    boxes = [track.boxes.mean(axis=0) for track in search.tracks]
    return [(10 * round((x0 + x1) / 20), 10 * round((y0 + y1) / 20)) for x0, y0, x1, y1 in boxes]


def assert_boxes_fit(
    search: Search, frames: Sequence[Frame], config: FacesConfig, people: int = 1
) -> None:
    """Assert that in every frame each crop has what a crop of the box detected there would have."""
    detector = create_detector(config)
    people_in_frame = np.zeros(len(frames), int)
    for track in search.tracks:
        people_in_frame[track.frames] += 1
        sides = (track.boxes[:, 2:] - track.boxes[:, :2]).max(axis=1)
        half = np.median(sides) * (1 + 2 * config.margin) / 2
        for frame, box in zip(track.frames, track.boxes, strict=True):
            found = detect_faces(frames[frame], detector, config).boxes
            crops = squares_around(found, half)
            assert iou(squares_around(box[None], half), crops).max() >= 0.8, frame
            assert iou(box[None], found).max() >= 0.6, frame
    assert (people_in_frame == people).all()


def squares_around(boxes: NDArray[np.float32], half: float) -> NDArray[np.float32]:
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.concatenate([middles - half, middles + half], axis=1)


def test_a_still_face_needs_few_detections(detector: Counting, faces_config: FacesConfig) -> None:
    frames = film(alive(320, 180))
    search = find_faces(frames, detector, faces_config)
    assert search.detections == len(detector.sizes) == 9
    assert not search.reused
    assert search.size == SIZE
    assert [track.frames.tolist() for track in search.tracks] == [list(range(32))]
    assert_boxes_fit(search, frames, faces_config)


def test_a_jumping_face_is_detected_around_the_jump(
    detector: Counting, faces_config: FacesConfig
) -> None:
    frames = film(lambda time: [Head(150 if time < 4.5 else 450, 180, 90, mood_at(time))])
    search = find_faces(frames, detector, faces_config)
    assert search.detections <= 12
    assert sorted(track.frames.tolist() for track in search.tracks) == [
        *(list(range(15)), list(range(15, 32)))
    ]
    for track in search.tracks:
        assert track.detected[[0, -1]].all()
    assert_boxes_fit(search, frames, faces_config)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 31, 33])
def test_a_track_covers_clips_of_any_length(
    count: int, detector: Counting, faces_config: FacesConfig
) -> None:
    search = find_faces(film(alive(320, 180), count), detector, faces_config)
    (track,) = search.tracks
    assert track.frames.tolist() == list(range(count))
    assert track.detected[[0, -1]].all()


def test_without_a_face_all_frames_are_searched_at_both_sizes(
    detector: Counting, faces_config: FacesConfig
) -> None:
    search = find_faces(film(lambda _: []), detector, faces_config)
    assert (search.tracks, search.detections) == ([], 32)
    assert sorted(detector.sizes) == [320] * 32 + [640] * 32


def test_a_face_that_appears_briefly_is_found(
    detector: Counting, faces_config: FacesConfig
) -> None:
    frames = film(lambda time: [Head(320, 180, 90, mood_at(time))] if 5.2 < time < 5.9 else [])
    search = find_faces(frames, detector, faces_config)
    assert [track.frames.tolist() for track in search.tracks] == [[17, 18]]
    assert search.detections == 32


def test_a_small_face_is_found_at_the_fallback_size(
    detector: Counting, faces_config: FacesConfig
) -> None:
    frames = film(alive(700, 300, 45), 5, size=(1280, 720))
    search = find_faces(frames, detector, faces_config)
    assert search.detections == 2
    assert detector.sizes == [320, 640] * 2
    assert centres(search) == [(700, 300)]
    without = faces_config.model_copy(update={"fallback_size": 320})
    assert find_faces(frames, detector, without).tracks == []


def board(reach: float = 0) -> Scene:
    """A portrait on the wall beside someone, before a camera that shakes so much."""

    def scene(time: float) -> list[Head]:
        x, y = sway(time, reach), sway(time + 1, reach / 2)
        (person,) = alive(420, 200, 110)(time)
        return [Head(120 + x, 90 + y, 60), Head(person.x + x, person.y + y, 110, person.mood)]

    return scene


def shirt(reach: float) -> Scene:
    """Someone with a face printed on the chest."""

    def scene(time: float) -> list[Head]:
        (person,) = alive(320, 130, 100, reach)(time)
        return [person, Head(person.x, person.y + 150, 48)]

    return scene


def face_in_face(time: float) -> list[Head]:
    (person,) = alive(320, 180, 220)(time)
    return [person, Head(person.x, person.y - 80, 50)]


def flicker(time: float) -> list[Head]:
    ghost = [Head(120, 120, 80, mood_at(time))] if 4.3 < time < 5.3 else []
    return [*alive(420, 180, 100)(time), *ghost]


unregistered = pytest.mark.xfail(
    reason="a box's jitter changes a small print more than talking changes a face", strict=True
)


@pytest.mark.parametrize(
    ("scene", "person"),
    [
        pytest.param(board(), (420, 200), id="a portrait on the wall"),
        pytest.param(board(10), (420, 200), id="before a camera that moves", marks=unregistered),
        pytest.param(
            together(still(120, 160, 110), alive(440, 180, 100)), (440, 180), id="a poster"
        ),
        pytest.param(shirt(6), (320, 120), id="a print on a shirt"),
        pytest.param(shirt(20), (320, 120), id="on one that moves"),
        pytest.param(face_in_face, (320, 180), id="a face inside a face"),
        pytest.param(flicker, (420, 180), id="a flicker"),
    ],
)
def test_a_face_that_is_no_person_is_dropped(
    scene: Scene, person: tuple[int, int], detector: Counting, faces_config: FacesConfig
) -> None:
    frames = film(scene)
    both = detect_faces(frames[16 if scene is flicker else 12], detector, faces_config)
    assert len(both) == 2  # or there is nothing to weed
    search = find_faces(frames, detector, faces_config)
    assert len(search.tracks) == 1
    assert np.abs(np.subtract(centres(search)[0], person)).max() <= 20


@pytest.mark.parametrize(
    ("scene", "people"),
    [
        (together(alive(180, 180), alive(460, 170, 80)), {(180, 180), (460, 180)}),
        (together(alive(180, 180), alive(460, 170, 80, mood=0.4)), {(180, 180), (460, 180)}),
        (together(alive(180, 180, 120), alive(460, 170, 60, 2)), {(180, 180), (460, 180)}),
        (still(320, 180), {(320, 180)}),
        (together(still(180, 180), still(460, 180)), {(180, 180), (460, 180)}),
    ],
    ids=["two people", "one talks less", "one far away", "one photograph", "two photographs"],
)
def test_people_are_kept(
    scene: Scene, people: set[tuple[int, int]], detector: Counting, faces_config: FacesConfig
) -> None:
    frames = film(scene)
    search = find_faces(frames, detector, faces_config)
    found = centres(search)
    assert len(found) == len(people)
    for x, y in people:
        assert any(abs(x - a) <= 20 and abs(y - b) <= 20 for a, b in found)
    assert_boxes_fit(search, frames, faces_config, len(people))


ORIGINAL = alive(320, 180, 90, 30)


def other_mood(picture: Picture, time: float) -> Picture:
    """Swap the face: other features at the same place, in other colours."""
    (head,) = ORIGINAL(time)
    swapped = picture.copy()
    paste(swapped, Head(head.x, head.y, head.height, -head.mood + 2))
    return face_altered(picture, np.clip(swapped * [1.0, 0.9, 0.85], 0, 255), time)


def blurred(picture: Picture, time: float) -> Picture:
    return face_altered(picture, cv2.GaussianBlur(picture, (0, 0), 2.5), time)


def brighter(picture: Picture, time: float) -> Picture:
    return face_altered(picture, np.clip(picture * 1.25, 0, 255), time)


def face_altered(picture: Picture, altered: NDArray[np.generic], time: float) -> Picture:
    """Return a picture whose face alone is that of another."""
    (head,) = ORIGINAL(time)
    mask = np.zeros(picture.shape[:2], np.float32)
    centre = round(head.x), round(head.y + 10)
    cv2.ellipse(mask, centre, (33, 44), 0, 0, 360, 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 2)[..., None]
    return np.asarray(picture * (1 - mask) + altered * mask, np.uint8)


def moved(right: float, down: float, scale: float = 1.0) -> Callable[[Picture, float], Picture]:
    """Move the picture by shares of the face, or scale it about the face's middle."""

    def alter(picture: Picture, time: float) -> Picture:
        (head,) = ORIGINAL(time)
        x = head.x * (1 - scale) + right * FACE_WIDTH
        y = head.y * (1 - scale) + down * head.height
        matrix = np.array([[scale, 0, x], [0, scale, y]])
        warped = cv2.warpAffine(picture, matrix, SIZE, borderMode=cv2.BORDER_REFLECT)
        return np.asarray(warped, np.uint8)

    return alter


def smaller(picture: Picture, _: float) -> Picture:
    return np.asarray(cv2.resize(picture, (480, 270), interpolation=cv2.INTER_AREA), np.uint8)


FACE_WIDTH = 90 / FACE_HEIGHT * 88  # pixels, as the detector boxes it


@pytest.fixture(scope="module")
def reference(faces_config: FacesConfig) -> Search:
    return find_faces(film(ORIGINAL), create_detector(faces_config), faces_config)


@pytest.mark.parametrize("alter", [None, blurred, brighter, other_mood, moved(0.02, 0.02)])
def test_a_fake_reuses_the_tracks_of_its_original(
    alter: Callable[[Picture, float], Picture] | None,
    reference: Search,
    detector: Counting,
    faces_config: FacesConfig,
) -> None:
    frames = film(ORIGINAL, alter=alter)
    search = find_faces(frames, detector, faces_config, reference)
    assert search.reused
    assert search.detections == len(detector.sizes) == 4
    for track, expected in zip(search.tracks, reference.tracks, strict=True):
        np.testing.assert_allclose(track.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_array_equal(track.scores, expected.scores)
        assert not track.detected.any()
    assert_boxes_fit(search, frames, faces_config)


@pytest.mark.parametrize("seconds", [9.95, 8.0])
def test_a_shorter_fake_reuses_tracks_at_its_own_times(
    seconds: float, reference: Search, detector: Counting, faces_config: FacesConfig
) -> None:
    frames = film(ORIGINAL, seconds=seconds)
    search = find_faces(frames, detector, faces_config, reference)
    assert search.reused
    assert [track.frames.tolist() for track in search.tracks] == [list(range(32))]
    assert_boxes_fit(search, frames, faces_config)


@pytest.mark.parametrize(
    "change",
    [
        {"alter": moved(0.1, 0)},
        {"alter": moved(0, -0.1)},
        {"alter": moved(0.07, 0.07)},
        {"alter": moved(0, 0, 1.15)},
        {"alter": moved(0, 0, 0.87)},
        {"alter": lambda picture, _: np.ascontiguousarray(picture[:, ::-1])},
        {"alter": smaller},
        {"alter": lambda picture, _: np.ascontiguousarray(picture[:, :600])},
        {"start": 1.0},
        {"start": 0.6},
        {"seconds": 12.0},
        {"start": 30.0},
    ],
    ids=[
        *("aside", "up", "both", "larger", "less large", "mirrored", "another size", "cut"),
        *("a second later", "half a second later", "longer", "another take"),
    ],
)
def test_a_fake_that_does_not_fit_its_original_is_searched(
    change: dict[str, object], reference: Search, detector: Counting, faces_config: FacesConfig
) -> None:
    frames = film(ORIGINAL, **change)  # type: ignore[arg-type]
    search = find_faces(frames, detector, faces_config, reference)
    assert not search.reused
    afresh = find_faces(frames, detector, faces_config)
    assert len(search.tracks) == 1
    assert_boxes_fit(search, frames, faces_config)
    # Those of the search itself, give or take the frames that the check looked at.
    np.testing.assert_allclose(search.tracks[0].boxes, afresh.tracks[0].boxes, atol=4)
    crops = crop_video(SampledVideo(frames), detector, faces_config, reference).crops
    assert len(crops) == 32
    assert all(decode_jpeg(crop.jpeg, "").shape == (64, 64, 3) for crop in crops)


def test_a_fake_without_one_of_two_people_is_searched(
    detector: Counting, faces_config: FacesConfig
) -> None:
    both = together(alive(180, 180), alive(460, 170))
    reference = find_faces(film(both), detector, faces_config)
    assert len(reference.tracks) == 2
    assert find_faces(film(both), detector, faces_config, reference).reused
    search = find_faces(film(alive(180, 180)), detector, faces_config, reference)
    assert not search.reused
    assert centres(search) == [(180, 180)]


def test_reference_without_face_is_ignored(detector: Counting, faces_config: FacesConfig) -> None:
    nobody = find_faces(film(lambda _: []), detector, faces_config)
    search = find_faces(film(ORIGINAL), detector, faces_config, nobody)
    assert not search.reused
    assert len(search.tracks) == 1
    reference = find_faces(film(ORIGINAL), detector, faces_config)
    assert not find_faces([], detector, faces_config, reference).tracks
    assert not find_faces(film(lambda _: []), detector, faces_config, reference).tracks
