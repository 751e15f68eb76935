"""Crops show the whole face with one size per person, and the index points at their bytes."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from stages import crop_parts
from unmask.config import AudioConfig, Config, FacesConfig, FramesConfig, LimitsConfig
from unmask.errors import UnmaskError
from unmask.faces.crops import Crop, crop_video
from unmask.faces.detectors import create_detector
from unmask.faces.images import decode_jpeg, encode_jpeg
from unmask.faces.search import detect_faces
from unmask.faces.shards import ShardReader
from unmask.tables import AUDIO, CROPPED, FACES, PROBE, read_rows, read_table
from unmask.videos.audio import extract_audio
from unmask.videos.extraction import write_stream
from unmask.videos.frames import Frame, SampledVideo
from unmask.videos.probe import probe_shard
from unmask.videos.sampling import sample_video
from unmask.vocabulary import Status

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]


def sample(path: Path, count: int = 6) -> list[Frame]:
    return sample_video(nullcontext(f"file:{path}"), count).frames


def crop(path: Path, config: FacesConfig, count: int = 6) -> list[Crop]:
    return crop_video(SampledVideo(sample(path, count)), create_detector(config), config).crops


def test_a_face_is_found_and_cropped_in_every_frame(
    make_video: MakeVideo, faces_config: FacesConfig, tmp_path: Path
) -> None:
    crops = crop(make_video(tmp_path / "a.mp4"), faces_config)
    assert [(one.track, one.frame) for one in crops] == [(0, i) for i in range(6)]
    # Looked at in the first, the fifth and the last; in between the two agree.
    assert [one.detected for one in crops] == [True, False, False, False, True, True]
    assert all((one.score > 0.8) == one.detected for one in crops)
    assert len({one.side for one in crops}) == 1
    assert len({one.time for one in crops}) == 6
    for one in crops:
        picture = decode_jpeg(one.jpeg, "")
        assert picture.shape == (64, 64, 3)
        assert one.sharpness > 10
        # The whole box and context around it are in the crop, the face in its middle.
        assert one.x0 < one.box[0] < one.box[2] < one.x0 + one.side
        centre = (one.box[:2] + one.box[2:]) / 2 - [one.x0, one.y0]
        np.testing.assert_allclose(centre, one.side / 2, atol=1)


def test_landmarks_are_where_the_crop_shows_them(
    make_video: MakeVideo, faces_config: FacesConfig, tmp_path: Path
) -> None:
    config = faces_config.model_copy(update={"size": 160, "margin": 0.6})
    detector = create_detector(config)
    for one in crop(make_video(tmp_path / "a.mp4"), config, 2):
        eye, other_eye, nose, mouth, other_mouth = one.landmarks
        assert eye[0] < nose[0] < other_eye[0]
        assert max(eye[1], other_eye[1]) < nose[1] < min(mouth[1], other_mouth[1])
        shown = detector(cv2.cvtColor(decode_jpeg(one.jpeg, ""), cv2.COLOR_RGB2BGR))
        np.testing.assert_allclose(one.landmarks, shown.landmarks[0], atol=5)


def test_margin_and_size_are_as_configured(
    make_video: MakeVideo, faces_config: FacesConfig, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "a.mp4")
    for margin, size in [(0.0, 32), (0.3, 64), (1.0, 100)]:
        config = faces_config.model_copy(update={"margin": margin, "size": size})
        crops = crop(clip, config)
        sides = [(one.box[2:] - one.box[:2]).max() for one in crops]
        assert crops[0].side == pytest.approx(np.median(sides) * (1 + 2 * margin), abs=1)
        assert decode_jpeg(crops[0].jpeg, "").shape == (size, size, 3)


@pytest.mark.parametrize("at", [(0.12, 0.5), (0.9, 0.5), (0.5, 0.2), (0.5, 0.85)])
def test_a_face_at_the_edge_is_padded(
    at: tuple[float, float], make_video: MakeVideo, faces_config: FacesConfig, tmp_path: Path
) -> None:
    config = faces_config.model_copy(update={"margin": 1.0, "min_score": 0.3})
    crops = crop(make_video(tmp_path / "a.mp4", (200, 160), 6, at=at), config, 3)
    assert crops
    for one in crops:
        outside = min(one.x0, one.y0, 200 - one.x0 - one.side, 160 - one.y0 - one.side)
        assert outside < 0
        assert decode_jpeg(one.jpeg, "").shape == (64, 64, 3)


def test_two_people_are_two_tracks(
    make_video: MakeVideo, faces_config: FacesConfig, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "a.mp4", (320, 160), people=2)
    crops = crop(clip, faces_config)
    assert [(one.track, one.frame) for one in crops] == [(t, f) for t in (0, 1) for f in range(6)]
    halves = [{one.box[0] < 160 for one in crops if one.track == track} for track in (0, 1)]
    assert sorted(map(sorted, halves)) == [[False], [True]]
    alone = crop(clip, faces_config.model_copy(update={"max_per_frame": 1}))
    assert {one.track for one in alone} == {0}


def test_boxes_are_in_pixels_of_the_frame_at_any_detection_size(
    make_video: MakeVideo, faces_config: FacesConfig, tmp_path: Path
) -> None:
    (frame,) = sample(make_video(tmp_path / "a.mp4", (640, 480), 1), 1)
    detector = create_detector(faces_config)
    sizes = [faces_config.model_copy(update={"detect_size": size}) for size in (160, 320, 640)]
    found = [detect_faces(frame, detector, config) for config in sizes]
    for one in found:
        assert len(one) == 1
        np.testing.assert_allclose(one.boxes, found[0].boxes, atol=15)
        assert 200 < one.boxes[0, 0] < one.boxes[0, 2] < 440
    wider = faces_config.model_copy(update={"min_size": 300})
    assert len(detect_faces(frame, detector, wider)) == 0


def test_a_jpeg_keeps_the_full_resolution_of_colour() -> None:
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = (0, 0, 255)
    stripes[:, 1::2] = (255, 0, 0)
    decoded = decode_jpeg(encode_jpeg(stripes, 100), "")[..., ::-1]
    assert np.abs(decoded.astype(int) - stripes).mean() < 5


@pytest.mark.parametrize("data", [b"", b"garbage", b"\xff\xd8\xff\xe0 a head without a body"])
def test_a_damaged_crop_is_named(data: bytes) -> None:
    with pytest.raises(UnmaskError, match=r"crop clip_0_0003: not a readable JPEG"):
        decode_jpeg(data, "clip_0_0003")


def test_a_shard_has_the_crops_that_prediction_makes(
    worked_part: Path, faces_config: FacesConfig
) -> None:
    index = read_table(worked_part / "faces/part-00.parquet", FACES)
    assert set(index["shard"]) == {"part-00.tar"}
    rows = index[index["video"] == "a.mp4"].to_dict("records")
    crops = crop(worked_part / "part/a.mp4", faces_config, 4)
    tar = (worked_part / "faces/part-00.tar").read_bytes()
    for row, one in zip(rows, crops, strict=True):
        assert (row["track"], row["frame"]) == (one.track, one.frame)
        assert (row["time"], row["detected"]) == (one.time, one.detected)
        assert [row[name] for name in ("x0", "y0", "x1", "y1")] == one.box.tolist()
        assert (row["crop_x0"], row["crop_y0"], row["crop_side"]) == (one.x0, one.y0, one.side)
        np.testing.assert_array_equal(row["landmarks"], one.landmarks.reshape(-1))
        assert row["key"] == f"part/a-mp4_{one.track}_{one.frame:04d}"
        assert tar[row["offset"] : row["offset"] + row["size"]] == one.jpeg


def test_every_video_of_the_stream_has_one_status(worked_part: Path) -> None:
    outcomes = read_table(worked_part / "cropped.parquet", CROPPED).set_index("video")
    assert outcomes["status"].to_dict() == {
        **{f"{name}.mp4": Status.OK for name in "abcd"},
        "nobody.mp4": Status.NO_FACE,
    }
    counts = outcomes.loc["a.mp4", ["frames", "frames_with_face", "tracks", "crops"]]
    assert counts.tolist() == [4, 4, 1, 4]
    assert outcomes.loc["nobody.mp4", "detail"] == "no face in 4 frames"
    assert (outcomes["part"] == "part").all()


def test_joined_parts_give_the_same_as_separate_ones(
    make_video: MakeVideo, make_part: MakePart, faces_config: FacesConfig, tmp_path: Path
) -> None:
    """Also where both parts have a family of the same name, as numbered clips do."""
    parts = [tmp_path / name for name in ("left", "right")]
    only_left = {"2.mp4": "REAL", "3.mp4": "4.mp4"}
    only_right = {"4.mp4": "REAL", "2.mp4": "0.mp4"}
    for at, part, more in zip((0.35, 0.6), parts, (only_left, only_right), strict=True):
        entries = {"0.mp4": "REAL", "1.mp4": "0.mp4", **more}
        make_part(part, entries | {"absent.mp4": "REAL"})
        for name in entries:
            make_video(part / name, (200, 160), 12, at=(at, 0.5))
    work(parts, tmp_path / "both", faces_config)
    for part in parts:
        work([part], tmp_path / part.name / "out", faces_config)
        for leaf, table in TABLES:
            own, joined = (
                read_table(folder / f"{leaf}.parquet", table)
                for folder in (part / "out", tmp_path / "both")
            )
            joined = joined[joined["part"] == part.name].reset_index(drop=True)
            assert len(joined) == len(own) > 1
            # Where in its shard a crop lies.
            joined, own = (one.drop(columns="offset", errors="ignore") for one in (joined, own))
            pd.testing.assert_frame_equal(joined, own, check_dtype=False)  # of columns with gaps
        assert crops_of(tmp_path / "both", part.name) == crops_of(part / "out", part.name)


TABLES = (*(("probe", PROBE), ("faces", FACES), ("cropped", CROPPED), ("audio", AUDIO)),)


def work(parts: list[Path], out: Path, config: FacesConfig) -> None:
    settings = Config(
        frames=FramesConfig(per_video=4), faces=config, audio=AudioConfig(extract="wav")
    )
    crop_parts(parts, out, settings, workers=2)
    extract_audio(parts, out / "probe.parquet", settings, out / "audio.tar", out / "audio.parquet")


def crops_of(out: Path, part: str) -> dict[str, bytes]:
    reader, rows = ShardReader(out), read_rows(out / "faces.parquet", FACES)
    return {
        row["key"]: reader.read(row["shard"], row["offset"], row["size"])
        for row in rows
        if row["part"] == part
    }


def test_a_probed_part_that_is_not_given_is_named(
    make_video: MakeVideo, make_part: MakePart, tmp_path: Path
) -> None:
    parts = [make_part(tmp_path / name, {"0.mp4": "REAL"}) for name in ("left", "right")]
    for part in parts:
        make_video(part / "0.mp4", (48, 32), 3)
    probe_shard(parts, 0, 1, LimitsConfig(), tmp_path / "probe.parquet")
    with pytest.raises(UnmaskError, match=r"right: .* --parts \(left\)"):
        write_stream(parts[:1], tmp_path / "probe.parquet", Config(), 1, tmp_path / "frames.tar")


def reused(
    make_part: MakePart, root: Path, entries: dict[str, str], config: FacesConfig
) -> dict[str, tuple[bool, int]]:
    """Crop a part whose clips are there; return whether each reused tracks, and its detections."""
    part = make_part(root / "part", entries)
    rows = crop_parts([part], root, Config(frames=FramesConfig(per_video=16), faces=config))
    assert {row["crops"] for row in rows.values() if row["status"] == Status.OK} == {16}
    return {name: (row["reused"], row["detections"]) for name, row in rows.items()}


def test_each_family_is_searched_once(
    make_video: MakeVideo, make_part: MakePart, faces_config: FacesConfig, tmp_path: Path
) -> None:
    # One scene for all, so that nothing but the family keeps them apart.
    made = make_video(tmp_path / "made.mp4", frames=32, b_frames=0)
    entries = {"m.mp4": "REAL", "a.mp4": "m.mp4", "z.mp4": "m.mp4", "n.mp4": "REAL"}
    entries |= {"b.mp4": "absent.mp4", "c.mp4": "absent.mp4", "d.mp4": "absent.mp4"}
    (tmp_path / "part").mkdir()
    for name in entries:
        (tmp_path / "part" / name).write_bytes(made.read_bytes())
    found = reused(make_part, tmp_path, entries, faces_config)
    afresh, again = (False, 5), (True, 4)
    assert found == {
        **{"m.mp4": afresh, "a.mp4": again, "z.mp4": again},
        "n.mp4": afresh,
        **{"b.mp4": afresh, "c.mp4": again, "d.mp4": again},
    }
    rows = read_rows(tmp_path / "faces.parquet", FACES)
    places = {(row["frame"], row["crop_x0"], row["crop_y0"], row["crop_side"]) for row in rows}
    assert len(places) == 16  # those of the original in all videos
    assert not any(row["detected"] for row in rows if row["video"] in ("a.mp4", "z.mp4", "c.mp4"))


def test_an_original_without_a_face_or_a_frame_is_no_reference(
    make_video: MakeVideo, make_part: MakePart, faces_config: FacesConfig, tmp_path: Path
) -> None:
    made = make_video(tmp_path / "made.mp4", frames=32, b_frames=0)
    nobody = make_video(tmp_path / "nobody.mp4", frames=32, b_frames=0, people=0)
    (tmp_path / "part").mkdir()
    for name, source in [("m", nobody), ("a", made), ("b", made), ("y", made), ("z", made)]:
        (tmp_path / "part" / f"{name}.mp4").write_bytes(source.read_bytes())
    (tmp_path / "part/x.mp4").write_bytes(made.read_bytes()[:2000])
    entries = {"m.mp4": "REAL", "a.mp4": "m.mp4", "b.mp4": "m.mp4", "x.mp4": "REAL"}
    found = reused(
        make_part, tmp_path, entries | {"y.mp4": "x.mp4", "z.mp4": "x.mp4"}, faces_config
    )
    assert found["m.mp4"] == (False, 16)
    assert [found[f"{name}.mp4"][0] for name in "abyz"] == [False, True, False, True]
