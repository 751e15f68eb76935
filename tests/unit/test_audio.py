"""Sound tracks are extracted, and a video without one is no error."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from unmask.config import Config
from unmask.tables import AUDIO, read_table
from unmask.videos.audio import extract_audio
from unmask.videos.probe import probe_shard

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]


@pytest.fixture(scope="module")
def part(
    make_video: MakeVideo, make_part: MakePart, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("audio")
    folder = make_part(root / "part", dict.fromkeys(["loud.mp4", "silent.mp4", "cut.mp4"], "REAL"))
    make_video(folder / "loud.mp4", (64, 48), 48, sound=True)
    make_video(folder / "silent.mp4", (64, 48), 4)
    options = {"movflags": "+faststart"}
    clip = make_video(folder / "cut.mp4", (64, 48), 48, sound=True, options=options)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    probe_shard([folder], 0, 1, Config().limits, root / "probe.parquet")
    return folder


@pytest.mark.parametrize("kind", ["wav", "aac"])
def test_each_video_has_a_row_and_those_with_sound_a_file(
    kind: str, part: Path, tmp_path: Path
) -> None:
    config = Config.model_validate({"audio": {"extract": kind}})
    shard, index = tmp_path / "part.tar", tmp_path / "part.parquet"
    extract_audio([part], part.parent / "probe.parquet", config, shard, index)
    rows = read_table(index, AUDIO).set_index("video")
    assert list(rows.index) == ["cut.mp4", "loud.mp4", "silent.mp4"]
    assert rows.loc["silent.mp4", "detail"] == "no audio stream"
    assert rows.loc["loud.mp4", "sample_rate"] == 44100
    assert rows.loc["loud.mp4", "duration"] == pytest.approx(2, abs=0.1)
    with tarfile.open(shard) as tar:
        assert f"part/loud.mp4.{kind}" in tar.getnames()
        assert "silent.mp4." not in " ".join(tar.getnames())
        member = tar.extractfile(rows.loc["loud.mp4", "key"])
        assert member is not None
        sound = io.BytesIO(member.read())
    with av.open(sound) as container:
        samples = np.concatenate([f.to_ndarray().reshape(-1) for f in container.decode(audio=0)])
    assert samples.size == pytest.approx(2 * 44100, rel=0.06)
    # The tone of the clip is 44,100 / (20 * 2 pi) Hz, in blocks of 43 a second.
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64)))
    assert spectrum.argmax() / samples.size * 44100 == pytest.approx(351, abs=22)
