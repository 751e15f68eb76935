"""Clips are seen as their makers meant them: the same face, upright, in its own proportions.

CI has a fixed sample of the clips; `make fuzz` has all.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from hostile.shown import FRAMES, SIZE, picture, shown_clips
from stages import crop_parts
from unmask.config import Config, FacesConfig, FramesConfig
from unmask.faces.shards import ShardReader
from unmask.inference.prepare import prepare_video
from unmask.tables import FACES, PROBE, read_rows
from unmask.videos.color import picture_bgr
from unmask.videos.sampling import sample_frames
from unmask.vocabulary import Status

CLIPS = shown_clips()
SAMPLE = """
aspect_3_1.mp4 aspect_1_2.mkv aspect_64_45.ts aspect_4_3.avi aspect_h263.avi aspect_damaged.mp4
matrix-1+0+0+1.mp4 matrix+0+1+1+0.mp4 matrix+0-1+1+0.mp4 margins_clap.mp4 margins_pixel_crop.mkv
fields_tff_mpeg2video.ts fields_bff_libx264.mp4 pq_libx265.mp4 hlg_libx265.mp4
clock_pause.mp4 clock_bogus_last.mkv clock_starts_over.ts clock_absent.avi
streams_second_default.mkv streams_second_larger.mp4
"""
NAMES = list(CLIPS) if "UNMASK_FUZZ_SEEDS" in os.environ else SAMPLE.split()
WANTED = 8
ONE_OF_A_KIND = (
    *("aspect_64_45.ts", "matrix+0+1+1+0.mp4", "margins_clap.mp4", "fields_bff_libx264.mp4"),
    *("pq_libx265.mp4", "clock_starts_over.ts", "streams_second_default.mkv"),
)
# FFmpeg believes a damaged ratio, shows HDR as it is, and cropped no margins before version 7.1.
NOT_COMPARED = ("aspect_damaged", "pq", "hlg", "margins")


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_is_seen_as_it_is_meant(name: str, tmp_path: Path) -> None:
    clip = CLIPS[name]
    clip.write(tmp_path / name)
    problems: list[str] = []
    frames = list(sample_frames(f"file:{tmp_path / name}", WANTED, None, problems))
    assert clip.detail in "; ".join(problems)
    assert bool(problems) == bool(clip.detail)
    if name.startswith("clock"):
        assert len(frames) == WANTED
    shown = picture_bgr(frames[0], *SIZE)[:, :, ::-1]
    # A whole number of pixels in each line, and no pixel of the margins.
    assert frames[0].width / frames[0].height == pytest.approx(SIZE[0] / SIZE[1], rel=0.03)
    expected = picture(clip.first)
    assert cv2.PSNR(shown.copy(), expected) > clip.psnr
    for axis in (0, 1):
        assert cv2.PSNR(shown.copy(), np.flip(expected, axis).copy()) < 20


def test_kaggle_gets_the_crops_of_the_workflow(tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    entries = {name: {"label": "REAL"} for name in ONE_OF_A_KIND}
    (part / "metadata.json").write_text(json.dumps(entries))
    for name in ONE_OF_A_KIND:
        CLIPS[name].write(part / name)
    config = Config(frames=FramesConfig(per_video=2), faces=FacesConfig(size=64))
    statuses = crop_parts([part], tmp_path, config)
    assert {row["status"] for row in statuses.values()} == {Status.OK}
    index, shard = read_rows(tmp_path / "faces.parquet", FACES), ShardReader(tmp_path)
    for name in ONE_OF_A_KIND:
        trained = [
            shard.read(row["shard"], row["offset"], row["size"])
            for row in index
            if row["video"] == name
        ]
        predicted = prepare_video(part, name, config.frames, config.faces).crops
        assert [crop.jpeg for crop in predicted] == trained != []
    rows = {row["video"]: row for row in read_rows(tmp_path / "probe.parquet", PROBE)}
    assert rows["aspect_64_45.ts"]["video_sample_aspect_ratio"] == "64:45"
    assert rows["matrix+0+1+1+0.mp4"]["video_display_matrix"] == "0 1 1 0"
    assert rows["fields_bff_libx264.mp4"]["video_field_order"] == "bb"
    assert rows["pq_libx265.mp4"]["video_color_transfer"] == "smpte2084"
    assert rows["pq_libx265.mp4"]["video_color_primaries"] == "bt2020"
    stream = rows["streams_second_default.mkv"]
    assert (stream["video_stream_index"], stream["video_streams"]) == (1, 2)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
@pytest.mark.parametrize("name", [one for one in NAMES if not one.startswith(NOT_COMPARED)])
def test_the_first_frame_is_that_of_ffmpeg(name: str, tmp_path: Path) -> None:
    CLIPS[name].write(tmp_path / name)
    filters = "bwdif=deint=interlaced,scale=round(iw*sar):ih:flags=bicubic,setsar=1"
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / name, "-vf", filters, "-frames:v", "1"]
    subprocess.run([*command, tmp_path / "first.png"], check=True)
    expected = cv2.imread(str(tmp_path / "first.png"))
    frame = next(iter(sample_frames(f"file:{tmp_path / name}", FRAMES)))
    assert expected.shape == (frame.height, frame.width, 3)
    assert cv2.PSNR(picture_bgr(frame, frame.width, frame.height), expected) > 35
