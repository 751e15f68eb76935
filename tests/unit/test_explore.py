"""The exploratory report is drawn of small and odd data as well, and its numbers are right."""

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
from unmask.explore import figures as overview
from unmask.explore.augmentations import explore_augmentations
from unmask.explore.data import (
    explore_costs,
    explore_faces,
    explore_videos,
    faces_by_video,
    families_of,
    storage_of,
    times_of,
)
from unmask.explore.pairs import choose_pairs, explore_pairs, small_clip
from unmask.report.pages import TableSection, write_page
from unmask.report.style import save
from unmask.tables import FACES, VIDEOS, read_table, write_table
from unmask.training.augmentation import NAMES
from unmask.videos.ledger import write_ledger
from unmask.videos.source import VideoFile


@pytest.fixture(scope="module")
def ledger(worked_part: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ledger")
    path = folder / "videos.parquet"
    write_ledger(
        [worked_part / "probe.parquet"],
        [worked_part / "cropped.parquet"],
        path,
        folder / "ledger.json",
    )
    return path


def changed(ledger: Path, path: Path, rows: slice = slice(None), **values: object) -> Path:
    write_table(read_table(ledger, VIDEOS).iloc[rows].assign(**values), VIDEOS, path)
    return path


ODD = {
    "as it is": {},
    "REAL alone": {"label": "REAL"},
    "FAKE alone": {"label": "FAKE"},
    "no label": {"label": None},
    "nothing known": {"video_fps": np.nan, "video_bit_rate": None, "video_nb_frames": None},
    "nothing opened": {"status": "unreadable", "video_codec_name": None},
    "not finite": {"video_fps": np.inf, "video_duration": -np.inf},
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [slice(None), slice(1), slice(0)], ids=["all", "one", "none"])
@pytest.mark.parametrize("values", ODD.values(), ids=ODD)
def test_everything_is_drawn_of_odd_data(
    worked_part: Path, ledger: Path, tmp_path: Path, rows: slice, values: dict[str, object]
) -> None:
    odd = changed(ledger, tmp_path / "videos.parquet", rows, **values)
    explore_videos(odd, tmp_path / "out")
    explore_faces(
        odd, worked_part / "faces", [worked_part / "faces/part-00.parquet"], tmp_path / "out"
    )
    names = {path.name for path in (tmp_path / "out").iterdir()}
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
    found = families_of(videos).set_index("family")
    assert found["fakes"].to_dict() == {"a": 2, "x": 1, "e": 0}
    assert found["original_present"].to_dict() == {"a": True, "x": False, "e": True}


def test_statistics_of_a_video_are_means_of_its_crops(worked_part: Path, ledger: Path) -> None:
    videos = read_table(ledger, VIDEOS)
    faces = read_table(worked_part / "faces/part-00.parquet", FACES)
    table = faces_by_video(videos[videos["status"] == "ok"], faces).set_index("video")
    of_a = faces[faces["video"] == "a.mp4"]
    assert table.loc["a.mp4", "width"] == pytest.approx((of_a["x1"] - of_a["x0"]).mean())
    assert table.loc["a.mp4", "crops"] == len(of_a)
    assert table.loc["a.mp4", "score"] > 0.7


def test_pairs_are_in_the_page_and_it_asks_for_nothing_else(
    worked_part: Path, ledger: Path, tmp_path: Path
) -> None:
    page = tmp_path / "pairs.html"
    explore_pairs(ledger, [worked_part / "part"], LimitsConfig(), page)
    text = page.read_text()
    assert text.count("<video") == 4
    assert all(name in text for name in ("a.mp4", "c.mp4", "b.mp4", "d.mp4"))
    assert "http" not in text


@pytest.mark.parametrize("preset", ["none", "strong"])
def test_every_augmentation_is_in_a_page_that_asks_for_nothing_else(
    preset: str, worked_part: Path, ledger: Path, tmp_path: Path
) -> None:
    page = tmp_path / "augmentations.html"
    config = TrainingConfig.model_validate({"image_size": 48, "augment": {"preset": preset}})
    index = worked_part / "faces/part-00.parquet"
    explore_augmentations(ledger, worked_part / "faces", [index], config, page)
    text = page.read_text()
    pictures = re.findall(r'<img alt="([^"]+)" src="data:image/jpeg;base64,([^"]+)">', text)
    assert {*NAMES, "paired batches", "self-blended images"} <= {name for name, _ in pictures}
    for _, picture in pictures:
        assert cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), 1).std() > 5
    assert "http" not in text


