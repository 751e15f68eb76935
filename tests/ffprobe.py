"""Compare rows of the probe table with the output of ffprobe."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest


def assert_like_ffprobe(row: Mapping[str, Any], clip: Path) -> None:
    """Assert that a row has the values that ffprobe prints for a clip."""
    command = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", clip]
    printed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert row["format"] == printed["format"]["format_name"]
    assert row["file_size"] == int(printed["format"]["size"])
    for stream in printed["streams"]:
        kind = stream["codec_type"]
        assert row[f"{kind}_codec_name"] == stream["codec_name"]
        numbers = ["nb_frames", "bit_rate", "duration", "start_time"]
        numbers += ["width", "height"] if kind == "video" else ["channels", "sample_rate"]
        for number in numbers:
            if number in stream:
                found = row[f"{kind}_{number}"]
                assert found == pytest.approx(float(stream[number]), rel=1e-6, abs=1e-6), number
            else:
                assert pd.isna(row[f"{kind}_{number}"]), number
        if kind == "video":
            assert row["video_pix_fmt"] == stream["pix_fmt"]
            assert row["video_has_b_frames"] == (stream["has_b_frames"] > 0)
            top, bottom = map(int, stream["avg_frame_rate"].split("/"))
            assert row["video_fps"] == pytest.approx(top / bottom)
            colors = [f"color_{name}" for name in ("range", "space", "transfer", "primaries")]
            for name in ("sample_aspect_ratio", "field_order", *colors):
                found = row[f"video_{name}"]
                assert found == stream[name] if name in stream else pd.isna(found), name
            sides = [side for side in stream.get("side_data_list", []) if "rotation" in side]
            assert row["video_rotation"] == (sides[0]["rotation"] % 360 if sides else 0)
