"""`unmask predict`: probabilities as text, JSON, CSV and a page; mistakes end in one line."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from clips import draw_people
from records import write_bundle
from unmask.cli import main
from unmask.inference.properties import TrainingData

MakeVideo = Callable[..., Path]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ranges = {"height": (700.0, 1080.0)}
    data = TrainingData({"REAL": 9, "FAKE": 8}, {"swap": 8}, {"own": 17}, {"h264": 17}, ranges)
    return write_bundle(tmp_path_factory.mktemp("bundle"), data)


@pytest.fixture(scope="module")
def clips(make_video: MakeVideo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_video(folder / "a.mp4", (480, 180), frames=8, people=2)
    make_video(folder / "deeper/nobody.mkv", frames=8, people=0)
    (folder / "frames").mkdir()
    for number in range(4):
        picture = draw_people((320, 240), 1, (0.5, 0.5), number / 4)
        cv2.imwrite(str(folder / f"frames/{number}.png"), picture[..., ::-1])
    (folder / "notes.txt").write_text("not a video")
    (folder / "empty").mkdir()
    return folder


def test_a_folder_is_predicted_as_text_json_csv_and_page(
    bundle: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ("json", "csv", "html")
    files = [text for kind in kinds for text in (f"--{kind}", str(tmp_path / f"out.{kind}"))]
    assert main(["predict", str(clips), "--bundle", str(bundle), *files]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    seen, _, frames = found["videos"]
    assert (found["prior"], found["bundle"]) == (0.5, str(bundle))
    assert [len(track["faces"]) for track in seen["tracks"]] == [3, 3]
    assert f"a.mp4: {seen['probability']:.3f} (a face in 3 of 3 frames; each track: " in printed
    assert "nobody.mkv: no prediction (no_face: no face in 3 frames)" in printed
    assert "log loss of 0.500 (95 % interval 0.400 to 0.600)" in printed

    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["video"]).name for row in rows] == ["a.mp4", "nobody.mkv", "frames"]
    assert float(rows[0]["probability"]) == seen["probability"]
    assert (rows[1]["probability"], rows[1]["status"]) == ("", "no_face")

    page = (tmp_path / "out.html").read_text()
    assert f"{seen['probability']:.3f}" in page
    assert [len(track["faces"]) for track in frames["tracks"]] == [3]
    assert page.count("data:image/svg+xml") == 2
    assert page.count("data:image/jpeg") == (2 + 1) * 3 * 3  # tracks, frames, pictures of each
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "Its picture is lower than in 95 % of the training videos: 180 pixels high" in page
    assert "no face in 3 frames" in page


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["absent.mp4"], "absent.mp4: no such file"),
        (["a.mp4", "*.webm"], "*.webm: no such file"),
        (["empty"], "empty: no video"),
        (["notes.txt"], "notes.txt: no video"),
    ],
)
def test_without_a_video_the_status_is_2_and_nothing_is_predicted(
    given: list[str],
    named: str,
    bundle: Path,
    clips: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [str(clips / one) for one in given]
    assert main(["predict", *paths, "--bundle", str(bundle), "--workers", "0"]) == 2
    output = capsys.readouterr()
    assert not output.out
    assert str(clips / named) in output.err.splitlines()[-1]


def test_a_pattern_stands_for_the_files_that_match(
    bundle: Path, clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--bundle", str(bundle), "--workers", "0", "--prior", "0.1"]
    assert main(["predict", *given, str(clips / "*.mp4"), str(clips / "a.mp4")]) == 0
    assert capsys.readouterr().out.count("a.mp4: 0.") == 1
