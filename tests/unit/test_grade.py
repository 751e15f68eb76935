"""A submission is graded with the metric of the challenge."""

from pathlib import Path

import pytest

from unmask.cli import main


def write(path: Path, rows: dict[str, float]) -> Path:
    path.write_text("filename,label\n" + "".join(f"{name},{x}\n" for name, x in rows.items()))
    return path


def test_the_order_of_videos_does_not_matter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submission = write(tmp_path / "submission.csv", {"a.mp4": 0.9, "b.mp4": 0.2, "c.mp4": 0.5})
    labels = write(tmp_path / "labels.csv", {"c.mp4": 1, "b.mp4": 0, "a.mp4": 1})
    assert main(["grade", "--submission", str(submission), "--labels", str(labels)]) == 0
    # -(ln 0.9 + ln 0.8 + ln 0.5) / 3; -(2/3 ln 2/3 + 1/3 ln 1/3)
    expected = "log loss 0.3406 (constant baseline 0.6365), AUC 1.0000, 3 videos, 2 FAKE"
    assert capsys.readouterr().out.strip() == expected


def test_files_that_cannot_be_graded_are_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submission = write(tmp_path / "submission.csv", {"a.mp4": 0.9, "b.mp4": 0.2})
    other = write(tmp_path / "other.csv", {"a.mp4": 1, "c.mp4": 0})
    no_label = write(tmp_path / "half.csv", {"a.mp4": 0.5, "b.mp4": 0})
    (tmp_path / "text.csv").write_text("name\na.mp4\n")
    for labels, reason in (
        (other, "2 videos are only in it or only in"),
        (no_label, "a label is neither 0 nor 1"),
        (tmp_path / "text.csv", "not a CSV of filename,label"),
        (tmp_path / "absent.csv", "not a CSV of filename,label"),
    ):
        assert main(["grade", "--submission", str(submission), "--labels", str(labels)]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert "Traceback" not in error
