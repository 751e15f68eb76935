"""Shifts do what their names say, reproducibly, and every video has a status."""

import hashlib
import io
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from clips import PORTRAIT
from unmask.config import Config
from unmask.faces.crops import CroppedVideo
from unmask.faces.images import decode_jpeg
from unmask.faces.shards import ShardReader
from unmask.robustness import shifted_clips
from unmask.robustness.shifted_clips import (
    choose_families,
    encode_shifts,
    shift_shard,
    shift_video,
)
from unmask.robustness.shifts import SHIFTS, draw_shift
from unmask.tables import (
    PROBE,
    SHIFT_SAMPLE,
    SHIFTED_FACES,
    SHIFTED_VIDEOS,
    read_table,
    write_table,
)
from unmask.videos.color import picture_bgr
from unmask.videos.sampling import first_frames
from unmask.videos.source import VideoFile
from unmask.vocabulary import Status

MakeVideo = Callable[..., Path]
Pictures = NDArray[np.uint8]

# Figures are compared over years and machines. A shift whose digest changes is another shift: give
# it another name.
DIGESTS = {
    "clean": "e1e2396e8370bedc",
    "fps_15": "11ea608f057897b6",
    "quarter_resolution": "f821b1e47d3523a3",
    "crf_23_40": "212add70bba52f3b",
    "noise": "44bb1444f11092f4",
    "blur": "6a8d695224b1e403",
    "gamma": "40ccacdda2cba4ad",
    "flip": "1575d2491fd38a2c",
    "text": "05e5118cf728bd73",
    "shapes": "a28d34cb68dbbdeb",
    "grayscale": "92aab0b7d0cdd7e7",
}


@pytest.mark.parametrize("name", SHIFTS)
def test_shifts_are_frozen(name: str) -> None:
    picture = np.ascontiguousarray(PORTRAIT[:360, :480, ::-1])
    digest = hashlib.sha256()
    for video in ("aaa.mp4", "bbb.mp4"):
        shift = draw_shift(name, video, *picture.shape[:2])
        digest.update(f"{shift.rate} {shift.crf}".encode())
        for index in (0, 1, 50):
            digest.update(shift.change(picture, index).tobytes())
    assert digest.hexdigest()[:16] == DIGESTS[name]


def decode(clip: bytes) -> tuple[Pictures, list[float]]:
    """Return the pictures of a clip, BGR uint8 (n, h, w, 3), and their times in seconds."""
    frames = list(first_frames(io.BytesIO(clip), 60))
    pictures = [picture_bgr(frame, frame.width, frame.height) for frame in frames]
    return np.stack(pictures), [frame.time for frame in frames]


