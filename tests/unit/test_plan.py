"""The plan predicts disk space and time of the stages."""

import json
import math
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from stages import crop_parts
from unmask.cli import main
from unmask.config import Config
from unmask.errors import UnmaskError
from unmask.plan import Plan, advise_joining, plan_faces, wall_seconds

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]
SETTINGS = {"frames": {"per_video": 6}, "faces": {"size": 64}}


@pytest.fixture(scope="module")
def root(
    make_video: MakeVideo, make_part: MakePart, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("plan") / "data"
    entries = {f"{name}.mp4": "REAL" for name in "abcd"} | {f"{n}.mp4": "a.mp4" for n in "efgh"}
    part = make_part(root / "part", entries | {"absent.mp4": "REAL"})
    for index, name in enumerate(entries):
        make_video(part / name, (160, 120), 12 + 6 * (index % 4))
    return root


def config_of(root: Path, **sections: object) -> Config:
    return Config.model_validate({"data_root": str(root), **SETTINGS, **sections})


def test_disk_space_is_predicted_from_half_of_the_videos(root: Path, tmp_path: Path) -> None:
    plan = plan_faces(config_of(root), cores=2, samples=4)
    assert (plan.videos, plan.sampled) == (8, 4)
    crop_parts([root / "part"], tmp_path, config_of(root))
    shard, index, stream = (tmp_path / n for n in ("faces.tar", "faces.parquet", "frames.tar"))
    written = shard.stat().st_size + index.stat().st_size
    assert plan.final_gb * 1e9 == pytest.approx(written, rel=0.15)
    kept = plan_faces(config_of(root, frames={"per_video": 6, "keep": True}), 2, 4)
    assert (kept.peak_gb - kept.final_gb) * 1e9 == pytest.approx(stream.stat().st_size, rel=0.15)


def test_one_core_needs_disk_space_for_the_frames_of_a_shard(root: Path) -> None:
    two, one = (plan_faces(config_of(root), cores, 2) for cores in (2, 1))
    assert two.peak_gb == two.final_gb
    assert one.peak_gb > one.final_gb


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_sampled_video_that_crashes_is_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.plan.measure_family", die)
    with pytest.raises(UnmaskError, match=r"SIGKILL.*--samples"):
        plan_faces(config_of(root), 2, 2)


def test_absent_weights_are_one_line(root: Path) -> None:
    faces = {"faces": {"size": 64, "weights": "nowhere.onnx"}}
    with pytest.raises(UnmaskError, match=r"nowhere\.onnx"):
        plan_faces(config_of(root, **faces), 2, 2)


def test_the_wall_time_includes_snakemake_and_idle_cores(root: Path) -> None:
    two, one = (plan_faces(config_of(root), cores, 2) for cores in (2, 1))
    added = (one.wall_hours - one.cpu_hours) * 3600
    assert 5 < added < 10  # one shard
    assert two.wall_hours * 3600 == pytest.approx(two.cpu_hours * 3600 / 2 + added)


def test_joining_small_parts_is_advised(
    make_video: MakeVideo, make_part: MakePart, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "clip.mp4", (160, 120), 12)
    for name in "abcdef":
        (make_part(tmp_path / "data" / name, {"clip.mp4": "REAL"}) / "clip.mp4").symlink_to(clip)
    apart = plan_faces(config_of(tmp_path / "data", parts_per_shard=1), 4, 2)
    assert "parts_per_shard: 3 would save" in str(apart)  # a shard for each pair of cores
    joined = plan_faces(config_of(tmp_path / "data", parts_per_shard=3), 4, 2)
    assert joined.advice == ""
    # Two rounds of three fewer, and the starts of four shards.
    assert joined.cpu_hours < apart.cpu_hours
    assert (apart.wall_hours - joined.wall_hours) * 3600 > 5


@pytest.mark.parametrize("cores", [1, 2, 4, 8, 64])
@pytest.mark.parametrize("parts", [1, 5, 7, 50, 1000])
@pytest.mark.parametrize("work", [0.5, 20.0, 2400.0])  # CPU seconds of a part
def test_following_the_advice_saves_time_and_ends_it(work: float, parts: int, cores: int) -> None:
    advice = advise_joining(parts, parts, parts * work, 3.0, cores)
    if not advice:
        return
    joined = int(re.search(r"parts_per_shard: (\d+)", advice)[1])
    before, after = (
        wall_seconds(math.ceil(parts / each), parts * work, 3.0, cores) for each in (1, joined)
    )
    assert after < 0.91 * before
    assert joined * work <= max(600, work)
    shards = math.ceil(parts / joined)
    assert advise_joining(parts, shards, parts * work, 3.0, cores) == ""
    assert advise_joining(parts, 2 * parts, parts * work, 3.0, cores) == ""  # cut on purpose


@pytest.mark.parametrize(
    ("parts", "shards", "cores", "advice"),
    [
        pytest.param(50, 1, 100, "parts_per_shard: 1 would", id="idle cores"),
        pytest.param(50, 50, 64, "", id="parts of DFDC's size"),
        pytest.param(1, 1, 2, "", id="a single part"),
    ],
)
def test_parts_of_an_hour_are_joined_only_if_cores_stay_busy(
    parts: int, shards: int, cores: int, advice: str
) -> None:
    given = advise_joining(parts, shards, parts * 3600.0, 3.0, cores)
    assert given.partition(" save")[0] == advice


def test_a_folder_without_a_video_is_refused(make_part: MakePart, tmp_path: Path) -> None:
    make_part(tmp_path / "part", {"absent.mp4": "REAL"})
    with pytest.raises(UnmaskError, match="no video file in the parts of"):
        plan_faces(config_of(tmp_path), 1, 4)


def test_a_bucket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnmaskError, match="data_root: only the workflow reads buckets"):
        plan_faces(config_of(Path("s3://dfdc/train")), 1, 4)


def test_the_command_reads_configuration_files_in_order(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(
        json.dumps({"data_root": "/nowhere", **SETTINGS, "faces": {"size": 256}})
    )
    (tmp_path / "b.yaml").write_text(f"data_root: {root}\nfaces: {{jpeg_quality: 90}}\n")
    files = [str(tmp_path / name) for name in ("a.yaml", "b.yaml")]
    assert main(["plan", "--config", *files, "--cores", "4", "--samples", "2"]) == 0
    assert "8 videos, 2 of them measured" in capsys.readouterr().out
    (tmp_path / "bad.yaml").write_text("a: [")
    assert main(["plan", "--config", str(tmp_path / "bad.yaml")]) == 2


def test_durations_are_printed_in_suitable_units() -> None:
    plan = Plan(119154, 24, 100.5, 0.75, 134, 95.2, 95.2)
    told = str(plan)
    for part in ("119,154 videos, 24", "100.5 h", "45.0 min on 134 cores", "95.20 GB of faces"):
        assert part in told
