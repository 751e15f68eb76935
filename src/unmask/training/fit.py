"""Training of one model, in seven steps."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint

from unmask.config import AuditsConfig, TrainingConfig
from unmask.errors import UnmaskError
from unmask.files import atomic_path, write_json
from unmask.provenance import source_digest
from unmask.splits.roles import rows_to_fit_on, with_roles
from unmask.tables import FACES, NOISE, SPLITS, read_table, read_tables
from unmask.training.augmentation import scoring_margin
from unmask.training.backbones import create_backbone
from unmask.training.dataset import (
    SCORE_COLUMNS,
    TRAIN_COLUMNS,
    create_blended_loader,
    create_score_loader,
    create_train_loader,
    labelled_faces,
    loader_workers,
    treat_label_noise,
)
from unmask.training.live_tracking import LiveRun, describe_run, now_ms
from unmask.training.losses import find_loss, prior_shift
from unmask.training.model_file import save_model
from unmask.training.module import DeepfakeClassifier
from unmask.training.resume import (
    ResumeCheckpoint,
    claim,
    discard,
    find_checkpoint,
)
from unmask.training.run_record import LoggedMetrics, RunRecord
from unmask.training.sampler import HALF, spread
from unmask.vocabulary import Label, Role

logger = logging.getLogger(__name__)

# Lightning lists hardware that it does not find.
for _name in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(_name).setLevel(logging.WARNING)

_LINE_EVERY_S = 5.0
# With fewer families of each label, the epoch with the lowest log loss is chosen by chance.
FEWEST_FAMILIES = 30
_MOST_BLENDED = 500  # REAL crops to validate on

# Lightning warns of what is intended: averaged weights are in evaluation mode, training resumes
# from checkpoints within an epoch, where the sampler starts in its middle, and a job without
# several tasks needs no srun. It also uses a deprecated name of PyTorch's.
for _message in (
    r"Found \d+ module\(s\) in eval mode",
    "Checkpoint directory .* exists and is not empty",
    "You're resuming from a checkpoint that ended before the epoch ended",
    "The `srun` command is available on your system but is not used",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
):
    warnings.filterwarnings("ignore", _message)


@dataclass(frozen=True)
class FitJob:
    """What to train, on what.

    Attributes:
        experiment: its name.
        fold: the fold of the test split.
        folds: number of folds of the split.
        seed: of initialisation, order and augmentation.
        shards: folder of face shards.
        indices: face indices of all shards.
        splits: the split table.
        noise: the label audits of all shards; empty where FAKE faces are kept as they are.
        tracking_uri: MLflow's server or database.
        tracking_experiment: name of MLflow's experiment.
        threads: CPU threads, some of which prepare batches (`loader_workers`).
    """

    experiment: str
    fold: int
    folds: int
    seed: int
    shards: Path
    indices: list[Path]
    splits: Path
    noise: list[Path]
    tracking_uri: str
    tracking_experiment: str
    threads: int

    @property
    def model(self) -> str:
        """Return the name of the model within its experiment, and of its folder."""
        return f"fold{self.fold}-seed{self.seed}"


def fit(job: FitJob, config: TrainingConfig, audits: AuditsConfig, output: Path) -> None:
    """Train one model; write `model.safetensors` and `run.json` into `output`.

    The model has the weights of the best epoch, or those at the end, see `choose_monitor`. A job
    that was killed resumes from its last checkpoint, in the same MLflow run, and ends with the same
    model as one that was not.

    Raises:
        UnmaskError: crops are missing, the weights cannot be loaded, another process trains this
            model, or the job was asked to stop.
    """
    # 1. Seed
    torch.set_num_threads(max(1, job.threads // config.devices))
    pl.seed_everything(job.seed, workers=True, verbose=False)

    # 2. Data
    data = load_data(job, config, audits)

    # 3. Backbone
    backbone, model_input = create_backbone(config)
    model_input = replace(model_input, margin=scoring_margin(config.augment))

    # 4. Callbacks
    checkpoints = output / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    digest = _digest_of(job, config, data)
    progress = Progress(config.batch_size)
    resume = ResumeCheckpoint(checkpoints / "last.ckpt", digest)
    callbacks: list[Callback] = [progress, resume]
    best = None
    monitor = choose_monitor(data.val, config.blends)
    if monitor is not None:
        best = ModelCheckpoint(
            checkpoints, "best", monitor, save_weights_only=True, enable_version_counter=False
        )
        callbacks = [best, EarlyStopping(monitor, patience=config.patience), *callbacks]

    # 5. Trainer, loaders, model
    trainer = create_trainer(config, callbacks)
    claimed = claim(checkpoints) if trainer.is_global_zero else None
    position = find_checkpoint(checkpoints / "last.ckpt", digest)
    rank, world_size = trainer.global_rank, trainer.world_size
    workers = loader_workers(job.threads // config.devices)
    train_loader = create_train_loader(
        data.train, job.shards, model_input, config, job.seed, workers, rank, world_size
    )
    val_loaders = [
        create(faces, job.shards, model_input, config.batch_size, workers, rank, world_size)
        for create, faces in (
            (create_score_loader, data.val),
            (create_blended_loader, data.blended),
        )
        if len(faces)
    ]
    if position is not None:
        train_loader.sampler.start_at(position.epoch, position.batch)  # type: ignore[attr-defined]
    prior = find_loss(config.loss).prior
    if prior is None:
        prior = train_loader.sampler.share_of_fake  # type: ignore[attr-defined]
    # Crops of one label say nothing about how common fakes are: logits keep what they assume.
    shift = prior_shift(prior, data.prior) if 0 < data.prior < 1 else 0.0
    model = DeepfakeClassifier(backbone, model_input, config, shift, data.video_of_row, job.seed)

    # 6. Tracking
    parameters = {
        "experiment": job.experiment,
        "model": job.model,
        "fold": job.fold,
        "folds": job.folds,
        "seed": job.seed,
        "train_crops": len(data.train),
        "label_noise": audits.label_noise,
        "dropped_crops": data.dropped,
        "softened_crops": data.softened,
        "prior": data.prior,
        **config.model_dump(exclude={"folds", "seeds"}),
    }
    description = describe_run(
        position.run_id if position is not None else secrets.token_hex(16),
        f"{job.experiment}-{job.model}",
        parameters,
        {Role.TRAIN: data.train, Role.VAL: data.val},
        job.splits,
    )
    resume.run_id = description.run_id
    with ExitStack() as stack:
        if trainer.is_global_zero:
            live = LiveRun(job.tracking_uri, job.tracking_experiment, description)
            progress.live = stack.enter_context(live)

        # 7. Fit
        last = checkpoints / "last.ckpt" if position is not None else None
        trainer.fit(model, train_loader, val_loaders, ckpt_path=last, weights_only=True)

    if claimed is None:
        return
    logged = (one.metrics for one in progress.history)
    epochs = {metrics["epoch"]: metrics for metrics in logged if "epoch" in metrics}
    kept = max(epochs)
    if best is not None:
        chosen = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        model.load_state_dict(chosen["state_dict"], strict=True)
        kept = chosen["epoch"]
    with atomic_path(output / "model.safetensors") as temporary:
        save_model(model.network, model_input, temporary)
    record = RunRecord(
        experiment=job.experiment,
        model=job.model,
        fold=job.fold,
        folds=job.folds,
        seed=job.seed,
        prior_shift=shift,
        # Of the shifted logits.
        assumed_prior=data.prior if 0 < data.prior < 1 else HALF,
        best_epoch=int(kept),
        val_log_loss=epochs[kept]["val/log_loss"],
        seconds=round(progress.seconds, 1),
        ended_ms=now_ms(),
        description=description,
        history=progress.history,
    )
    write_json(record, output / "run.json")
    discard(checkpoints, claimed)
    logger.info("kept epoch %d, val/log_loss %.4f", record.best_epoch, record.val_log_loss)


def choose_monitor(val: pd.DataFrame, blends: bool) -> str | None:
    """Return the metric that chooses the epoch and stops training, or None for neither.

    The log loss of few families differs between epochs by chance more than the epochs differ. With
    fewer than 30 of a label, that of blended crops decides, which needs REAL families alone; and
    without these the weights at the end of the schedule are kept.

    Args:
        val: crops of the validation split, with label and group.
        blends: whether training shows REAL crops next to themselves blended.
    """
    families = val.groupby("label")["group"].nunique().reindex(list(Label), fill_value=0)
    monitor = None
    if families.min() >= FEWEST_FAMILIES:
        monitor = "val/log_loss"
    elif blends and families[Label.REAL] >= FEWEST_FAMILIES:
        monitor = "val/blended_log_loss"
    logger.info(
        "%s; validation has %d families of FAKE videos and %d of REAL ones",
        f"the epoch with the lowest {monitor} is kept" if monitor else "the last epoch is kept",
        *(families[label] for label in (Label.FAKE, Label.REAL)),
    )
    return monitor


@dataclass(frozen=True)
class FitData:
    """The crops of one training."""

    train: pd.DataFrame  # crops of the training split, with a `target`
    val: pd.DataFrame  # crops of the validation split
    # some of its REAL crops, to be validated next to themselves blended; may be empty
    blended: pd.DataFrame
    # int64 (rows of val,), number of the video that each crop is from
    video_of_row: NDArray[np.int64]
    prior: float  # share of FAKE among the training crops
    dropped: int  # training crops left out because of their label audit
    softened: int  # training crops whose target the label audit changed


def load_data(job: FitJob, config: TrainingConfig, audits: AuditsConfig) -> FitData:
    """Read the crops of the training and the validation split.

    Raises:
        UnmaskError: a split has no crop, or training a label that its batches need. What pairs
            need, the sampler checks.
    """
    roles = with_roles(read_table(job.splits, SPLITS), job.fold, job.folds)

    def faces_of(role: Role, columns: Sequence[str]) -> pd.DataFrame:
        videos = rows_to_fit_on(roles, role)
        key = videos[["part", "video"]]
        return labelled_faces(read_tables(job.indices, FACES, columns, matching=key), videos)

    train = faces_of(Role.TRAIN, TRAIN_COLUMNS)
    val = faces_of(Role.VAL, SCORE_COLUMNS)
    labelled = len(train)
    noise = read_tables(job.noise, NOISE)
    train = treat_label_noise(train, noise, audits.label_noise, audits.soft_target)
    train = train.reset_index(drop=True)
    if not config.in_pairs and (train["target"] >= HALF).nunique() < len(Label):
        raise UnmaskError(
            f"training.batches: {config.batches} needs faces of both labels in the training split "
            f"of fold {job.fold}; add videos, or set it to auto"
        )
    if val.empty:
        raise UnmaskError(
            f"fold {job.fold}: no video of the validation split has a face; add videos "
            "(results/videos.parquet says why some have no face)"
        )
    data = FitData(
        train=train,
        val=val,
        blended=_crops_to_blend(job.indices, val) if config.blends else val[:0],
        video_of_row=np.asarray(val.groupby(["part", "video"]).ngroup(), np.int64),
        prior=float(train["target"].mean()),
        dropped=labelled - len(train),
        softened=int((train["target"] != (train["label"] == Label.FAKE)).sum()),
    )
    logger.info(
        "label noise: %d crops left out, %d with another target", data.dropped, data.softened
    )
    counts = (len(train), 100 * data.prior, len(val))
    logger.info("%d training crops (%.0f %% FAKE), %d validation crops", *counts)
    return data


def _crops_to_blend(indices: Sequence[Path], val: pd.DataFrame) -> pd.DataFrame:
    """Return up to 500 REAL crops, evenly from sources and people, with all that training needs."""
    real = val[val["label"] == Label.REAL]
    source, group = (pd.factorize(real[name])[0] for name in ("source", "group"))
    rows = spread(source, group, min(_MOST_BLENDED, len(real)), np.random.default_rng(0))
    chosen = real.iloc[np.unique(rows)]
    key = ["shard", "key"]
    found = read_tables(indices, FACES, TRAIN_COLUMNS, matching=chosen[key])
    return found.merge(chosen[[*key, "label", "family"]], on=key)


def create_trainer(config: TrainingConfig, callbacks: list[Callback]) -> pl.Trainer:
    """Create Lightning's trainer; the first device gets a logger later."""
    cuda = torch.cuda.is_available()
    # Deterministic mode fills every new tensor with NaN, to expose reads of uninitialized memory;
    # on a CPU that takes nearly half the time of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return pl.Trainer(
        accelerator="auto",
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=config.strategy,
        precision=config.precision,
        max_epochs=config.epochs,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_norm or None,
        callbacks=callbacks,
        logger=False,
        # The same seed gives the same bits on a CPU; on a GPU that would cost a fifth of the speed.
        deterministic=None if cuda else "warn",
        benchmark=cuda,
        sync_batchnorm=cuda and config.devices * config.num_nodes > 1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        # `Progress` logs, every few seconds.
        log_every_n_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _digest_of(job: FitJob, config: TrainingConfig, data: FitData) -> str:
    """Return a digest of everything that a model depends on."""
    digest = hashlib.sha256()
    settings = config.model_dump_json(exclude={"folds", "seeds"})
    code = source_digest("training.fit", settings)
    digest.update(f"{settings}{job.experiment}\0{job.model}\0{code}".encode())
    for faces in (data.train, data.val):
        digest.update(
            pd.util.hash_pandas_object(faces[["key", "shard", "offset"]]).to_numpy().tobytes()
        )
    digest.update(data.train["target"].to_numpy().tobytes())
    return digest.hexdigest()[:16]


