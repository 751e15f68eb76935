"""What synthetic clips cannot show: real encoders, real people, DFDC's own metadata."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from ffprobe import assert_like_ffprobe
from unmask.audits.shortcuts import find_shortcuts
from unmask.config import Config, FacesConfig
from unmask.faces.crops import crop_video
from unmask.faces.detectors import create_detector
from unmask.robustness.shifted_clips import shift_video
from unmask.robustness.shifts import SHIFTS
from unmask.splits.folds import assign_folds, choose_seed
from unmask.splits.groups import group_videos
from unmask.tables import PROBE
from unmask.videos.container import probe_entry
from unmask.videos.frames import Frame, SampledVideo
from unmask.videos.sampling import sample_frames
from unmask.videos.source import Entry, VideoFile, read_metadata
from unmask.vocabulary import Label, Status

ROOT = Path(os.environ.get("UNMASK_REAL_DATA", "../shared/data"))

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not ROOT.is_dir(), reason=f"no real videos in {ROOT} (UNMASK_REAL_DATA)"),
]


def sample(clip: Path, count: int) -> list[Frame]:
    return list(sample_frames(f"file:{clip}", count))


def clips() -> list[Path]:
    """Return a clip of each part of the training set and two of DFDC."""
    parts = sorted(ROOT.glob("ffpp/*/"))
    firsts = [sorted(part.glob("*.mp4"))[0] for part in parts]
    return [*firsts, *(ROOT / "test/test_videos" / n for n in ("brtujopkby.mp4", "yhffcuhhjy.mp4"))]


@pytest.mark.parametrize("clip", clips() if ROOT.is_dir() else [], ids=lambda clip: clip.name)
def test_sampled_frames_are_those_of_a_full_decode_bit_for_bit(clip: Path) -> None:
    sampled = {frame.time: frame.planes for frame in sample(clip, 6)}
    assert len(sampled) == 6
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            if (expected := sampled.pop(frame.time, None)) is not None:
                planes = np.concatenate([plane.reshape(-1) for plane in expected])
                np.testing.assert_array_equal(frame.to_ndarray().reshape(-1), planes)
    assert not sampled


def test_a_face_is_found_in_every_sampled_frame_of_real_people() -> None:
    config = FacesConfig()
    detector = create_detector(config)
    for clip in clips():
        crops = crop_video(SampledVideo(sample(clip, 4)), detector, config).crops
        assert {crop.frame for crop in crops} == {0, 1, 2, 3}, clip.name


def test_dfdc_s_own_metadata_splits_into_balanced_folds_without_straddling(tmp_path: Path) -> None:
    sample = ROOT / "dfdc_metadata" / "train_sample_metadata.json"
    (tmp_path / "metadata.json").write_text(sample.read_text())
    entries = read_metadata(tmp_path)
    assert len(entries) == len(json.loads(sample.read_text())) == 400
    assert {entry.status for entry in entries} == {Status.OK}
    videos = pd.DataFrame(
        {
            "video": [entry.name for entry in entries],
            "original": [entry.original for entry in entries],
            "label": [str(entry.label) for entry in entries],
            "part": "part_0",
        }
    )
    videos["group"] = group_videos(videos)
    folds = assign_folds(videos, 5, choose_seed(videos, 5))
    videos["fold"] = videos["group"].map(folds)
    assert videos.groupby([e.family for e in entries])["fold"].nunique().max() == 1
    share = videos.groupby("fold")["label"].apply(lambda labels: (labels == "FAKE").mean())
    assert share.max() - share.min() < 0.03


@pytest.mark.skipif(not shutil.which("ffprobe"), reason="ffprobe is not installed")
def test_every_real_clip_is_probed_as_ffprobe_does() -> None:
    folders = [*sorted(ROOT.glob("ffpp/*/")), ROOT / "real_faces", ROOT / "test/test_videos"]
    clips = [path for folder in folders for path in sorted(folder.glob("*.mp4"))]
    assert len(clips) > 90
    for clip in clips:
        row = probe_entry(clip.parent, Entry(clip.name, Label.REAL, None, clip.name))
        assert row["status"] == Status.OK, clip.name
        assert_like_ffprobe({**dict.fromkeys(PROBE.columns), **row}, clip)


def test_frame_counts_alone_predict_little_of_dfdc_s_labels() -> None:
    videos = pd.read_csv(ROOT / "dfdc_metadata" / "dfdc_119146_videos.csv")
    fake = (videos["is_fake"] == 1).to_numpy()
    found = find_shortcuts(videos[["n_frame"]], fake, list(videos["name"]), seed=1)
    assert found.together is not None
    assert found.together.auc == pytest.approx(0.543, abs=0.006)
    assert 0.535 < found.together.low < found.together.high < 0.555


def test_a_real_person_is_found_under_every_shift_and_twice_the_same() -> None:
    config = Config.model_validate({"frames": {"per_video": 8}, "evaluation": {"shift_seconds": 1}})
    clip = clips()[0]
    first, again = (shift_video(VideoFile(clip.parent, clip.name), config) for _ in range(2))
    assert list(first) == list(SHIFTS)
    assert {clip.status for clip in first.values()} == {Status.OK}
    for shift, clip in first.items():
        assert [crop.jpeg for crop in clip.crops] == [crop.jpeg for crop in again[shift].crops]