def test_a_video_that_went_away_leaves_its_pair_out(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    explore_pairs(ledger, [tmp_path / "part"], LimitsConfig(), tmp_path / "pairs.html")
    assert "<video" not in (tmp_path / "pairs.html").read_text()


def test_pairs_are_of_different_families() -> None:
    videos = pd.DataFrame(
        {
            "part": "p",
            "video": ["a", "b", "c", "d", "e"],
            "label": ["REAL", "FAKE", "FAKE", "FAKE", "FAKE"],
            "original": [None, "a", "a", "gone", None],
        }
    )
    chosen = choose_pairs(videos, 4)
    assert list(zip(chosen["video_original"], chosen["video"], strict=True)) == [("a", "b")]


def test_a_clip_is_small_upright_and_short(make_video, tmp_path: Path) -> None:
    make_video(tmp_path / "long.mp4", (1280, 720), 240, 30, rotation=90)
    with av.open(io.BytesIO(small_clip(VideoFile(tmp_path, "long.mp4")))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert max(stream.width, stream.height) == 360
        assert len(list(container.decode(video=0))) == pytest.approx(72, abs=2)


def test_names_of_strangers_are_escaped(tmp_path: Path) -> None:
    rows = pd.DataFrame({"video": ["<script>alert(1)</script>.mp4"], "label": ["REAL"]})
    page = tmp_path / "page.html"
    write_page(page, "tables.html.j2", title="t", sections=[TableSection("a", "b", rows)])
    assert "<script>alert" not in page.read_text()
    assert "&lt;script&gt;" in page.read_text()


def test_costs_are_added_up_by_rule_and_folder(tmp_path: Path) -> None:
    benchmarks, results = tmp_path / "benchmarks", tmp_path / "results"
    head = "s\th:m:s\tmax_rss\tcpu_time\n"
    for name, row in {
        "probe/a-00": "2\t0\t10\t1",
        "probe/b-00": "3\t0\t-\tNA",
        "split": "1\t0\t5\t1",
    }.items():
        path = benchmarks / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + row + "\n")
    (results / "faces").mkdir(parents=True)
    (results / "faces/a.tar").write_bytes(bytes(2000))
    (results / "ledger.json").write_bytes(bytes(10))
    times = times_of(benchmarks).set_index("rule")
    assert times["seconds"].to_dict() == {"probe": 5, "split": 1}
    assert times["jobs"].to_dict() == {"probe": 2, "split": 1}
    assert times.loc["probe", "most_memory_mb"] == 10
    assert storage_of(results).set_index("folder")["bytes"].to_dict() == {
        "faces/": 2000,
        "single files": 10,
    }
    explore_costs(results, benchmarks, tmp_path / "out")
    explore_costs(tmp_path / "nothing", tmp_path / "nothing", tmp_path / "empty")
    assert (tmp_path / "empty/costs.svg").stat().st_size > 0


@pytest.mark.parametrize("count", [0, 1, 30])
def test_shortcuts_are_drawn_measured_or_not(tmp_path: Path, count: int) -> None:
    area = {"auc": 0.8, "low": 0.75, "high": 0.9}
    report = {
        "limit": 0.7,
        "reason": "" if count else "cannot be measured: no column has two values",
        "together": area if count else None,
        "columns": {f"column_{index}": area for index in range(count)},
    }
    save(overview.shortcuts(report), tmp_path / "shortcuts.svg")
    assert (tmp_path / "shortcuts.svg").stat().st_size > 1000


def test_68_landmarks_are_drawn(worked_part: Path, tmp_path: Path) -> None:
    faces = read_table(worked_part / "faces/part-00.parquet", FACES).head(2)
    angles = np.linspace(0, 2 * np.pi, 68)
    circle = np.column_stack([32 + 20 * np.cos(angles), 32 + 20 * np.sin(angles)]).ravel()
    faces["landmarks_68"] = [circle, np.full(136, np.nan)]
    figure = overview.face_grid("Landmarks", faces, ["a", "b"], worked_part / "faces", points=True)
    save(figure, tmp_path / "landmarks.png")
    many, few = figure.axes[0], figure.axes[1]
    assert len(many.collections[0].get_offsets()) == 68
    assert len(few.collections[0].get_offsets()) == 5