class Progress(Callback):
    """Measure speed and waiting for data, log both, and keep the history in checkpoints."""

    def __init__(self, batch_size: int) -> None:
        """Take how many crops all devices see in a batch."""
        self.history: list[LoggedMetrics] = []
        self.live: LiveRun | None = None
        self.seconds = 0.0
        self._batch_size = batch_size
        self._restart()
        self._last_line = self._ended

    def _restart(self) -> None:
        self._started = self._ended = time.monotonic()
        self._batches = 0
        self._waited = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the first epoch, or of the rest of one."""
        self._restart()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the time since the last step as waiting for data."""
        self._waited += time.monotonic() - self._ended

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log speed and learning rate every few seconds; every step would be slow."""
        self._ended = time.monotonic()
        self._batches += 1
        if self._ended - self._last_line < _LINE_EVERY_S:
            return
        self._last_line = self._ended
        pl_module.check_weights()  # type: ignore[operator]
        metrics = self._speed() | {
            "train/learning_rate": trainer.optimizers[0].param_groups[0]["lr"]
        }
        self._log(metrics, trainer.global_step)
        logger.info(
            "epoch %d, batch %d of %s, %.1f crops/s, %.0f %% of the time waiting for data",
            trainer.current_epoch,
            batch_idx + 1,
            trainer.num_training_batches,
            metrics["train/images_per_s"],
            100 * metrics["train/waiting"],
        )

    def _speed(self) -> dict[str, float]:
        elapsed = max(self._ended - self._started, 1e-9)
        return {
            "train/images_per_s": self._batches * self._batch_size / elapsed,
            "train/waiting": self._waited / elapsed,
        }

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock: the epoch's speed is that of training alone."""
        speed = self._speed()
        self.seconds += self._ended - self._started
        pl_module.log_dict(speed)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch's metrics; validation has run by now."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in sorted(metrics.items()))
        logger.info("epoch %d: %s", trainer.current_epoch, shown)
        self._log(metrics | {"epoch": trainer.current_epoch}, trainer.global_step)
        self._restart()

    def _log(self, metrics: dict[str, float], step: int) -> None:
        logged = LoggedMetrics(step, now_ms(), metrics)
        self.history.append(logged)
        if self.live is not None:
            self.live.log(logged)

    def state_dict(self) -> dict[str, Any]:
        """Return history and duration for a checkpoint."""
        return {"history": [asdict(one) for one in self.history], "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the history of a checkpoint."""
        self.history = [LoggedMetrics(**one) for one in state_dict["history"]]
        self.seconds = state_dict["seconds"]
