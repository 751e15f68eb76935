"""Training is repeatable, and ends alike whether it was interrupted, killed or spread."""

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.special import logit

from clips import encode_video
from conftest import write_part
from stages import crop_parts
from unmask.config import (
    AuditsConfig,
    Config,
    FacesConfig,
    FramesConfig,
    Mixture,
    TrainingConfig,
)
from unmask.errors import UnmaskError
from unmask.tables import FACES, SPLITS, write_table
from unmask.training import fit as fitting
from unmask.training.fit import FitJob, choose_monitor, fit
from unmask.training.resume import claim, discard
from unmask.training.run_record import RunRecord

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* in eval mode"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint"),
]

CONFIG = TrainingConfig(
    backbone="test_resnet",
    weights="none",
    image_size=32,
    batch_size=4,
    epochs=3,
    drop_rate=0.3,
    ema=0.9,
    patience=3,
)
AUDITS = AuditsConfig(label_noise="keep")


def redden(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(picture // np.array([1, 2, 2]), np.uint8)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> FitJob:
    """Three REAL clips and three FAKE ones of eight crops each, and an MLflow database."""
    root = tmp_path_factory.mktemp("fit")
    entries = {f"real{i}.mp4": "REAL" for i in range(3)}
    entries |= {f"fake{i}.mp4": f"real{i}.mp4" for i in range(3)}
    part = write_part(root / "part", entries)
    for name in entries:
        change = redden if name.startswith("fake") else None
        encode_video(part / name, at=(0.45 + 0.03 * int(name[4]), 0.5), change=change)
    config = Config(frames=FramesConfig(per_video=8), faces=FacesConfig(size=64))
    crop_parts([part], root, config, shard="faces/part-00.tar")
    rows = [
        ("part", name, "REAL" if name.startswith("real") else "FAKE", f"real{name[4]}.mp4", name[4])
        for name in entries
    ]
    splits = pd.DataFrame(rows, columns=["part", "video", "label", "family", "fold"])
    splits = splits.assign(group=splits["family"], fold=splits["fold"].astype(int), source="web")
    write_table(splits, SPLITS, root / "splits.parquet")
    return FitJob(
        experiment="tiny",
        fold=0,
        folds=3,
        seed=1,
        shards=root / "faces",
        indices=[root / "faces/part-00.parquet"],
        splits=root / "splits.parquet",
        noise=[],
        tracking_uri=f"sqlite:///{root}/mlflow.db",
        tracking_experiment="unmask",
        threads=1,
    )


def record_of(output: Path) -> RunRecord:
    return RunRecord.read(output / "run.json")


def losses(output: Path) -> list[tuple[float, float]]:
    return [(row["train/loss"], row["val/log_loss"]) for row in record_of(output).epochs()]


def runs_of(job: FitJob, record: RunRecord) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(job.tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name = 'unmask'")
    query = f"tags.`unmask.run_id` = '{record.description.run_id}'"
    return list(client.search_runs([experiment.experiment_id], query))


@pytest.fixture(scope="module")
def whole(job: FitJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole")
    fit(job, CONFIG, AUDITS, output)
    return output


def test_a_fit_writes_a_model_and_its_record_and_deletes_checkpoints(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == {"model.safetensors", "run.json"}
    record = record_of(whole)
    assert (record.experiment, record.model, record.seed) == ("tiny", "fold0-seed1", 1)
    epochs = record.epochs()
    assert [row["epoch"] for row in epochs] == [0, 1, 2]
    assert {"train/loss", "train/images_per_s", "train/waiting", "val/auc"} <= set(epochs[0])
    assert all(0 < row["val/blended_log_loss"] < 9 for row in epochs)
    assert (record.best_epoch, record.val_log_loss) == (2, epochs[2]["val/log_loss"])
    assert any("train/learning_rate" in logged.metrics for logged in record.history)
    assert record.prior_shift == 0  # half of the training crops are FAKE
    assert record.description.parameters["backbone"] == "test_resnet"


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    whole: Path, job: FitJob, tmp_path: Path
) -> None:
    fit(job, CONFIG, AUDITS, tmp_path / "again")
    fit(replace(job, seed=2), CONFIG, AUDITS, tmp_path / "other")
    model = (whole / "model.safetensors").read_bytes()
    assert (tmp_path / "again/model.safetensors").read_bytes() == model
    assert (tmp_path / "other/model.safetensors").read_bytes() != model


class StopAt(logging.Handler):
    """Send SIGTERM to all processes, as Slurm does, at a line of the log that begins like this."""

    def __init__(self, beginning: str) -> None:
        super().__init__()
        self.beginning = beginning

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(self.beginning):
            # By another process: PyTorch's workers look who sent it.
            everyone = [psutil.Process(), *psutil.Process().children()]
            subprocess.run(["kill", *(str(one.pid) for one in everyone)], check=True)


def stop_fit(
    beginning: str, job: FitJob, config: TrainingConfig, output: Path
) -> pytest.ExceptionInfo[UnmaskError]:
    """Run a fit that gets SIGTERM at a line of its log."""
    stop = StopAt(beginning)
    fitting.logger.addHandler(stop)
    try:
        with pytest.raises(UnmaskError, match="asked to stop") as caught:
            fit(job, config, AUDITS, output)
    finally:
        fitting.logger.removeHandler(stop)
    return caught


@pytest.fixture(scope="module", autouse=True)
def log_every_batch() -> Iterator[None]:
    fitting.logger.setLevel(logging.INFO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "_LINE_EVERY_S", 0.0)
        yield


@pytest.mark.parametrize(
    "moments",
    [
        ["epoch 1, batch 2 of"],
        ["epoch 0, batch 4 of"],  # the last one: the stop waits for the validation after it
        ["epoch 1: "],
        ["epoch 0, batch 2 of", "epoch 0, batch 3 of", "epoch 2, batch 1 of"],
    ],
    ids=lambda moments: moments[-1].strip(),
)
def test_an_interrupted_fit_ends_like_one_that_was_not(
    moments: list[str], whole: Path, job: FitJob, tmp_path: Path
) -> None:
    for moment in moments:
        stop_fit(moment, job, CONFIG, tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"checkpoints"}
    fit(job, CONFIG, AUDITS, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (
        whole / "model.safetensors"
    ).read_bytes()
    assert losses(tmp_path) == losses(whole)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "run.json"}


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "sgd", "sam": 0.05, "ema": 0.0, "clip_norm": 1.0},
        {"accumulate": 2, "precision": "bf16-mixed", "batches": "plain", "augment": "none"},
        {"augment": [{"PairMixup": {"p": 1}}], "loss": "bce", "batches": "paired"},
        {"augment": "strong", "batches": Mixture(pairs=1, self_blended=1)},
    ],
    ids=["sam", "accumulate", "mixup", "mixture"],
)
def test_so_does_one_with_other_settings(
    values: dict[str, Any], job: FitJob, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update=values)
    fit(job, config, AUDITS, tmp_path / "whole")
    stop_fit("epoch 1, batch 2 of", job, config, tmp_path / "stopped")
    fit(job, config, AUDITS, tmp_path / "stopped")
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
    assert np.isfinite(losses(tmp_path / "whole")).all()


def test_a_fit_interrupted_after_early_stopping_trains_no_more(
    job: FitJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With this rate nothing improves after the first epoch."""
    monkeypatch.setattr(fitting, "FEWEST_FAMILIES", 1)
    values = {"backbone": "test_vit", "learning_rate": 1e-30, "ema": 0.0, "patience": 1}
    config = CONFIG.model_copy(update=values)
    fit(job, config, AUDITS, tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) < config.epochs
    stop_fit(f"epoch {len(losses(tmp_path / 'whole')) - 1}: ", job, config, tmp_path / "stopped")
    fit(job, config, AUDITS, tmp_path / "stopped")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


def test_workers_finish_the_step_that_an_interrupted_fit_waits_for(
    job: FitJob, tmp_path: Path
) -> None:
    """A cluster sends SIGTERM to all processes of a job at once."""
    with_workers = replace(job, threads=2)
    fit(with_workers, CONFIG, AUDITS, tmp_path / "whole")
    stop_fit("epoch 1, batch 1 of", with_workers, CONFIG, tmp_path / "stopped")
    fit(with_workers, CONFIG, AUDITS, tmp_path / "stopped")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


def test_a_resumed_fit_continues_its_mlflow_run(job: FitJob, tmp_path: Path) -> None:
    stop_fit("epoch 0, batch 2 of", job, CONFIG, tmp_path)
    fit(job, CONFIG, AUDITS, tmp_path)
    (run,) = runs_of(job, record_of(tmp_path))
    assert run.info.status == "FINISHED"
    client = mlflow.MlflowClient(job.tracking_uri)
    history = client.get_metric_history(run.info.run_id, "val/log_loss")
    assert [one.value for one in history] == [row[1] for row in losses(tmp_path)]


def test_a_checkpoint_with_other_settings_is_ignored(job: FitJob, tmp_path: Path) -> None:
    stop_fit("epoch 1, batch 1 of", job, CONFIG, tmp_path / "stopped")
    other = CONFIG.model_copy(update={"learning_rate": 1e-3})
    for output in ("stopped", "fresh"):
        fit(job, other, AUDITS, tmp_path / output)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "fresh")


def command(job: FitJob, config: TrainingConfig, output: Path) -> list[str]:
    settings = {
        "training": config.model_dump(exclude={"folds", "seeds"}),
        "audits": {"label_noise": "keep"},
    }
    return [
        *(sys.executable, "-m", "unmask", "training.fit:fit", "--experiment", job.experiment),
        *("--fold", str(job.fold), "--folds", str(job.folds), "--seed", str(job.seed)),
        *("--shards", str(job.shards), "--noise", "--threads", "1"),
        *("--indices", str(job.indices[0]), "--splits", str(job.splits)),
        *("--tracking-uri", job.tracking_uri, "--tracking-experiment", job.tracking_experiment),
        *("--settings", json.dumps(settings)),
        *("--output", str(output)),
    ]


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_fit_ends_like_one_that_was_not(whole: Path, job: FitJob, tmp_path: Path) -> None:
    process = subprocess.Popen(command(job, CONFIG, tmp_path))
    wait_for((tmp_path / "checkpoints/last.ckpt").exists, 120)
    process.kill()
    process.wait()
    assert not (tmp_path / "run.json").exists()
    fit(job, CONFIG, AUDITS, tmp_path)
    assert losses(tmp_path) == losses(whole)


@pytest.mark.slow
def test_a_second_fit_of_the_same_model_is_refused_and_does_no_harm(
    whole: Path, job: FitJob, tmp_path: Path
) -> None:
    process = subprocess.Popen(command(job, CONFIG, tmp_path))
    wait_for((tmp_path / "checkpoints/last.ckpt").exists, 120)
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(UnmaskError, match="checkpoints: another process trains this model"):
            fit(job, CONFIG, AUDITS, tmp_path)
    finally:
        process.send_signal(signal.SIGCONT)
        status = process.wait(300)
    assert status == 0
    assert losses(tmp_path) == losses(whole)


def test_a_job_that_starts_while_checkpoints_are_deleted_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "last.ckpt").touch()

    def start_another_job(path: Path) -> None:
        folder.mkdir()
        claim(folder).close()
        (folder / "last.ckpt").write_text("of the other job")
        monkeypatch.undo()
        shutil.rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", start_another_job)
    discard(folder, claim(folder))
    assert (folder / "last.ckpt").read_text() == "of the other job"
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "batch_size"), [(2, 4), (3, 6)])
def test_several_devices_train_what_one_trains(
    devices: int, batch_size: int, job: FitJob, tmp_path: Path
) -> None:
    """Three devices cannot share 16 validation crops evenly, nor the crops of an epoch.

    AdamW would make a full step of a gradient of rounding errors; SGD does not.
    """
    values = {"backbone": "test_vit", "batch_size": batch_size, "drop_rate": 0.0, "epochs": 2}
    values |= {"optimizer": "sgd", "learning_rate": 0.05, "loss": "two_sided"}
    config = CONFIG.model_copy(update=values)
    fit(job, config, AUDITS, tmp_path / "one")
    both = config.model_copy(update={"devices": devices, "strategy": "ddp"})
    subprocess.run(command(job, both, tmp_path / "many"), check=True, timeout=300)
    np.testing.assert_allclose(losses(tmp_path / "many"), losses(tmp_path / "one"), rtol=1e-4)
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "many")]
    for key, value in models[0].items():
        torch.testing.assert_close(models[1][key], value, rtol=1e-3, atol=1e-4)
    assert len(runs_of(job, record_of(tmp_path / "many"))) == 1


@pytest.mark.parametrize(
    ("real", "fake", "blends", "monitor"),
    [
        (40, 30, False, "val/log_loss"),
        (40, 30, True, "val/log_loss"),
        (40, 29, True, "val/blended_log_loss"),
        (30, 0, True, "val/blended_log_loss"),
        (40, 29, False, None),
        (29, 40, True, None),
    ],
)
def test_few_families_choose_no_epoch(
    real: int, fake: int, blends: bool, monitor: str | None
) -> None:
    groups = [*range(real), *range(fake)]
    val = pd.DataFrame({"label": ["REAL"] * real + ["FAKE"] * fake, "group": groups})
    assert choose_monitor(pd.concat([val] * 8), blends) == monitor


@pytest.mark.parametrize("overfits", [False, True])
def test_with_thirty_families_of_each_label_an_epoch_can_be_chosen(overfits: bool) -> None:
    """Simulate ten epochs whose true log loss falls to the end, or rises again after the seventh.

    From epoch to epoch, the loss of a family differs from the true one by 0.5 (standard deviation).
    """
    rng = np.random.default_rng(0)
    epochs = np.arange(10)
    true = 0.3 + 0.4 * np.exp(-epochs / 2) + 0.1 * overfits * np.maximum(epochs - 6, 0)

    def cost_of_choosing(families: int) -> float:
        measured = (true + rng.normal(0, 0.5, (4000, families, 10))).mean(axis=1)
        return float(np.mean(true[measured.argmin(axis=1)]) - true.min())

    cost_of_the_end, enough = true[-1] - true.min(), 2 * fitting.FEWEST_FAMILIES
    assert cost_of_choosing(6) > cost_of_choosing(enough) + 0.015
    if overfits:
        assert cost_of_choosing(enough) < cost_of_the_end / 10
    else:
        assert cost_of_the_end + 0.015 > cost_of_choosing(enough)


def without_fakes(job: FitJob, folder: Path, folds: tuple[int, ...] = (2,)) -> FitJob:
    splits = pd.read_parquet(job.splits)
    splits = splits[~splits["fold"].isin(folds) | (splits["label"] == "REAL")]
    write_table(splits, SPLITS, folder / "splits.parquet")
    return replace(job, splits=folder / "splits.parquet")


@pytest.mark.parametrize("folds", [(2,), (0, 1, 2)])
def test_no_fake_is_needed_to_train_on(folds: tuple[int, ...], job: FitJob, tmp_path: Path) -> None:
    fit(without_fakes(job, tmp_path, folds), CONFIG, AUDITS, tmp_path / "out")
    record = record_of(tmp_path / "out")
    assert (record.description.parameters["prior"], record.prior_shift) == (0, 0)
    assert np.isfinite(losses(tmp_path / "out")).all()


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ("plain", "training.batches: plain .* of fold 0"),
        ("balanced", "training.batches: balanced .* of fold 0"),
        ("paired", "training.batches: paired"),
    ],
)
def test_some_batches_need_both_labels(
    batches: str, message: str, job: FitJob, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"batches": batches})
    with pytest.raises(UnmaskError, match=message):
        fit(without_fakes(job, tmp_path), config, AUDITS, tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "halved"),
    [
        ({"batches": "plain", "loss": "bce"}, False),
        ({"batches": "plain", "loss": "two_sided"}, True),
        ({"batches": "balanced", "loss": "bce"}, True),
        ({"batches": "paired", "loss": "bce"}, True),
    ],
)
def test_logits_are_shifted_from_the_prior_of_batches_to_that_of_the_data(
    values: dict[str, Any], halved: bool, job: FitJob, tmp_path: Path
) -> None:
    index = pd.read_parquet(job.indices[0])
    fewer = index[(index["video"] != "fake2.mp4") | (index.groupby("video").cumcount() < 3)]
    write_table(fewer, FACES, tmp_path / "faces.parquet")
    config = CONFIG.model_copy(update={**values, "epochs": 1})
    fit(replace(job, indices=[tmp_path / "faces.parquet"]), config, AUDITS, tmp_path / "out")
    record = record_of(tmp_path / "out")
    assert record.description.parameters["prior"] == pytest.approx(3 / 11)
    assert record.prior_shift == pytest.approx(logit(3 / 11) if halved else 0, abs=1e-6)


@pytest.mark.parametrize(("swapped", "low", "high"), [(False, 0.0, 0.45), (True, 0.65, 9.0)])
def test_what_is_learnt_is_in_the_labels(
    swapped: bool, low: float, high: float, job: FitJob, tmp_path: Path
) -> None:
    """With swapped training labels the model is wrong on the validation split."""
    splits = pd.read_parquet(job.splits)
    if swapped:
        trained = splits["fold"] == 2
        other = splits["label"].map({"REAL": "FAKE", "FAKE": "REAL"})
        splits["label"] = splits["label"].where(~trained, other)
    write_table(splits, SPLITS, tmp_path / "splits.parquet")
    values = {"epochs": 10, "patience": 10, "learning_rate": 3e-3, "drop_rate": 0.0, "ema": 0.0}
    values |= {"batches": "paired"}
    config = CONFIG.model_copy(update=values)
    fit(replace(job, splits=tmp_path / "splits.parquet"), config, AUDITS, tmp_path / "out")
    assert low < min(row[1] for row in losses(tmp_path / "out")) < high
