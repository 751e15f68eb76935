"""Faces are linked into people: gaps are filled, false faces and crowds are dropped."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.faces.detectors import Detections
from unmask.faces.tracks import Track, keep_people, link_faces

Box = tuple[float, float, float, float]


def detections(*faces: tuple[Box, float]) -> Detections:
    boxes = np.array([box for box, _ in faces], np.float32).reshape(-1, 4)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return Detections(
        boxes,
        np.array([score for _, score in faces], np.float32),
        np.repeat(centres[:, None], 5, axis=1),
    )


def link(seen: list[Detections], most: int = 2) -> list[Track]:
    """Link faces that were looked for in every frame, and keep the people."""
    return keep_people(link_faces(dict(enumerate(seen))), len(seen), most)


def square(x: float, y: float = 0, side: float = 100) -> Box:
    return (x, y, x + side, y + side)


def left_edges(track: Track) -> list[float]:
    return track.boxes[:, 0].tolist()


def test_a_person_is_one_track_and_a_gap_is_interpolated() -> None:
    seen = [detections((square(10 * i), 0.9)) for i in range(8)]
    seen[3] = seen[4] = detections()
    (track,) = link(seen)
    assert track.frames.tolist() == list(range(8))
    assert track.detected.tolist() == [True] * 3 + [False] * 2 + [True] * 3
    np.testing.assert_allclose(left_edges(track), [10 * i for i in range(8)], rtol=1e-5)
    np.testing.assert_allclose(track.landmarks[:, 0, 0], [50 + 10 * i for i in range(8)], rtol=1e-5)
    assert (track.scores[3:5] == 0).all()
    assert track.weight == pytest.approx(6 * 0.9)


def test_a_person_who_returns_after_a_while_is_a_new_track() -> None:
    face, nobody = detections((square(0), 0.9)), detections()
    tracks = link([face] * 3 + [nobody] * 8 + [face] * 4)
    assert [track.frames.tolist() for track in tracks] == [[11, 12, 13, 14], [0, 1, 2]]


def test_two_people_apart_are_never_swapped() -> None:
    rng = np.random.default_rng(0)
    seen = []
    for i in range(12):
        faces = [(square(3 * i), 0.9), (square(400 - 3 * i), 0.8)]
        seen.append(detections(*(faces[j] for j in rng.permutation(2))))
    first, second = link(seen)
    assert left_edges(first) == [3 * i for i in range(12)]
    assert left_edges(second) == [400 - 3 * i for i in range(12)]


def test_two_people_close_together_keep_their_boxes() -> None:
    seen = [detections((square(5 * i), 0.9), (square(5 * i + 60), 0.8)) for i in range(10)]
    first, second = link(seen)
    assert left_edges(first) == [5 * i for i in range(10)]
    assert left_edges(second) == [5 * i + 60 for i in range(10)]


def test_a_face_inside_a_face_is_dropped() -> None:
    seen = [detections((square(0), 0.8), (square(30, 30, 40), 0.95))] * 5
    (track,) = link(seen)
    assert left_edges(track) == [0] * 5


def test_a_false_face_in_a_single_frame_is_dropped() -> None:
    seen = [detections((square(0), 0.9))] * 12
    seen[5] = detections((square(0), 0.9), (square(400), 0.75))
    assert [left_edges(track)[0] for track in link(seen)] == [0]


def test_the_most_certain_people_are_kept() -> None:
    seen = [detections(*((square(200 * i), 0.7 + 0.05 * i) for i in range(4)))] * 6
    assert [left_edges(track)[0] for track in link(seen)] == [600, 400]
    assert len(link(seen, 4)) == 4


faces = st.tuples(
    st.integers(0, 300), st.integers(0, 200), st.integers(20, 120), st.floats(0.5, 1)
).map(lambda face: (square(*face[:3]), face[3]))


@given(seen=st.lists(st.lists(faces, max_size=5), max_size=12), most=st.integers(1, 3))
def test_no_frame_has_more_people_than_allowed(
    seen: list[list[tuple[Box, float]]], most: int
) -> None:
    tracks = link([detections(*one) for one in seen], most)
    people = np.zeros(len(seen), int)
    for track in tracks:
        people[track.frames] += 1
        assert (np.diff(track.frames) == 1).all()
        assert track.detected[[0, -1]].all()
        found = {tuple(np.float32(box)) for one in seen for box, _ in one}
        assert {tuple(box) for box in track.boxes[track.detected]} <= found
    assert (people <= most).all()
    assert bool(tracks) == any(seen)
    assert [t.weight for t in tracks] == sorted((t.weight for t in tracks), reverse=True)
