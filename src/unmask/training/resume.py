"""What a killed job goes on from: a checkpoint, and where in the data it was written.

Snakemake deletes the outputs of a failed job. So checkpoints are no output: they lie beside the
outputs in a folder of their own, and are deleted when the job is done.
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
# Devices agree on stopping at every so-manieth batch: asking each other makes them wait.
_AGREE_EVERY = 10


@dataclass(frozen=True)
class Position:
    """Where a job is.

    Attributes:
        digest: of its settings and data; a checkpoint of another job is not gone on from.
        run_id: MLflow run; empty on devices that do not track.
        epoch: that it is in.
        batch: batches of that epoch that are done.
    """

    digest: str
    run_id: str
    epoch: int
    batch: int


def find_checkpoint(path: Path, digest: str) -> Position | None:
    """Return where a checkpoint was written, or None where there is none of this very job.

    Args:
        path: the checkpoint.
        digest: of the job's settings and data.
    """
    if not path.is_file():
        return None
    position = Position(**torch.load(path, map_location="cpu", weights_only=True)[_KEY])
    if position.digest != digest:
        logger.info("%s is of other settings, data or code: starting anew", path)
        return None
    logger.info("going on from epoch %d, batch %d", position.epoch, position.batch)
    return position


def claim(folder: Path) -> IO[str]:
    """Take a folder of checkpoints for this process alone, until the returned file is closed.

    Two that train the same model, as when the scheduler still runs a job of a Snakemake that was
    killed, would write the same checkpoints, and the first to be done would delete them.

    Raises:
        UnmaskError: another process has it.
    """
    file = (folder / "lock").open("a", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise UnmaskError(
            f"{folder}: another process trains this model; let it end or end it, and rerun"
        ) from None
    except OSError as error:
        logger.warning("%s: cannot be locked (%s)", folder, error.strerror)
    return file


def discard(folder: Path, claimed: IO[str]) -> None:
    """Delete a claimed folder of checkpoints and give up the claim.

    The folder is renamed while it is still claimed: a job that starts now makes one of its own,
    which is not deleted with this one. Closing comes first, since NFS keeps files that are open.
    """
    finished = folder.with_name(f"{folder.name}.finished")
    if finished.exists():  # of a job that was killed here
        shutil.rmtree(finished)
    folder.rename(finished)
    claimed.close()
    shutil.rmtree(finished)


class ResumeCheckpoint(Checkpoint):
    """Write a checkpoint every ten minutes, after each epoch, and when the job is asked to stop."""

    def __init__(self, path: Path, digest: str) -> None:
        """Take where to write.

        Args:
            path: the checkpoint; each one replaces the last.
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
        """Listen for SIGTERM, which Slurm sends before it takes the node away.

        A job that was killed after its last epoch, stopped early, has nothing left to train.
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
        """Write where it is due, between two steps of the optimizer."""
        done = batch_idx + 1
        # The last batch is followed by validation, whose end is a better place to go on from.
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
        """Write; validation and all other callbacks are done with the epoch."""
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
            f"{self._position.batch}; the same command goes on from there ({self._path})"
        )

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say in the checkpoint what it is of."""
        checkpoint[_KEY] = asdict(self._position)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give SIGTERM back."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None
