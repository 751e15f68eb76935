"""Resuming a killed job: checkpoints, and the position in the data where they were written.

Snakemake deletes the outputs of a failed job. Checkpoints are therefore not outputs: they are in a
folder next to them, which is deleted when the job is done.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from unmask.errors import UnmaskError

logger = logging.getLogger(__name__)

_KEY = "unmask"
_EVERY_S = 600.0
# Devices wait for each other when they agree on stopping, so they do it every n-th batch.
_AGREE_EVERY = 10


@dataclass(frozen=True)
class Position:
    """Position of a job in its training."""

    digest: str  # of its settings and data; a checkpoint with another digest is ignored
    run_id: str  # of its MLflow run
    epoch: int  # current epoch
    batch: int  # number of batches of this epoch that are done


def find_checkpoint(path: Path, digest: str) -> Position | None:
    """Return the position of a checkpoint, or None if there is none of this job.

    Args:
        path: the checkpoint.
        digest: of the job's settings and data.
    """
    if not path.is_file():
        return None
    position = Position(**torch.load(path, map_location="cpu", weights_only=True)[_KEY])
    if position.digest != digest:
        logger.info("%s is of other settings, data or code: training starts again", path)
        return None
    logger.info("resuming from epoch %d, batch %d", position.epoch, position.batch)
    return position


def claim(folder: Path) -> IO[str]:
    """Lock a folder of checkpoints for this process, until the returned file is closed.

    Two processes may train the same model, for instance when a scheduler still runs a job of a
    Snakemake that was killed. They would write the same checkpoints, and the first to finish would
    delete them.

    Raises:
        UnmaskError: another process has the lock.
    """
    file = (folder / "lock").open("a", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise UnmaskError(
            f"{folder}: another process trains this model; wait for it or stop it, and rerun"
        ) from None
    except OSError as error:
        logger.warning("%s: cannot be locked (%s)", folder, error.strerror)
    return file


def discard(folder: Path, claimed: IO[str]) -> None:
    """Delete a locked folder of checkpoints and release the lock.

    The folder is renamed while it is still locked: a job that starts now creates another, which is
    not deleted with this one. The file is closed before, since NFS keeps files that are open.
    """
    finished = folder.with_name(f"{folder.name}.finished")
    if finished.exists():  # left by a job that was killed right here
        shutil.rmtree(finished)
    folder.rename(finished)
    claimed.close()
    shutil.rmtree(finished)


class ResumeCheckpoint(Checkpoint):
    """Write a checkpoint every ten minutes, after each epoch, and when the job is asked to stop."""

    def __init__(self, path: Path, digest: str) -> None:
        """Start the clock.

        Args:
            path: the checkpoint; each replaces the one before.
            digest: of the job's settings and data.
        """
        self._path = path
        self._digest = digest
        self._position = Position(digest, "", 0, 0)
        self._written = time.monotonic()
        self._asked = False
        self._previous: Any = None
        self.run_id = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle SIGTERM, which Slurm sends before it takes the node away.

        A job that was killed after it had stopped early has nothing left to train.
        """
        self._previous = signal.signal(signal.SIGTERM, self._ask)
        stops = [one for one in trainer.early_stopping_callbacks if one is not None]
        trainer.should_stop = any(stop.wait_count >= stop.patience for stop in stops)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write a checkpoint if one is due, between two steps of the optimizer."""
        done = batch_idx + 1
        # The last batch is followed by validation, after which a checkpoint is written anyway.
        if done % trainer.accumulate_grad_batches or done == trainer.num_training_batches:
            return
        if trainer.world_size > 1 and done % _AGREE_EVERY:
            return
        asked = self._any_device(trainer, self._asked)
        due = self._any_device(trainer, time.monotonic() - self._written > _EVERY_S)
        if asked or due:
            self._write(trainer, trainer.current_epoch, done)
        if asked:
            self._stop()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write a checkpoint after validation and all other callbacks."""
        self._write(trainer, trainer.current_epoch + 1, 0)
        if self._any_device(trainer, self._asked):
            self._stop()

    def _any_device(self, trainer: pl.Trainer, decision: bool) -> bool:
        if trainer.world_size == 1:
            return decision
        return trainer.strategy.reduce_boolean_decision(decision, all=False)

    def _write(self, trainer: pl.Trainer, epoch: int, batch: int) -> None:
        self._position = Position(self._digest, self.run_id, epoch, batch)
        temporary = self._path.with_suffix(".partial")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(self._path)
        self._written = time.monotonic()

    def _stop(self) -> None:
        raise UnmaskError(
            f"asked to stop (SIGTERM) in epoch {self._position.epoch} after batch "
            f"{self._position.batch}; the same command resumes there ({self._path})"
        )

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the position to the checkpoint."""
        checkpoint[_KEY] = asdict(self._position)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the handler of SIGTERM."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None
