"""The probe reads each container's metadata, and gives every broken file a status."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ffprobe import assert_like_ffprobe
from unmask.config import LimitsConfig
from unmask.tables import PROBE, read_table
from unmask.videos.probe import probe_shard
from unmask.vocabulary import Status

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]


def probe(part: Path) -> dict[str, dict[str, Any]]:
    output = part.parent / f"{part.name}.parquet"
    probe_shard([part], 0, 1, LimitsConfig(), output)
    return {row["video"]: row for row in read_table(output, PROBE).to_dict("records")}


def probe_clip(path: Path, make_part: MakePart) -> dict[str, Any]:
    return probe(make_part(path.parent, {path.name: "REAL"}))[path.name]


def test_the_source_is_that_of_the_entry_or_the_name_of_the_part_without_its_number(
    make_part: MakePart, tmp_path: Path
) -> None:
    entries = {"a.mp4": {"label": "REAL", "source": "web"}, "b.mp4": "REAL"}
    rows = probe(make_part(tmp_path / "talks_part_12", entries))
    assert (rows["a.mp4"]["source"], rows["b.mp4"]["source"]) == ("web", "talks_part")
    assert probe(make_part(tmp_path / "7", {"c.mp4": "REAL"}))["c.mp4"]["source"] == "7"


def test_group_and_split_are_those_of_the_entry(make_part: MakePart, tmp_path: Path) -> None:
    known = {"label": "REAL", "group": "id7", "split": "test"}
    rows = probe(make_part(tmp_path / "part", {"a.mp4": known, "b.mp4": {"label": "REAL"}}))
    assert [rows["a.mp4"][f"given_{key}"] for key in ("group", "split")] == ["id7", "test"]
    assert pd.isna([rows["b.mp4"][f"given_{key}"] for key in ("group", "split")]).all()


def test_values_are_those_the_clip_was_encoded_with(
    make_video: MakeVideo, make_part: MakePart, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "part/a.mp4", (160, 120), 30, 25, sound=True)
    row = probe_clip(clip, make_part)
    assert (row["status"], row["detail"], row["part"]) == (Status.OK, "", "part")
    assert row["file_size"] == clip.stat().st_size
    assert "mp4" in row["format"]
    assert (row["video_width"], row["video_height"]) == (160, 120)
    assert (row["video_codec_name"], row["video_pix_fmt"]) == ("h264", "yuv420p")
    assert (row["video_nb_frames"], row["video_fps"]) == (30, 25)
    assert row["video_duration"] == pytest.approx(30 / 25)
    assert row["video_start_time"] == 0
    assert (row["video_keyframes"], row["video_rotation"]) == (1, 0)
    assert row["video_has_b_frames"]
    assert (row["audio_codec_name"], row["audio_channels"]) == ("aac", 1)
    assert row["audio_sample_rate"] == 44100
    assert row["audio_duration"] == pytest.approx(30 / 25, abs=0.1)


def test_the_rotation_of_a_clip_is_probed(
    make_video: MakeVideo, make_part: MakePart, tmp_path: Path
) -> None:
    row = probe_clip(make_video(tmp_path / "part/a.mp4", frames=4, rotation=270), make_part)
    assert row["video_rotation"] == 270
    assert (row["video_width"], row["video_height"]) == (120, 160)


def test_a_clip_trimmed_by_an_edit_list_can_be_probed(
    make_video: MakeVideo, make_part: MakePart, tmp_path: Path
) -> None:
    """As phones write them when they trim a clip: the first key frame is decoded but not shown."""
    early = [40 * index - 200 for index in range(12)]
    part = make_part(tmp_path / "part", {"a.mp4": "REAL"})
    clip = make_video(part / "a.mp4", frames=12, milliseconds=early, rotation=90)
    row = probe_clip(clip, make_part)
    assert (row["status"], row["video_rotation"]) == (Status.OK, 90)


def test_videos_without_an_entry_are_logged(
    make_video: MakeVideo,
    make_part: MakePart,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_video(tmp_path / "part/stray.mp4", frames=4)
    part = make_part(tmp_path / "part", {"a.mp4": "REAL"})
    with caplog.at_level(logging.WARNING):
        probe(part)
    assert "1 videos are not named in metadata.json: stray.mp4" in caplog.text


@pytest.mark.skipif(not shutil.which("ffprobe"), reason="ffprobe is not installed")
@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("sound.mp4", {"sound": True, "fps": 30}),
        ("lying.mp4", {"rotation": 90}),
        ("full.mkv", {"pix_fmt": "yuv444p", "b_frames": 0}),
        ("ntsc.mov", {"milliseconds": [round(i * 1001 / 24) for i in range(24)]}),
    ],
)
def test_values_are_those_of_ffprobe(
    name: str, encoding: dict[str, Any], make_video: MakeVideo, make_part: MakePart, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "part" / name, **encoding)
    row = probe_clip(clip, make_part)
    assert_like_ffprobe(row, clip)