@pytest.fixture(scope="module")
def clip(make_video: MakeVideo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second and a half at 30 frames per second."""
    path = tmp_path_factory.mktemp("shifts") / "clip.mp4"
    return make_video(path, size=(320, 240), frames=45, fps=30)


@pytest.fixture(scope="module")
def shifted(clip: Path) -> dict[str, Pictures]:
    """The first second of the clip under each shift."""
    clips = encode_shifts(f"file:{clip}", clip.name, 1.0)
    return {name: decode(data)[0] for name, data in clips.items()}


def mean_difference(one: Pictures, other: Pictures) -> float:
    return float(np.abs(np.subtract(one, other, dtype=np.int16)).mean())


def sharpness(picture: Pictures) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var())


def test_a_shift_depends_on_the_name_of_the_video_alone(clip: Path) -> None:
    first, again, other = (
        encode_shifts(f"file:{clip}", name, 0.2) for name in ("a.mp4", "a.mp4", "b.mp4")
    )
    assert list(first) == list(SHIFTS)
    assert first == again
    drawn = {"crf_23_40", "noise", "blur", "gamma", "text", "shapes"}
    assert {name for name in SHIFTS if first[name] != other[name]} == drawn


def test_the_clean_clip_is_the_beginning_of_the_video(
    clip: Path, shifted: dict[str, Pictures]
) -> None:
    whole, _ = decode(clip.read_bytes())
    assert shifted["clean"].shape == whole[:30].shape
    # Chroma is halved again, and no more is lost.
    assert mean_difference(shifted["clean"], whole[:30]) < 1.5


def test_the_slow_clip_has_every_second_frame_at_its_time(
    clip: Path, shifted: dict[str, Pictures]
) -> None:
    pictures, times = decode(encode_shifts(f"file:{clip}", clip.name, 1.0)["fps_15"])
    np.testing.assert_allclose(np.diff(times), 1 / 15, atol=1e-3)
    assert len(pictures) == 15
    assert mean_difference(pictures, shifted["clean"][::2]) < 1
    assert mean_difference(pictures, shifted["clean"][1::2]) > 1.5


def test_a_clip_of_15_frames_per_second_or_fewer_keeps_all(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    for fps in (10, 15):
        slow = make_video(tmp_path / f"{fps}.mp4", frames=fps, fps=fps)
        assert len(decode(encode_shifts(f"file:{slow}", slow.name, 9.0)["fps_15"])[0]) == fps


def test_the_small_clip_shows_the_same_on_a_quarter_of_the_pixels(
    shifted: dict[str, Pictures],
) -> None:
    small = shifted["quarter_resolution"]
    assert small.shape == (30, 120, 160, 3)
    halved = np.stack(
        [cv2.resize(one, (160, 120), interpolation=cv2.INTER_AREA) for one in shifted["clean"]]
    )
    assert mean_difference(small, halved) < 2


def test_the_compressed_clip_is_smaller(clip: Path) -> None:
    clips = encode_shifts(f"file:{clip}", clip.name, 1.0)
    assert len(clips["crf_23_40"]) < 0.2 * len(clips["clean"])
    crfs = {draw_shift("crf_23_40", f"{index}.mp4", 240, 320).crf for index in range(200)}
    assert (min(crfs), max(crfs)) == (23, 40)


def test_pictures_are_changed_as_the_names_say(shifted: dict[str, Pictures]) -> None:
    clean = shifted["clean"]
    assert mean_difference(shifted["flip"], clean[:, :, ::-1]) < 1
    assert np.ptp(clean.astype(np.int16), axis=3).mean() > 10
    assert np.ptp(shifted["grayscale"].astype(np.int16), axis=3).mean() < 0.5
    assert sharpness(shifted["blur"][0]) < 0.5 * sharpness(clean[0])
    assert shifted["blur"].mean() == pytest.approx(clean.mean(), rel=0.02)
    noise = shifted["noise"].astype(np.float64) - clean
    assert abs(noise.mean()) < 2
    assert 3 < noise.std() < 16
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.3
    change = shifted["gamma"].astype(np.float64) - clean
    assert abs(change.mean()) > 8
    assert (np.sign(change) == np.sign(change.mean()))[np.abs(change) > 6].mean() > 0.99
    for name in ("text", "shapes"):
        distance = np.abs(np.subtract(shifted[name], clean, dtype=np.int16)).max(axis=3)
        covered = distance > 30
        assert 0.005 < covered.mean() < 0.3
        assert (distance[~covered] < 8).mean() > 0.9
        assert (covered[0] != covered[-1]).mean() > 0.002  # it moves


def test_odd_sizes_rotation_and_a_varying_rate_are_kept(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    odd = make_video(tmp_path / "odd.mp4", size=(161, 121), pix_fmt="yuv444p", frames=4)
    pictures, _ = decode(encode_shifts(f"file:{odd}", "odd.mp4", 1.0)["clean"])
    assert pictures.shape == (4, 122, 162, 3)
    turned = make_video(tmp_path / "turned.mp4", size=(120, 160), rotation=90, frames=4)
    pictures, _ = decode(encode_shifts(f"file:{turned}", "turned.mp4", 1.0)["clean"])
    assert pictures.shape == (4, 160, 120, 3)
    milliseconds = [0, 20, 110, 130, 400]
    varying = make_video(tmp_path / "varying.mp4", frames=5, milliseconds=milliseconds)
    _, times = decode(encode_shifts(f"file:{varying}", "varying.mp4", 1.0)["clean"])
    np.testing.assert_allclose(times, np.array(milliseconds) / 1000, atol=1e-3)


def videos_of(families: int, folds: int) -> pd.DataFrame:
    """Return an original and two fakes of each family."""
    rows = [
        ("part", f"{family:02d}{kind}.mp4", f"{family:02d}.mp4", family % folds)
        for family in range(families)
        for kind in ("", "x", "y")
    ]
    return pd.DataFrame(rows, columns=["part", "video", "family", "fold"])


def test_whole_families_are_sampled_evenly_and_samples_are_nested() -> None:
    videos = videos_of(20, 2)
    before: set[str] = set()
    for count in (1, 6, 18, 60, 1000):
        chosen = choose_families(videos, count)
        assert (chosen.groupby("family").size() == 3).all()
        assert len(chosen) == min(max(6, count), len(videos))
        assert chosen["fold"].value_counts().max() - chosen["fold"].value_counts().min() == 0
        assert before <= set(chosen["video"])
        before = set(chosen["video"])


@pytest.fixture(scope="module")
def shard(worked_part: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worked part's shifted shard: two families, of which one has a file that is no video."""
    folder = tmp_path_factory.mktemp("shifted")
    probe = read_table(worked_part / "probe.parquet", PROBE)
    write_table(probe[probe["video"] != "b.mp4"].assign(fold=0), SHIFT_SAMPLE, folder / "sample")
    shift_worked_part(worked_part, folder, Config())
    return folder


def shift_worked_part(worked_part: Path, folder: Path, config: Config) -> None:
    small = {
        "frames": {"per_video": 4},
        "faces": {"size": 64},
        "evaluation": {"shift_seconds": 0.5},
    }
    shift_shard(
        [worked_part / "part"],
        worked_part / "probe.parquet",
        folder / "sample",
        Config.model_validate(small | config.model_dump(include={"limits"})),
        2,
        folder / "part-00.tar",
        folder / "part-00.parquet",
        folder / "part-00.videos.parquet",
    )


def test_every_shifted_video_has_crops_or_a_reason(shard: Path) -> None:
    outcomes = read_table(shard / "part-00.videos.parquet", SHIFTED_VIDEOS)
    chosen = {"a.mp4", "c.mp4", "d.mp4", "nobody.mp4", "broken.mp4"}
    pairs = set(outcomes[["shift", "video"]].itertuples(index=False, name=None))
    assert pairs == {(shift, video) for shift in SHIFTS for video in chosen}
    statuses = outcomes.groupby("video")["status"].agg(set)
    assert statuses["broken.mp4"] == {Status.DECODE_ERROR}
    assert statuses["nobody.mp4"] == {Status.NO_FACE}
    of_people = outcomes[outcomes["video"].isin(["a.mp4", "c.mp4", "d.mp4"])]
    assert (of_people.loc[of_people["shift"] == "clean", "status"] == Status.OK).all()
    assert (of_people["status"] == Status.OK).mean() > 0.8
    assert (outcomes.loc[outcomes["status"] != Status.OK, "detail"] != "").all()
    assert (outcomes.loc[outcomes["status"] != Status.OK, "crops"] == 0).all()


def test_the_index_finds_each_shifted_crop(shard: Path) -> None:
    index = read_table(shard / "part-00.parquet", SHIFTED_FACES)
    outcomes = read_table(shard / "part-00.videos.parquet", SHIFTED_VIDEOS)
    assert len(index) == outcomes["crops"].sum() > 100
    assert not index["key"].duplicated().any()
    reader = ShardReader(shard)
    crops = {
        row.shift: decode_jpeg(reader.read(row.shard, row.offset, row.size), row.key)
        for row in index[(index["video"] == "a.mp4") & (index["frame"] == 0)].itertuples()
    }
    assert crops["clean"].shape == (64, 64, 3)
    assert np.ptp(crops["grayscale"].astype(np.int16), axis=2).mean() < 3
    assert mean_difference(crops["flip"][:, ::-1], crops["clean"]) < mean_difference(
        crops["flip"], crops["clean"]
    )


def hang_on_one(video: VideoFile, config: Config) -> dict[str, CroppedVideo]:
    if video.name == "a.mp4":
        time.sleep(100)
    return shift_video(video, config)


def test_a_video_that_takes_too_long_costs_itself_alone(
    worked_part: Path, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sample").write_bytes((shard / "sample").read_bytes())
    monkeypatch.setattr(shifted_clips, "shift_video", hang_on_one)
    shift_worked_part(
        worked_part, tmp_path, Config.model_validate({"limits": {"seconds": 6, "retries": 0}})
    )
    tables = [folder / "part-00.videos.parquet" for folder in (tmp_path, shard)]
    outcomes, expected = (read_table(path, SHIFTED_VIDEOS).set_index("video") for path in tables)
    assert set(outcomes.loc["a.mp4", "status"]) == {Status.TIMEOUT}
    pd.testing.assert_frame_equal(outcomes.drop("a.mp4"), expected.drop("a.mp4"))
