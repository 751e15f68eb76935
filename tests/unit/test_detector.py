"""`unmask.load`: what a bundle predicts for videos and pictures, and for files that are neither."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import unmask
from clips import draw_people
from records import write_bundle
from unmask.errors import UnmaskError
from unmask.inference.detector import DeepfakeDetector
from unmask.inference.properties import TrainingData
from unmask.kaggle.submission import predict
from unmask.vocabulary import Status

MakeVideo = Callable[..., Path]
RANGES = {"height": (700.0, 1080.0), "frame_rate": (20.0, 30.0), "face_width": (10.0, 500.0)}
DATA = TrainingData({"REAL": 9, "FAKE": 8}, {"swap": 8}, {"own": 17}, {"hevc": 17}, RANGES)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"), DATA)


@pytest.fixture(scope="module")
def detector(bundle: Path) -> DeepfakeDetector:
    return unmask.load(bundle)


@pytest.fixture(scope="module")
def clips(make_video: MakeVideo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_video(folder / "two.mp4", (640, 240), frames=8, people=2)
    make_video(folder / "nobody.mp4", frames=8, people=0)
    (folder / "broken.mp4").write_bytes(b"not a video")
    return folder


def test_a_video_has_a_probability_for_each_track_and_face(
    detector: DeepfakeDetector, clips: Path
) -> None:
    found = detector.predict(clips / "two.mp4")
    assert (found.video, found.status, found.detail) == (str(clips / "two.mp4"), Status.OK, "")
    assert found.frames == 3
    assert [track.track for track in found.tracks] == [0, 1]
    faces = [face for track in found.tracks for face in track.faces]
    assert len(faces) == 6
    of_video, of_tracks = found.probability, [track.probability for track in found.tracks]
    assert of_video is not None
    assert min(of_tracks) < of_video < max(of_tracks)
    for track in found.tracks:
        values = [face.probability for face in track.faces]
        assert min(values) <= track.probability <= max(values)
        assert [face.time for face in track.faces] == sorted(face.time for face in track.faces)
        assert all(0 < face.box[0] < face.box[2] <= 640 for face in track.faces)


def test_it_predicts_what_is_submitted_to_kaggle(
    bundle: Path, detector: DeepfakeDetector, clips: Path, tmp_path: Path
) -> None:
    sample, output = tmp_path / "sample.csv", tmp_path / "submission.csv"
    sample.write_text("filename,label\ntwo.mp4,0.5\n")
    predict(bundle, clips, sample, output, threads=1)
    submitted = float(output.read_text().split(",")[-1])
    assert detector.predict(clips / "two.mp4").probability == pytest.approx(submitted, abs=1e-6)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_seen_has_a_reason_and_no_probability(
    workers: int, bundle: Path, clips: Path
) -> None:
    names = ("broken.mp4", "two.mp4", "nobody.mp4")
    detector = unmask.load(bundle, device="cpu", workers=workers)
    broken, two, nobody = detector.predict_many(clips / name for name in names)
    assert (broken.status, broken.probability) == (Status.UNREADABLE, None)
    assert (nobody.status, nobody.probability) == (Status.NO_FACE, None)
    assert broken.detail
    assert nobody.detail == "no face in 3 frames"
    assert two.probability is not None
    assert (broken.tracks, nobody.tracks) == ([], [])


def test_the_prior_moves_all_probabilities(
    bundle: Path, detector: DeepfakeDetector, clips: Path
) -> None:
    even = detector.predict(clips / "two.mp4").probability
    rare = unmask.load(bundle, prior=0.01).predict(clips / "two.mp4").probability
    assert even is not None
    assert rare == pytest.approx(1 / (1 + 99 * (1 - even) / even))


def test_differences_from_the_training_videos_are_named(
    detector: DeepfakeDetector, clips: Path
) -> None:
    picture, codec = detector.predict(clips / "two.mp4").differences
    assert picture.startswith("Its picture is lower than in 95 % of the training videos: 240 pix")
    assert "encoded with h264" in codec


def test_pictures_are_predicted_each_for_itself(detector: DeepfakeDetector) -> None:
    one = draw_people((320, 240), 1, (0.5, 0.5), 0.0)
    nobody = draw_people((320, 240), 0, (0.5, 0.5), 0.0)
    first, nothing, again = detector.predict_images(np.stack([one, nobody, one]))
    assert len(first.faces) == 1
    assert first.probability == pytest.approx(again.probability, abs=1e-6)
    assert first.probability == pytest.approx(first.faces[0].probability)
    assert (nothing.probability, nothing.faces) == (None, [])


def test_an_embedding_has_a_row_per_face(detector: DeepfakeDetector, clips: Path) -> None:
    of_video = detector.embed(clips / "two.mp4")
    assert of_video.shape == (6, 256)
    assert of_video.dtype == np.float32
    picture = draw_people((320, 240), 1, (0.5, 0.5), 0.0)
    assert detector.embed(picture[None]).shape == (1, 256)
    with pytest.raises(UnmaskError, match=r"nobody\.mp4: no face"):
        detector.embed(clips / "nobody.mp4")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda bundle: unmask.load(bundle.parent), "not a bundle"),
        (lambda bundle: unmask.load(bundle, device="cuda:99"), "device: cuda:99"),
        (lambda bundle: unmask.load(bundle, prior=1.0), "prior: 1"),
        (lambda bundle: unmask.load(bundle).predict("absent.mp4"), r"absent\.mp4: no such file"),
        (lambda bundle: unmask.load(bundle).predict_images(np.zeros((2, 2, 3))), "uint8"),
    ],
)
def test_a_mistake_is_one_line(call: Callable[[Path], object], message: str, bundle: Path) -> None:
    with pytest.raises(UnmaskError, match=message) as caught:
        call(bundle)
    assert "\n" not in str(caught.value)


def test_importing_the_package_imports_nothing_large() -> None:
    code = "import sys, unmask; sys.exit(bool({'numpy', 'pydantic', 'torch'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", code], check=True)
