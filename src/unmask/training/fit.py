"""The fit of one experiment on one fold, as seven steps."""

from __future__ import annotations

import logging
import math
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
)

from unmask.config import AuditsConfig, TrainingConfig
from unmask.errors import UnmaskError
from unmask.splits.roles import rows_to_choose_on, with_roles
from unmask.tables import (
    FACES,
    NOISE,
    SPLITS,
    Label,
    Role,
    atomic_path,
    read_table,
    read_tables,
    write_json,
)
from unmask.tracking import start_training_run
from unmask.training.backbones import create_backbone, save_model
from unmask.training.batches import HALF
from unmask.training.dataset import (
    create_score_loader,
    create_train_loader,
    labelled_faces,
    loader_workers,
    treat_label_noise,
)
from unmask.training.module import DeepfakeClassifier

logger = logging.getLogger(__name__)

_LINE_EVERY_S = 5.0


@dataclass(frozen=True)
class FitJob:
    """What to train, on what.

    Attributes:
        experiment: its name.
        fold: the fold that reports, and so takes no part in the fit.
        folds: number of folds of the split.
        seed: of initialisation, order and augmentation.
        shards: folder of face shards.
        indices: face indices of all shards.
        splits: the split table.
        noise: the label audits of all shards; none where FAKE faces are kept as they are.
        tracking: `results/tracking.json`, which says where MLflow keeps runs.
        threads: CPU threads; one prepares batches, or more of many.
    """

    experiment: str
    fold: int
    folds: int
    seed: int
    shards: Path
    indices: list[Path]
    splits: Path
    noise: list[Path]
    tracking: Path
    threads: int


def fit(job: FitJob, config: TrainingConfig, audits: AuditsConfig, output: Path) -> None:
    """Train one model; write `model.safetensors`, `last.ckpt` and `run.json` into `output`.

    The model is that of the epoch with the lowest val/log_loss on the select role.

    Raises:
        UnmaskError: a role lacks a label, the weights cannot be had, or MLflow does not answer.
    """
    # 1. Seed
    torch.set_num_threads(job.threads)
    pl.seed_everything(job.seed, workers=True, verbose=False)
    # Deterministic mode would fill every new tensor with NaN, to find bugs: slow, and none here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    # 2. Data
    roles = with_roles(read_table(job.splits, SPLITS), job.fold, job.folds)
    faces = labelled_faces(read_tables(job.indices, FACES), roles)
    train, select = (
        rows_to_choose_on(faces, role).reset_index(drop=True) for role in (Role.TRAIN, Role.SELECT)
    )
    labelled = len(train)
    noise = read_tables(job.noise, NOISE)
    train = treat_label_noise(train, noise, audits.label_noise, audits.soft_target)
    train = train.reset_index(drop=True)
    train_labels, select_labels = train["target"] >= HALF, select["label"]
    for role, labels in ((Role.TRAIN, train_labels), (Role.SELECT, select_labels)):
        if labels.nunique() < len(Label):
            raise UnmaskError(
                f"fold {job.fold}: the videos to {role} on have faces of one label only; "
                "results/videos.parquet says why others have none"
            )
    prior = float(train["target"].mean())
    softened = int((train["target"] != (train["label"] == Label.FAKE)).sum())
    logger.info(
        "label noise: %d crops left out, %d with another target", labelled - len(train), softened
    )
    logger.info(
        "%d crops to train on (%.0f %% FAKE), %d to select", len(train), 100 * prior, len(select)
    )

    # 3. Model
    backbone, model_input = create_backbone(config)
    train_loader = create_train_loader(
        train, job.shards, model_input, config, job.seed, loader_workers(job.threads)
    )
    select_loader = create_score_loader(
        select, job.shards, model_input, config.batch_size, loader_workers(job.threads)
    )
    shown = train_loader.sampler.share_of_fake  # type: ignore[attr-defined]
    prior_shift = math.log(prior / (1 - prior)) - math.log(shown / (1 - shown))
    video_of_row = np.asarray(select.groupby(["part", "video"]).ngroup(), np.int64)
    model = DeepfakeClassifier(backbone, model_input, config, prior_shift, video_of_row)

    # 4. Callbacks
    checkpoints = output / "checkpoints"
    shutil.rmtree(checkpoints, ignore_errors=True)
    best = ModelCheckpoint(
        checkpoints, "best", "val/log_loss", save_last=True, enable_version_counter=False
    )
    history = History()
    stop = EarlyStopping("val/log_loss", patience=config.patience)
    callbacks = [best, stop, LearningRateMonitor("step"), history]

    # 5. Tracking
    resolved = {
        "experiment": job.experiment,
        "fold": job.fold,
        "folds": job.folds,
        "seed": job.seed,
        "train_crops": len(train),
        "label_noise": audits.label_noise,
        "dropped_crops": labelled - len(train),
        "softened_crops": softened,
        "prior": prior,
        **config.model_dump(exclude={"folds"}),
    }
    name = f"{job.experiment}-fold{job.fold}-seed{job.seed}"
    with start_training_run(job.tracking, name, resolved) as run:
        run.log_data({Role.TRAIN: train, Role.SELECT: select}, job.splits)

        # 6. Trainer
        trainer = pl.Trainer(
            accelerator="auto",
            devices=1,
            precision=config.precision,
            max_epochs=config.epochs,
            callbacks=callbacks,
            logger=run.lightning_logger(),
            deterministic="warn",
            use_distributed_sampler=False,
            enable_progress_bar=sys.stderr.isatty(),
            enable_model_summary=False,
            log_every_n_steps=min(10, len(train_loader)),
        )

        # 7. Fit
        started = time.monotonic()
        trainer.fit(model, train_loader, select_loader)
        seconds = time.monotonic() - started

    chosen = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    model.load_state_dict(chosen["state_dict"], strict=True)
    with atomic_path(output / "model.safetensors") as temporary:
        save_model(model.backbone, model_input, temporary)
    Path(best.last_model_path).replace(output / "last.ckpt")
    shutil.rmtree(checkpoints)
    summary = resolved | {
        "run_id": run.id,
        "tracking_uri": run.uri,
        "tracking_experiment": run.experiment,
        "prior_shift": prior_shift,
        "best_epoch": chosen["epoch"],
        "val_log_loss": float(best.best_model_score or math.nan),
        "history": history.epochs,
        "seconds": round(seconds, 1),
    }
    write_json(summary, output / "run.json")
    logger.info("best epoch %d, val/log_loss %.4f", chosen["epoch"], summary["val_log_loss"])


class History(Callback):
    """Keep each epoch's metrics for `run.json`, and tell the log how far training has come."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self._last_line = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the epoch."""
        self._started = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write a line every few seconds."""
        now = time.monotonic()
        if now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            speed = (batch_idx + 1) * len(batch["label"]) / (now - self._started)
            steps = trainer.num_training_batches
            epoch = trainer.current_epoch
            logger.info("epoch %d, step %d of %s, %.1f crops/s", epoch, batch_idx + 1, steps, speed)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch's figures; validation has run by now."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.epochs.append({"epoch": trainer.current_epoch, **metrics})
        shown = ", ".join(f"{name} {value:.4f}" for name, value in sorted(metrics.items()))
        logger.info("epoch %d: %s", trainer.current_epoch, shown)
