"""Bad input ends with one clear line before any job starts, or is a row of the ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unmask.demo import DemoSummary
from unmask.tables import VIDEOS, read_table
from unmask.vocabulary import Status

from running import Workflow, roots

pytestmark = pytest.mark.workflow


def refused(workflow: Workflow, *config: str, directory: Path) -> str:
    done = workflow.run(directory=directory, config=config, configfile=None)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    assert not (directory / "results").exists()
    return next(line for line in done.stdout.splitlines() if line.startswith("unmask: "))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("frames={per_vido: 8}", "'frames.per_vido' is not a known key, did you mean"),
        ("frames={per_video: few}", "frames.per_video"),
        ("kaggle={experiment: nobody}", "kaggle.experiment: 'nobody'"),
        ("experiments={a: {folds: [9]}}", "experiments.a.folds: fold 9 does not exist"),
        ("data_root=nowhere", "data_root: no folder nowhere"),
        ("test_root=nowhere", "test_root: no "),
    ],
)
def test_a_wrong_configuration_is_one_line_that_names_the_key(
    workflow: Workflow, challenge: DemoSummary, tmp_path: Path, config: str, named: str
) -> None:
    data = f"data_root={Path(challenge.root) / 'train'}"
    pairs = [config] if config.startswith("data_root") else [data, config]
    assert named in refused(workflow, *pairs, directory=tmp_path)


def test_a_folder_without_parts_is_named(workflow: Workflow, tmp_path: Path) -> None:
    (tmp_path / "data" / "videos").mkdir(parents=True)
    line = refused(workflow, f"data_root={tmp_path / 'data'}", directory=tmp_path / "out")
    assert f"no part in {tmp_path / 'data'}" in line


def test_a_damaged_archive_is_named(workflow: Workflow, tmp_path: Path) -> None:
    (tmp_path / "part_0.zip").write_bytes(b"PK\x03\x04 and no more")
    line = refused(workflow, f"data_root={tmp_path / 'part_0.zip'}", directory=tmp_path / "out")
    assert f"{tmp_path / 'part_0.zip'}: no readable zip archive" in line


def test_jobs_in_containers_need_an_image(
    workflow: Workflow, challenge: DemoSummary, tmp_path: Path
) -> None:
    for image, told in (("", "container: --sdm apptainer asks"), ("no.sif", "no image no.sif")):
        config = [*roots(challenge), f"container={image}"]
        done = workflow.run("--sdm", "apptainer", "-n", directory=tmp_path, config=config)
        assert done.returncode != 0
        assert told in done.stdout
        assert "Traceback" not in done.stdout


def test_malformed_metadata_stops_its_part_with_the_line_and_column(
    workflow: Workflow, challenge: DemoSummary, tmp_path: Path
) -> None:
    part = tmp_path / "data" / "part_0"
    part.mkdir(parents=True)
    (part / "metadata.json").write_text('{"a.mp4": {"label": "REAL",}}')
    done = workflow.run(directory=tmp_path / "out", config=roots(challenge, part.parent))
    assert done.returncode != 0
    assert "metadata.json: is no valid JSON at line 1, column" in done.stdout
    assert "Traceback" not in done.stdout


def test_what_is_wrong_with_an_entry_is_a_row_of_the_ledger(
    workflow: Workflow, challenge: DemoSummary, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for part in sorted((Path(challenge.root) / "train").iterdir()):
        (data / part.name).mkdir(parents=True)
        for video in part.glob("*.mp4"):
            (data / part.name / video.name).hardlink_to(video)
        entries = json.loads((part / "metadata.json").read_text())
        (data / part.name / "metadata.json").write_text(json.dumps(entries))
    (data / "empty_part").mkdir()
    (data / "empty_part" / "metadata.json").write_text("{}")
    (data / "wrong_part").mkdir()
    wrong = {
        "../escape.mp4": {"label": "REAL", "split": "train", "original": None},
        "nolabel.mp4": {"split": "train"},
        "text.mp4": "FAKE",
        "absent.mp4": {"label": "FAKE", "split": "train", "original": "gone.mp4"},
    }
    (data / "wrong_part" / "metadata.json").write_text(json.dumps(wrong))
    output = tmp_path / "out"
    workflow.finish(
        "results/splits.parquet",
        directory=output,
        config=[*roots(challenge, data), "frames={per_video: 2}"],
    )
    ledger = read_table(output / "results" / "videos.parquet", VIDEOS)
    statuses = ledger[ledger["part"] == "wrong_part"].set_index("video")["status"].to_dict()
    assert statuses == {
        "../escape.mp4": Status.UNSAFE_NAME,
        "nolabel.mp4": Status.BAD_METADATA,
        "text.mp4": Status.BAD_METADATA,
        "absent.mp4": Status.MISSING,
    }


def test_both_snakefiles_describe_the_same_dag(
    workflow: Workflow, challenge: DemoSummary, tmp_path: Path
) -> None:
    config = roots(challenge)
    dags = [
        workflow.finish("--dag", "--snakefile", name, "-q", directory=tmp_path, config=config)
        for name in ("Snakefile", "workflow/Snakefile")
    ]
    assert dags[0][dags[0].index("digraph") :] == dags[1][dags[1].index("digraph") :]
