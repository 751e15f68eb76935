"""The whole DAG on the miniature challenge, as a user runs it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import mlflow
import nbformat
import numpy as np
import pandas as pd
import pytest
from bare import bare_environment
from nbclient import NotebookClient

from unmask.files import write_json
from unmask.tables import SHIFT_SAMPLE, VIDEOS, read_table
from unmask.training.run_record import RunRecord
from unmask.vocabulary import Status

from running import Finished, roots

pytestmark = pytest.mark.workflow


def metrics_of(results: Path) -> dict[str, float]:
    content = json.loads((results / "evaluation/baseline/metrics.json").read_text())
    return dict(content["test"])


def test_the_demo_beats_the_constant_baseline_clearly(finished: Finished) -> None:
    metrics = metrics_of(finished.results)
    assert metrics["log_loss"] < 0.8 * metrics["constant_log_loss"]
    assert metrics["roc_auc"] > 0.8


@pytest.mark.slow
def test_shuffled_labels_do_not_beat_the_constant_baseline(
    finished: Finished, tmp_path: Path
) -> None:
    train = shutil.copytree(finished.challenge.root / "train", tmp_path / "train")
    parts = {path: json.loads(path.read_text()) for path in train.glob("*/metadata.json")}
    labels = [entry["label"] for part in parts.values() for entry in part.values()]
    shuffled = iter(np.random.default_rng(7).permutation(labels))
    for path, part in parts.items():
        entry = {"split": "train", "original": None}
        write_json({video: entry | {"label": str(next(shuffled))} for video in part}, path)
    finished.workflow.finish(
        "results/evaluation/baseline/metrics.json",
        directory=tmp_path / "run",
        config=[*roots(finished.challenge, train), "training={epochs: 3, batches: balanced}"],
    )
    metrics = metrics_of(tmp_path / "run/results")
    assert metrics["log_loss"] > 0.95 * metrics["constant_log_loss"]


def test_all_that_a_run_writes_is_below_its_directory(finished: Finished) -> None:
    written = {path.name for path in finished.output.iterdir()}
    expected = {".snakemake", "benchmarks", "logs", "mlartifacts", "mlflow.db", "results"}
    assert written - {".mlflow.db.lock"} == expected
    in_repository = {path.name for path in finished.workflow.repository.iterdir()}
    assert not in_repository & (expected - {".snakemake"})


def test_every_video_is_in_the_ledger_with_its_status(finished: Finished) -> None:
    ledger = read_table(finished.results / "videos.parquet", VIDEOS).set_index("video")["status"]
    expected = {
        "truncated": Status.UNREADABLE,
        "empty_file": Status.UNREADABLE,
        "missing": Status.MISSING,
        "no_face": Status.NO_FACE,
        "audio_track": Status.OK,
        "rotated": Status.OK,
        "original_missing": Status.OK,
    }
    odd = finished.challenge.odd
    assert {oddity: ledger[name] for name, oddity in odd.items()} == expected
    assert (ledger.drop(list(odd)) == Status.OK).all()
    parts = (finished.challenge.root / "train").glob("*/metadata.json")
    named = [name for part in parts for name in json.loads(part.read_text())]
    summary = json.loads((finished.results / "ledger.json").read_text())
    assert summary["videos"] == len(named) == sum(summary["statuses"].values())


def test_the_submission_has_a_probability_for_every_row_of_the_sample(finished: Finished) -> None:
    sample = pd.read_csv(finished.challenge.root / "test" / "sample_submission.csv")
    submission = pd.read_csv(finished.results / "submission.csv")
    assert submission["filename"].tolist() == sample["filename"].tolist()
    assert submission["label"].between(0.01, 0.99).all()


def test_the_notebook_predicts_the_same_in_a_bare_environment_without_a_network(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, kernels = tmp_path / "input", tmp_path / "jupyter/kernels/bare"
    shutil.copytree(finished.results / "kaggle/unmask", inputs / "unmask")
    (inputs / "challenge").symlink_to(finished.challenge.root / "test")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python = bare_environment(tmp_path / "bare")
    code = (
        "import importlib.util, socket\n"
        "names = ('av', 'pebble', 'pydantic', 'scipy', 'unmask', 'mlflow', 'pyarrow')\n"
        "assert not any(map(importlib.util.find_spec, names))\n"
        "socket.create_connection(('192.0.2.1', 80), 1)"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert "RuntimeError: no network here" in done.stderr

    kernels.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    write_json(
        {"argv": argv, "display_name": "bare", "language": "python"}, kernels / "kernel.json"
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    # As many threads as the workflow's rule had: the last digits of sums depend on it.
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    notebook = nbformat.read(inputs / "unmask/submission.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("/kaggle/input", str(inputs))
    client = NotebookClient(
        notebook, kernel_name="bare", timeout=900, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    expected = (finished.results / "submission.csv").read_text()
    assert (tmp_path / "submission.csv").read_text() == expected


def test_mlflow_has_one_run_with_metrics_and_a_registered_champion(finished: Finished) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{finished.output / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    record = RunRecord.read(finished.results / "train/baseline/fold0-seed1/run.json")
    assert run.data.tags["unmask.run_id"] == record.description.run_id
    assert run.info.status == "FINISHED"
    epochs = client.get_metric_history(run.info.run_id, "val/log_loss")
    assert len(epochs) == len(record.epochs()) > 1
    assert {"train/loss", "test/log_loss"} <= set(run.data.metrics)
    assert any(name.startswith("system/") for name in run.data.metrics)
    assert run.data.params["backbone"] == "tf_efficientnet_lite0"
    assert "HorizontalFlip" in run.data.params["augment"]
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {"faces-train", "faces-val"}
    assert {"git_commit", "config_digest"} <= set(run.data.tags)
    champion = client.get_model_version_by_alias("unmask", "champion")
    assert champion.run_id == run.info.run_id


def test_shifts_are_measured_on_families_of_both_roles(finished: Finished) -> None:
    content = json.loads((finished.results / "evaluation/baseline/shifts.json").read_text())
    sample = read_table(finished.results / "shifts/sample.parquet", SHIFT_SAMPLE)
    assert sum(content[role]["clean"]["count"] for role in ("test", "val")) == len(sample) >= 8
    worst = content["test"]["shifts"][content["test"]["worst"]]["log_loss"]
    assert worst >= content["test"]["mean_log_loss"] > 0


def test_the_report_holds_every_category(finished: Finished, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    finished.workflow.finish("--report", report, directory=finished.output, config=finished.config)
    text = report.read_text()
    for category in ("Data", "Training", "Evaluation", "Experiments"):
        assert f'"{category}"' in text
    assert "image/svg+xml" in text


def test_every_job_left_a_log_with_numbers_and_a_benchmark(finished: Finished) -> None:
    logs = list((finished.output / "logs").rglob("*.log"))
    assert len(logs) == len(list((finished.output / "benchmarks").rglob("*.tsv")))
    for log in logs:
        assert any(character.isdigit() for character in log.read_text()), log


def test_parts_joined_in_one_shard_give_the_same_tables_on_one_core(
    finished: Finished, tmp_path: Path
) -> None:
    # One part is a folder, the other an archive.
    train = tmp_path / "train"
    folder, packed = sorted((finished.challenge.root / "train").iterdir())
    shutil.make_archive(str(train / packed.name), "zip", packed.parent, packed.name)
    (train / folder.name).symlink_to(folder)
    printed = finished.workflow.finish(
        *("results/videos.parquet", "results/splits.parquet"),
        directory=tmp_path,
        cores=1,
        config=[*roots(finished.challenge, train), "parts_per_shard=auto"],
    )
    assert "Removing temporary output results/frames/" in printed
    for table in ("results/videos.parquet", "results/splits.parquet"):
        assert (tmp_path / table).read_bytes() == (finished.output / table).read_bytes()
    # A shard with another part in it gets another name, so that no old file is taken for it.
    (shard,) = (tmp_path / "results/faces").glob("*.tar")
    assert re.fullmatch(r"dfdc_train_part_0\+1-[0-9a-f]{6}-00\.tar", shard.name)
