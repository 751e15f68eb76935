"""A folder of images is a video without a clock; with `faces.detector: none`, images are crops."""

from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from stages import crop_parts
from unmask.config import Config, FacesConfig, FramesConfig
from unmask.faces.shards import ShardReader
from unmask.robustness.shifted_clips import shift_video
from unmask.tables import FACES, PROBE, read_table
from unmask.videos.audio import encode_audio
from unmask.videos.images import image_files, image_times
from unmask.videos.source import VideoFile
from unmask.vocabulary import Status

Make = Callable[..., Path]
CONFIG = Config(frames=FramesConfig(per_video=4), faces=FacesConfig(size=64))
CROPS = CONFIG.model_copy(update={"faces": FacesConfig(size=64, detector="none")})


def write_images(clip: Path, folder: Path, name: str = "{:04d}.png", step: int = 1) -> Path:
    """Write every n-th frame of a clip as an image."""
    folder.mkdir(parents=True)
    with av.open(str(clip)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % step == 0:
                frame.to_image().save(folder / name.format(number))
    return folder


@pytest.mark.parametrize(
    ("names", "times"),
    [
        (["10.png", "2.png", "1.png"], [0.04, 0.08, 0.4]),
        (["frame_7.jpg", "frame_12.jpg"], [0.28, 0.48]),
        (["a.png", "b.png", "c1.webp"], [0, 0.04, 0.08]),
        (["01_0005.png", "02_0003.png"], [0, 0.04]),
    ],
)
def test_images_are_ordered_and_timed_by_the_numbers_in_their_names(
    names: list[str], times: list[float], tmp_path: Path
) -> None:
    for name in [*names, "notes.txt"]:
        (tmp_path / name).touch()
    files = image_files(tmp_path)
    assert {file.name for file in files} == set(names)
    assert image_times(files) == pytest.approx(times)


def test_the_frames_of_a_clip_give_its_crops(
    make_video: Make, make_part: Make, tmp_path: Path
) -> None:
    part = make_part(tmp_path / "part", {"clip.mp4": "REAL", "frames": "REAL"})
    make_video(part / "clip.mp4", (160, 120), 24, 25, b_frames=0)
    write_images(part / "clip.mp4", part / "frames")
    rows = crop_parts([part], tmp_path, CONFIG)
    assert {row["status"] for row in rows.values()} == {Status.OK}
    probe = read_table(tmp_path / "probe.parquet", PROBE).set_index("video")
    shown = ["video_width", "video_height", "video_nb_frames", "video_codec_name", "format"]
    assert probe.loc["frames", shown].tolist() == [160, 120, 24, "png", "images"]
    assert np.isnan(probe.loc["frames", "video_duration"])
    faces = read_table(tmp_path / "faces.parquet", FACES)
    clip, images = (faces[faces["video"] == name] for name in ("clip.mp4", "frames"))
    assert images["time"].to_numpy() == pytest.approx(clip["time"].to_numpy(), abs=0.05)
    for key in ("x0", "y0", "x1", "y1"):
        assert images[key].to_numpy() == pytest.approx(clip[key].to_numpy(), abs=2)
    reader = ShardReader(tmp_path)
    one, other = (reader.read_crop(faces.iloc[0].to_dict()) for faces in (clip, images))
    assert np.abs(one.astype(int) - other).mean() < 4


def test_with_no_detector_each_image_is_a_crop(make_part: Make, tmp_path: Path) -> None:
    part = make_part(tmp_path / "part", {"crops": "REAL"})
    pictures = {}
    for number, side in enumerate((64, 96, 51)):
        gradient = np.linspace(30 * number, 200, side, dtype=np.uint8)
        pictures[number] = np.stack([np.tile(gradient, (side, 1))] * 3, axis=2)
        (part / "crops").mkdir(exist_ok=True)
        cv2.imwrite(str(part / f"crops/{number}.png"), pictures[number])
    assert crop_parts([part], tmp_path, CROPS)["crops"]["status"] == Status.OK
    faces = read_table(tmp_path / "faces.parquet", FACES).to_dict("records")
    assert [face["track"] for face in faces] == [0, 0, 0]
    for number, face in enumerate(faces):
        side = len(pictures[number])
        width = face["x1"] - face["x0"]
        assert width * (1 + 2 * CROPS.faces.margin) == pytest.approx(side)
        assert face["x0"] + width / 2 == pytest.approx(side / 2)
        expected = cv2.resize(pictures[number], (64, 64), interpolation=cv2.INTER_AREA)
        stored = ShardReader(tmp_path).read_crop(face)
        assert np.abs(stored.astype(int) - expected).max() < 12


def test_damaged_images_cost_themselves_alone(
    make_video: Make, make_part: Make, tmp_path: Path
) -> None:
    names = ["some", "none", "empty", "50%d off"]
    part = make_part(tmp_path / "part", dict.fromkeys(names, "REAL"))
    write_images(make_video(tmp_path / "clip.mp4"), part / "some", step=8)
    write_images(tmp_path / "clip.mp4", part / "50%d off", "{:d}%03d.png", step=8)
    (part / "some/0008.png").write_bytes(b"no image")
    (part / "empty").mkdir()
    (part / "none").mkdir()
    (part / "none/1.jpg").write_bytes(b"no image")
    rows = crop_parts([part], tmp_path, CONFIG)
    assert (rows["some"]["status"], rows["some"]["frames"]) == (Status.OK, 2)
    assert "0008.png" in rows["some"]["detail"]
    assert (rows["50%d off"]["status"], rows["50%d off"]["frames"]) == (Status.OK, 3)
    statuses = read_table(tmp_path / "probe.parquet", PROBE).set_index("video")["status"]
    assert statuses[["none", "empty"]].tolist() == [Status.DECODE_ERROR, Status.MISSING]


def test_what_needs_a_clock_or_sound_works_without(make_video: Make, tmp_path: Path) -> None:
    write_images(make_video(tmp_path / "clip.mp4"), tmp_path / "frames")
    video = VideoFile(tmp_path, "frames")
    assert encode_audio(video, "wav") == (b"", {"detail": "images have no sound"})
    shifted = shift_video(video, CONFIG)
    assert {clip.frames for clip in shifted.values()} == {4}
