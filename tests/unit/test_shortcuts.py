"""Container metadata that tells the label is found out; noise is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from unmask.audits.shortcuts import _area_with_interval, audit_shortcuts, find_shortcuts
from unmask.config import AuditsConfig
from unmask.errors import UnmaskError
from unmask.tables import SPLITS, VIDEOS, write_table

FAMILIES, FAKES = 60, 3


def ledger(leak: float = 0.0, families: int = FAMILIES) -> pd.DataFrame:
    """Draw families of an original and its fakes; `leak` moves the bit rate of fakes."""
    rng, count = np.random.default_rng(0), families * (1 + FAKES)
    family, member = np.divmod(np.arange(count), 1 + FAKES)
    original = [f"{one:03d}_0.mp4" for one in family]
    videos = pd.DataFrame(
        {
            "part": "p",
            "video": [f"{one:03d}_{other}.mp4" for one, other in zip(family, member, strict=True)],
            "label": np.where(member, "FAKE", "REAL"),
            "family": original,
            "source": "s",
            "group": original,
            "fold": family % 4,
            "status": "ok",
            "format": "mov,mp4",
            "video_codec_name": "h264",
            "video_duration": rng.choice([9.97, 10.0, 10.01], families)[family],
            "video_width": rng.choice([1080, 1920], count),
            "video_bit_rate": (rng.normal(1e6, 1e5, count) - (member > 0) * leak).astype(int),
            "video_has_b_frames": True,
            "audio_codec_name": rng.choice(["aac", None], count),
        }
    )
    return videos.reindex(columns=list(dict.fromkeys([*VIDEOS.columns, *SPLITS.columns])))


def audit(tmp_path: Path, videos: pd.DataFrame, config: AuditsConfig) -> dict:
    write_table(videos, VIDEOS, tmp_path / "videos.parquet")
    write_table(videos, SPLITS, tmp_path / "splits.parquet")
    output, figure = tmp_path / "shortcuts.json", tmp_path / "shortcuts.svg"
    paths = tmp_path / "videos.parquet", tmp_path / "splits.parquet"
    audit_shortcuts(*paths, config, 1, output, figure)
    assert figure.stat().st_size > 1000
    return json.loads(output.read_text())


def test_a_planted_leak_is_found_and_named(tmp_path: Path) -> None:
    found = audit(tmp_path, ledger(leak=1e6), AuditsConfig())
    assert found["leaks"]
    assert found["together"]["auc"] > 0.99
    assert next(iter(found["columns"])) == "video_bit_rate"
    assert found["columns"]["video_duration"]["auc"] < 0.6


def test_a_planted_leak_stops_the_run_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnmaskError, match=r"audits\.on_shortcut: warn") as stopped:
        audit(tmp_path, ledger(leak=1e6), AuditsConfig(on_shortcut="stop"))
    assert "video_bit_rate (1.00)" in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert json.loads((tmp_path / "shortcuts.json").read_text())["leaks"]


def test_metadata_that_says_nothing_passes(tmp_path: Path) -> None:
    found = audit(tmp_path, ledger(), AuditsConfig(shortcut_auc=0.55, on_shortcut="stop"))
    assert not found["leaks"]
    assert found["together"]["low"] < 0.5 < found["together"]["high"]
    assert all(0.35 < area["auc"] < 0.65 for area in found["columns"].values())


def test_a_few_videos_raise_no_alarm(tmp_path: Path) -> None:
    for families in (4, 6, 8):
        found = audit(tmp_path, ledger(families=families), AuditsConfig(on_shortcut="stop"))
        assert not found["leaks"]


def test_presence_of_sound_is_a_column_of_its_own(tmp_path: Path) -> None:
    videos = ledger()
    videos["audio_codec_name"] = videos["label"].map({"REAL": "aac", "FAKE": None})
    found = audit(tmp_path, videos, AuditsConfig())
    assert found["columns"]["has_audio"]["auc"] == 1


def test_a_value_that_a_single_video_has_is_no_trouble(tmp_path: Path) -> None:
    videos = ledger(families=8)
    videos.loc[0, ["audio_sample_rate", "audio_channels"]] = [44100, 2]
    found = audit(tmp_path, videos, AuditsConfig())
    assert found["columns"]["audio_sample_rate"]["auc"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("label", ["REAL", "FAKE"])
def test_one_label_alone_is_said_to_be_unmeasurable(tmp_path: Path, label: str) -> None:
    found = audit(tmp_path, ledger().assign(label=label), AuditsConfig(on_shortcut="stop"))
    assert found["together"] is None
    assert "cannot be measured" in found["reason"]


def test_a_single_video_and_constant_columns_are_unmeasurable() -> None:
    one = pd.DataFrame({"frames": [300]})
    assert find_shortcuts(one, np.array([True]), ["a"], 1).together is None
    same = pd.DataFrame({"frames": [300.0] * 8})
    fake = np.array([True, False] * 4)
    assert "no column" in find_shortcuts(same, fake, list("aabbccdd"), 1).reason


def test_only_scores_of_one_fold_are_compared_with_each_other() -> None:
    rng = np.random.default_rng(0)
    scores, fake = rng.integers(0, 9, 200) / 9, rng.random(200) < 0.7
    area = _area_with_interval(scores, fake, np.zeros(200, int), np.arange(200), 0)
    assert area.auc == pytest.approx(roc_auc_score(fake, scores))
    assert area.low < area.auc < area.high
    fold, fake = np.repeat([0, 1], 4), np.array([0, 0, 1, 1] * 2, bool)
    scores = np.array([0.1, 0.1, 0.2, 0.2, 0.8, 0.8, 0.9, 0.9])
    assert _area_with_interval(scores, fake, fold, np.arange(8), 0).auc == 1
