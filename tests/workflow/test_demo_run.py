"""The whole DAG on the miniature challenge, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import nbformat
import numpy as np
import pandas as pd
import pytest
from bare import bare_environment
from nbclient import NotebookClient

from unmask.demo import DemoSummary
from unmask.files import write_json
from unmask.tables import SHIFT_SAMPLE, VIDEOS, read_table
from unmask.vocabulary import Status

from running import Finished, Workflow, roots

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


def metrics_of(results: Path) -> dict[str, dict[str, float]]:
    content: dict[str, dict[str, float]] = json.loads(
        (results / "evaluation" / "baseline" / "metrics.json").read_text()
    )
    return content


def test_the_demo_beats_the_constant_baseline_clearly(finished: Finished) -> None:
    report = metrics_of(finished.results)["test"]
    assert report["log_loss"] < 0.8 * report["constant_log_loss"]
    assert report["roc_auc"] > 0.8


def test_shuffled_labels_do_not_beat_the_constant(
    finished: Finished, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    train = tmp_path / "train"
    rng = np.random.default_rng(7)
    entries = {}
    for part in sorted((finished.challenge.root / "train").iterdir()):
        (train / part.name).mkdir(parents=True)
        for video in part.glob("*.mp4"):
            (train / part.name / video.name).hardlink_to(video)
        entries[part.name] = json.loads((part / "metadata.json").read_text())
    names = [(part, name) for part, videos in entries.items() for name in videos]
    labels = rng.permutation([entries[part][name]["label"] for part, name in names])
    for (part, name), label in zip(names, labels, strict=True):
        entries[part][name] = {"label": str(label), "split": "train", "original": None}
    for part, videos in entries.items():
        (train / part / "metadata.json").write_text(json.dumps(videos))
    output = tmp_path_factory.mktemp("shuffled")
    finished.workflow.finish(
        "results/evaluation/baseline/metrics.json",
        directory=output,
        config=[*roots(finished.challenge, train), "training={epochs: 3, batches: balanced}"],
    )
    report = metrics_of(output / "results")["test"]
    assert report["log_loss"] > 0.95 * report["constant_log_loss"]


def test_a_second_run_has_nothing_to_do(finished: Finished) -> None:
    again = finished.workflow.finish(directory=finished.output, config=finished.config)
    assert "Nothing to be done" in again


def test_the_same_seed_gives_the_same_bytes_and_metrics_also_on_one_core(
    finished: Finished, tmp_path: Path
) -> None:
    stages = {"directory": tmp_path, "config": finished.config}
    one_core = finished.workflow.finish("results/splits.parquet", cores=1, **stages)
    assert "Removing temporary output results/frames/" in one_core
    finished.workflow.finish("results/evaluation/baseline/metrics.json", **stages)
    shards = sorted((finished.results / "faces").iterdir())
    assert len(shards) == 6
    for path in [*shards, finished.results / "splits.parquet"]:
        assert path.read_bytes() == (tmp_path / path.relative_to(finished.output)).read_bytes()
    assert metrics_of(tmp_path / "results") == metrics_of(finished.results)


def test_everything_a_run_writes_is_below_the_directory(finished: Finished) -> None:
    written = {path.name for path in finished.output.iterdir()}
    expected = {".snakemake", "benchmarks", "logs", "mlartifacts", "mlflow.db", "results"}
    assert written == expected
    in_repository = {path.name for path in finished.workflow.repository.iterdir()}
    assert not in_repository & (expected - {".snakemake"})


def test_every_odd_clip_is_in_the_ledger_with_its_status(finished: Finished) -> None:
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


def test_the_counts_of_the_ledger_add_up_to_every_video_named(finished: Finished) -> None:
    named = [
        name
        for part in (finished.challenge.root / "train").iterdir()
        for name in json.loads((part / "metadata.json").read_text())
    ]
    summary = json.loads((finished.results / "ledger.json").read_text())
    assert summary["videos"] == len(named) == sum(summary["statuses"].values())


def test_every_row_of_the_sample_is_answered_once_within_the_clip(finished: Finished) -> None:
    sample = pd.read_csv(finished.challenge.root / "test" / "sample_submission.csv")
    submission = pd.read_csv(finished.results / "submission.csv")
    assert submission["filename"].tolist() == sample["filename"].tolist()
    assert submission["label"].between(0.01, 0.99).all()


def test_the_bundle_alone_gives_the_same_submission(finished: Finished, tmp_path: Path) -> None:
    test = finished.challenge.root / "test"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    # -S -E would hide the packages too; what counts is that unmask comes from the bundle's wheel.
    command = [sys.executable, str(finished.results / "kaggle" / "unmask" / "predict.py")]
    command += ["--videos", str(test / "test_videos")]
    command += ["--sample", str(test / "sample_submission.csv")]
    command += ["--out", str(tmp_path / "submission.csv"), "--threads", "2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = (finished.results / "submission.csv").read_text()
    assert (tmp_path / "submission.csv").read_text() == expected


def test_the_notebook_answers_the_same_in_a_bare_environment_without_a_network(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, kernels = tmp_path / "input", tmp_path / "jupyter" / "kernels" / "bare"
    shutil.copytree(finished.results / "kaggle" / "unmask", inputs / "unmask")
    (inputs / "challenge").symlink_to(finished.challenge.root / "test")
    python = bare_environment(tmp_path / "bare")
    kernels.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = {"argv": argv, "display_name": "bare", "language": "python"}
    write_json(kernel, kernels / "kernel.json")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    # As many as the workflow's rule had: sums of floats depend on it, in the last digit told.
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    notebook = nbformat.read(inputs / "unmask" / "submission.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("/kaggle/input", str(inputs))
    client = NotebookClient(
        notebook, kernel_name="bare", timeout=900, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    expected = (finished.results / "submission.csv").read_text()
    assert (tmp_path / "submission.csv").read_text() == expected
    assert "mean" in str(notebook.cells[-1].outputs)


def test_the_bare_environment_has_no_network_and_lacks_what_the_wheels_bring(
    tmp_path: Path,
) -> None:
    python = bare_environment(tmp_path / "bare")
    code = (
        "import importlib.util, socket, torch, timm, cv2, pandas, safetensors\n"
        "names = ('av', 'pebble', 'pydantic', 'scipy', 'unmask', 'mlflow', 'pyarrow')\n"
        "assert not any(map(importlib.util.find_spec, names))\n"
        "socket.create_connection(('192.0.2.1', 80), 1)"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert "RuntimeError: no network here" in done.stderr


def test_a_bundle_one_byte_too_large_is_not_written(finished: Finished, tmp_path: Path) -> None:
    # A copy: the limit is a parameter of the comparison, too, which the others would find changed.
    output = tmp_path / "copy"
    shutil.copytree(finished.output, output)
    files = (finished.results / "kaggle" / "unmask").iterdir()
    total = sum(path.stat().st_size for path in files)
    # The limit itself stands in config.json, there as 1000000000.
    limit = total - len(str(1_000_000_000)) + len(str(total)) - 1
    done = finished.workflow.run(
        "results/kaggle/second",
        directory=output,
        config=[*finished.config, f"kaggle={{bundle: second, max_bytes: {limit}}}"],
    )
    assert done.returncode != 0
    told = f"kaggle.max_bytes: the bundle has {limit + 1:,} bytes, 1 too many (av-"
    assert told in done.stdout
    assert not (output / "results" / "kaggle" / "second").exists()


def test_a_flipped_byte_in_the_bundle_is_named(finished: Finished, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(finished.results / "kaggle" / "unmask", bundle)
    weights = next(bundle.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    test = finished.challenge.root / "test"
    command = [sys.executable, str(bundle / "predict.py"), "--videos", str(test / "test_videos")]
    command += ["--sample", str(test / "sample_submission.csv"), "--out", str(tmp_path / "out.csv")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert weights.name in done.stderr
    assert "Traceback" not in done.stderr


def test_mlflow_has_one_run_with_metrics_and_a_registered_champion(finished: Finished) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{finished.output / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    job = json.loads((finished.results / "train/baseline/fold0-seed1/run.json").read_text())
    assert run.info.run_id == job["run_id"]
    assert run.info.status == "FINISHED"
    epochs = client.get_metric_history(run.info.run_id, "val/log_loss")
    assert len(epochs) == len(job["history"]) > 1
    assert {"train/loss", "test/log_loss"} <= set(run.data.metrics)
    assert any(name.startswith("system/") for name in run.data.metrics)
    assert run.data.params["backbone"] == "tf_efficientnet_lite0"
    assert "HorizontalFlip" in run.data.params["augment"]
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {
        "faces-train",
        "faces-val",
    }
    assert {"git_commit", "config_digest"} <= set(run.data.tags)
    champion = client.get_model_version_by_alias("unmask", "champion")
    assert champion.run_id == run.info.run_id


def test_shifts_are_measured_on_whole_families_of_both_roles(finished: Finished) -> None:
    folder = finished.results / "evaluation" / "baseline"
    content = json.loads((folder / "shifts.json").read_text())
    sample = read_table(finished.results / "shifts" / "sample.parquet", SHIFT_SAMPLE)
    assert sum(content[role]["clean"]["videos"] for role in ("test", "val")) == len(sample) >= 8
    worst = content["test"]["shifts"][content["test"]["worst"]]["log_loss"]
    assert worst >= content["test"]["mean_log_loss"] > 0
    assert (folder / "shifts.svg").stat().st_size > 0


def test_the_report_holds_every_category(finished: Finished, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    finished.workflow.finish("--report", report, directory=finished.output, config=finished.config)
    text = report.read_text()
    for category in ("Data", "Training", "Evaluation", "Experiments"):
        assert f'"{category}"' in text
    assert "image/svg+xml" in text


def test_every_rule_left_a_log_with_numbers_and_a_benchmark(finished: Finished) -> None:
    logs = list((finished.output / "logs").rglob("*.log"))
    assert len(logs) == len(list((finished.output / "benchmarks").rglob("*.tsv")))
    for log in logs:
        assert any(character.isdigit() for character in log.read_text()), log


def test_the_number_of_jobs_depends_on_the_shards_alone(
    workflow: Workflow, challenge: DemoSummary, tmp_path: Path
) -> None:
    config = [*roots(challenge), "shards_per_part=3"]
    printed = workflow.finish("-n", directory=tmp_path, config=config)
    counts = dict(re.findall(r"^(\w+) +(\d+)$", printed, flags=re.MULTILINE))
    assert counts["probe"] == counts["extract_frames"] == counts["crop_faces"] == "6"
    assert counts["embed_faces"] == counts["audit_labels"] == "6"
    assert counts["shift_faces"] == "6"
    assert counts["total"] == "60"


def test_parts_that_are_one_shard_give_the_same_tables_from_fewer_jobs(
    workflow: Workflow, challenge: DemoSummary, finished: Finished, tmp_path: Path
) -> None:
    tables = ("results/videos.parquet", "results/splits.parquet")
    # One a folder, one packed.
    train = tmp_path / "train"
    folder, packed = sorted((challenge.root / "train").iterdir())
    shutil.make_archive(str(train / packed.name), "zip", packed.parent, packed.name)
    (train / folder.name).symlink_to(folder)
    config = [*roots(challenge, train), "parts_per_shard=auto"]
    printed = workflow.finish(*tables, directory=tmp_path, config=config)
    assert re.search(r"^crop_faces +1$", printed, flags=re.MULTILINE)
    for table in tables:
        assert (tmp_path / table).read_bytes() == (finished.output / table).read_bytes()
    # With another part in it a shard is another file, so nothing old is taken for it.
    (shard,) = (tmp_path / "results/faces").glob("*.tar")
    assert re.fullmatch(r"dfdc_train_part_0\+1-[0-9a-f]{6}-00\.tar", shard.name)


def test_small_parts_of_a_set_are_one_shard_of_the_set(
    workflow: Workflow, challenge: DemoSummary, tmp_path: Path
) -> None:
    sets = f"evaluation={{sets: {{other: {challenge.root / 'train'}}}}}"
    printed = workflow.finish(
        *("-n", "results/sets/other/videos.parquet"),
        directory=tmp_path,
        config=[*roots(challenge), sets, "parts_per_shard=auto"],
    )
    probed = re.findall(r"^rule probe:(?:\n .*)*?\n +wildcards: shard=(\S+)", printed, re.MULTILINE)
    assert len(probed) == 1
    assert re.fullmatch(r"sets/other/dfdc_train_part_0\+1-[0-9a-f]{6}-00", probed[0])
