"""The exploratory report is drawn from small and odd data as well, and its values are right."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest

from unmask.config import LimitsConfig, TrainingConfig
from unmask.explore.augmentations import explore_augmentations
from unmask.explore.costs import explore_costs, sum_storage, sum_times
from unmask.explore.faces import draw_faces, explore_faces, summarise_faces
from unmask.explore.pairs import choose_pairs, explore_pairs, make_clip
from unmask.explore.videos import explore_videos, list_families
from unmask.report.pages import Section, write_page
from unmask.tables import FACES, VIDEOS, read_table, write_table
from unmask.training.augmentation import create_transforms
from unmask.videos.ledger import write_ledger
from unmask.videos.source import VideoFile


@pytest.fixture(scope="module")
def ledger(worked_part: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "videos.parquet"
    probes, cropped = [worked_part / "probe.parquet"], [worked_part / "cropped.parquet"]
    write_ledger(probes, cropped, path, path.with_name("ledger.json"))
    return path


ODD = {
    "REAL alone": {"label": "REAL"},
    "no label": {"label": None},
    "nothing known": {"video_fps": np.nan, "video_bit_rate": None, "video_nb_frames": None},
    "nothing opened": {"status": "unreadable", "video_codec_name": None},
    "not finite": {"video_fps": np.inf, "video_duration": -np.inf},
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["all", "one", "none", *ODD])
def test_odd_data_is_drawn(worked_part: Path, ledger: Path, tmp_path: Path, name: str) -> None:
    odd, videos = tmp_path / "videos.parquet", read_table(ledger, VIDEOS)
    count = {"one": 1, "none": 0}.get(name, len(videos))
    write_table(videos.head(count).assign(**ODD.get(name, {})), VIDEOS, odd)
    shards, output = worked_part / "faces", tmp_path / "out"
    explore_videos(odd, output)
    explore_faces(odd, shards, [shards / "part-00.parquet"], output)
    names = {path.name for path in output.iterdir()}
    assert names >= {"labels.svg", "containers.svg", "families.svg", "metadata.html", "videos.csv"}
    assert names >= {"faces.png", "face_statistics.svg", "odd_cases.png", "landmarks.png"}


def test_families_count_their_fakes_and_know_absent_originals() -> None:
    videos = pd.DataFrame(
        {
            "video": ["a", "b", "c", "d", "e"],
            "family": ["a", "a", "a", "x", "e"],
            "label": ["REAL", "FAKE", "FAKE", "FAKE", "REAL"],
        }
    )
    found = list_families(videos).set_index("family")
    assert found["fakes"].to_dict() == {"a": 2, "x": 1, "e": 0}
    assert found["original_present"].to_dict() == {"a": True, "x": False, "e": True}


def test_statistics_of_a_video_are_means_over_its_crops(worked_part: Path, ledger: Path) -> None:
    videos = read_table(ledger, VIDEOS)
    faces = read_table(worked_part / "faces/part-00.parquet", FACES)
    table = summarise_faces(videos[videos["status"] == "ok"], faces).set_index("video")
    of_a = faces[faces["video"] == "a.mp4"]
    assert table.loc["a.mp4", "width"] == pytest.approx((of_a["x1"] - of_a["x0"]).mean())
    assert table.loc["a.mp4", "crops"] == len(of_a)
    assert table.loc["a.mp4", "score"] > 0.7


def test_the_page_of_pairs_holds_its_clips_and_needs_no_network(
    worked_part: Path, ledger: Path, tmp_path: Path
) -> None:
    page = tmp_path / "pairs.html"
    explore_pairs(ledger, [worked_part / "part"], LimitsConfig(), page)
    text = page.read_text()
    assert text.count("<video") == 4
    assert all(name in text for name in ("a.mp4", "c.mp4", "b.mp4", "d.mp4"))
    assert "://" not in text


@pytest.mark.parametrize("preset", ["none", "strong"])
def test_the_page_of_augmentations_shows_each_and_needs_no_network(
    preset: str, worked_part: Path, ledger: Path, tmp_path: Path
) -> None:
    page = tmp_path / "augmentations.html"
    config = TrainingConfig.model_validate({"image_size": 48, "augment": preset})
    index = worked_part / "faces/part-00.parquet"
    explore_augmentations(ledger, worked_part / "faces", [index], config, page)
    text = page.read_text()
    pictures = re.findall(r'<img alt="([^"]+)" src="data:image/jpeg;base64,([^"]+)">', text)
    transforms = [type(one).__name__ for one in create_transforms(preset)]
    assert [name.partition(":")[0] for name, _ in pictures] == [
        *transforms,
        *("all together", "paired batches", "self-blended images"),
    ]
    for _, picture in pictures:
        assert cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), 1).std() > 5
    assert "://" not in text


def test_a_pair_is_left_out_if_its_video_is_gone(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    explore_pairs(ledger, [tmp_path / "part"], LimitsConfig(), tmp_path / "pairs.html")
    assert "<video" not in (tmp_path / "pairs.html").read_text()


def test_pairs_are_from_different_families() -> None:
    videos = pd.DataFrame(
        {
            "part": "p",
            "video": ["a", "b", "c", "d", "e"],
            "label": ["REAL", "FAKE", "FAKE", "FAKE", "FAKE"],
            "family": ["a", "a", "a", "gone", "e"],
        }
    )
    chosen = choose_pairs(videos, 4)
    assert chosen[["video_original", "video", "part_original"]].to_numpy().tolist() == [
        ["a", "b", "p"]
    ]


def test_a_clip_is_small_upright_and_short(make_video, tmp_path: Path) -> None:
    make_video(tmp_path / "long.mp4", (1280, 720), 240, 30, rotation=90)
    with av.open(io.BytesIO(make_clip(VideoFile(tmp_path, "long.mp4")))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (360, 202)
        assert len(list(container.decode(video=0))) == pytest.approx(72, abs=2)


def test_names_of_files_are_escaped(tmp_path: Path) -> None:
    rows = pd.DataFrame({"video": ["<script>alert(1)</script>.mp4"], "label": ["REAL"]})
    page = tmp_path / "page.html"
    write_page(page, "sections.html.j2", title="t", sections=[Section("a", "b", rows)])
    assert "<script>alert" not in page.read_text()
    assert "&lt;script&gt;" in page.read_text()


def test_costs_are_added_up_by_rule_and_folder(tmp_path: Path) -> None:
    benchmarks, results = tmp_path / "benchmarks", tmp_path / "results"
    head = "s\th:m:s\tmax_rss\tcpu_time\n"
    rows = {"probe/a-00": "2\t0\t10\t1", "probe/b-00": "3\t0\t-\tNA", "split": "1\t0\t5\t1"}
    for name, row in rows.items():
        path = benchmarks / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + row + "\n")
    (results / "faces").mkdir(parents=True)
    (results / "faces/a.tar").write_bytes(bytes(2000))
    (results / "ledger.json").write_bytes(bytes(10))
    times = sum_times(benchmarks).set_index("rule")
    assert times["seconds"].to_dict() == {"probe": 5, "split": 1}
    assert times["jobs"].to_dict() == {"probe": 2, "split": 1}
    assert times.loc["probe", "peak_memory_mb"] == 10
    sizes = sum_storage(results).set_index("folder")["bytes"].to_dict()
    assert sizes == {"faces/": 2000, "single files": 10}
    explore_costs(results, benchmarks, tmp_path / "out")
    explore_costs(tmp_path / "nothing", tmp_path / "nothing", tmp_path / "empty")
    assert (tmp_path / "empty/costs.svg").stat().st_size > 0


def test_68_landmarks_are_drawn_where_the_index_has_them(worked_part: Path) -> None:
    faces = read_table(worked_part / "faces/part-00.parquet", FACES).head(2)
    angles = np.linspace(0, 2 * np.pi, 68)
    circle = np.column_stack([32 + 20 * np.cos(angles), 32 + 20 * np.sin(angles)]).ravel()
    faces["landmarks_68"] = [circle, np.full(136, np.nan)]
    figure = draw_faces("Landmarks", faces, ["a", "b"], worked_part / "faces", landmarks=True)
    drawn = [len(axes.collections[0].get_offsets()) for axes in figure.axes[:2]]
    assert drawn == [68, 5]
