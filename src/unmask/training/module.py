"""The LightningModule: forward, loss, optimiser steps, and what is logged each epoch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.optim import Optimizer

from unmask.config import TrainingConfig
from unmask.errors import UnmaskError
from unmask.training.backbones import ModelInput
from unmask.training.dataset import Batch
from unmask.training.losses import class_weights, find_loss, smoothed
from unmask.training.optimizers import (
    create_optimizer,
    create_schedule,
    frozen_statistics,
    sharpness_aware,
)
from unmask.training.sampler import sample_seed

Columns = tuple[Tensor, ...]


class DeepfakeClassifier(pl.LightningModule):
    """A backbone with one logit, and how it is trained and validated.

    Validation is per video, by the mean logit of its crops, as the challenge asks for one
    probability per video. Logits that assume another share of FAKE than the data has (balanced
    batches, two-sided loss) are shifted to that share before the log loss. A second loader may have
    REAL crops, each next to itself blended; these are validated crop by crop.
    """

    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        model_input: ModelInput,
        config: TrainingConfig,
        prior_shift: float,
        video_of_row: NDArray[np.int64],
        seed: int = 0,
    ) -> None:
        """Prepare the backbone, and the average of its weights if there is to be one.

        Args:
            backbone: maps float32 (n, 3, size, size) to (n, 1) logits.
            model_input: normalises the images.
            config: the experiment.
            prior_shift: added to a logit to move it from the training prior to the data's.
            video_of_row: int64 (rows of the validation set,), number of each crop's video.
            seed: of dropout and drop path.
        """
        super().__init__()
        # Faster, also on CPUs. DDP sums gradients in the layout that weights have when it starts.
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self._input = model_input
        # As buffers they move to the device once; created in each step, a GPU would wait for them.
        mean, std = model_input.statistics()
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)
        # A submodule, so that checkpoints contain it and it moves to the device.
        self.average = _average(backbone) if config.ema else None
        self._config = config
        self._loss = find_loss(config.loss)
        self._prior_shift = prior_shift
        self._video_of_row = torch.tensor(video_of_row)
        self._seed = seed
        self._trained = [one for one in backbone.parameters() if one.requires_grad]
        self._perturbed = False
        # Sum of the losses of this epoch's crops, and their number.
        self._losses = torch.zeros(2)
        # Logits, labels and rows of stored crops, and of blended ones.
        self._validated: tuple[list[Columns], list[Columns]] = ([], [])

    @property
    def network(self) -> nn.Module:
        """The network that is validated and kept: with averaged weights, if configured."""
        return self.backbone if self.average is None else self.average.module

    def forward(self, image: Tensor) -> Tensor:
        """Return the kept network's logits (n,) of images, uint8 (n, 3, size, size)."""
        return self._logits(self.network, image)

    def on_fit_start(self) -> None:
        """Compile the backbone, if configured."""
        if self._config.compile:
            self.backbone.compile()

    def on_train_start(self) -> None:
        """Freeze the statistics of batch norms if only the head is trained."""
        if self._config.tune == "head":
            self.backbone.eval()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by seed, epoch and batch, so that a resumed job repeats it."""
        number = batch_idx * self.trainer.world_size + self.global_rank
        torch.manual_seed(sample_seed(self._seed, self.current_epoch, number))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch; the mean over devices is the loss of all their crops."""
        target = batch["label"]
        weights = torch.full_like(target, 1 / len(target))
        if self._loss.prior is not None:
            sums = self._over_devices(torch.stack([(1 - target).sum(), target.sum()]))
            weights = class_weights(target, sums, self._loss.prior) * self.trainer.world_size
        with frozen_statistics(self.backbone) if self._perturbed else nullcontext():
            logits = self._logits(self.backbone, batch["image"])
        smooth = smoothed(target, self._config.label_smoothing)
        loss = (weights * self._loss.function(logits.float(), smooth)).sum()
        if not self._perturbed:
            size = len(target)
            self._losses = self._losses.to(loss.device) + torch.stack(
                [loss.detach() * size, torch.full_like(loss, size)]
            )
        return loss

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step, with `sam` on gradients of the sharpest weights nearby; then update the average."""
        closure = optimizer_closure
        if self._config.sam and closure is not None:
            closure = sharpness_aware(self._alternating(closure), self._trained, self._config.sam)
        optimizer.step(closure=closure)
        if self.average is not None:
            self.average.update(self.backbone, self.global_step + 1)  # not counted yet

    def _alternating(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """Return a closure that marks the weights as perturbed in every second call."""

        def evaluate() -> Any:
            try:
                return closure()
            finally:
                self._perturbed = not self._perturbed

        return evaluate

    def on_validation_start(self) -> None:
        """Log the mean loss of the epoch's crops."""
        total, count = self._over_devices(self._losses)
        self._losses = torch.zeros(2)
        self.log("train/loss", total / count.clamp_min(1))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the losses of an unfinished epoch."""
        checkpoint["losses"] = self._over_devices(self._losses.clone()).cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the losses of all devices on the first of them."""
        if self.trainer.is_global_zero:
            self._losses = checkpoint["losses"]

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep the logits of a batch until the epoch ends."""
        logits = self(batch["image"]).float()
        self._validated[dataloader_idx].append((logits, batch["label"], batch["row"]))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation split, over the crops of all devices."""
        logits, labels, rows = self._gathered(self._validated[0])
        self._check_finite(logits)
        logits = logits + self._prior_shift
        videos = self._video_of_row[rows]
        video_logits, video_labels = _mean_by(videos, logits), _mean_by(videos, labels)
        self.log("val/frame_log_loss", _log_loss(logits, labels))
        self.log("val/frame_auc", _auc(logits, labels))
        self.log("val/log_loss", _log_loss(video_logits, video_labels))
        self.log("val/auc", _auc(video_logits, video_labels))
        accuracy = ((video_logits > 0) == (video_labels > 0.5)).float().mean()
        self.log("val/accuracy", accuracy)
        logits, labels, _ = self._gathered(self._validated[1])
        if len(logits):
            self.log("val/blended_log_loss", _log_loss(logits, labels))
            self.log("val/blended_auc", _auc(logits, labels))

    def check_weights(self) -> None:
        """Raise if training has diverged.

        Raises:
            UnmaskError: a weight is not finite.
        """
        self._check_finite(torch.stack([weight.detach().sum() for weight in self._trained]))

    def _check_finite(self, values: Tensor) -> None:
        if values.isfinite().all():
            return
        config, precision = self._config, "training.precision: 32-true, "
        rate = self.trainer.optimizers[0].param_groups[0]["lr"] if self.trainer.optimizers else 0.0
        raise UnmaskError(
            f"training diverged in epoch {self.current_epoch}, at a learning rate of {rate:.2g} "
            f"(training.learning_rate is {config.learning_rate:g}) and in precision "
            f"{config.precision}; try {precision if config.precision != '32-true' else ''}"
            f"training.learning_rate: {config.learning_rate / 3:.1g}, or training.clip_norm: 1"
        )

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule, updated at each step."""
        optimizer: Optimizer = create_optimizer(self.backbone, self._config)
        steps = int(self.trainer.estimated_stepping_batches)
        if self.average is not None:
            decay = self._config.ema
            self.average.decay = 1 - 1 / max(10, steps / 10) if decay == "auto" else decay
        schedule = {
            "scheduler": create_schedule(optimizer, self._config, steps),
            "interval": "step",
        }
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _logits(self, network: nn.Module, image: Tensor) -> Tensor:
        image = self._input.normalize(image, self._mean, self._std)
        image = image.contiguous(memory_format=torch.channels_last)
        logits: Tensor = network(image).squeeze(1)
        return logits

    def _over_devices(self, values: Tensor) -> Tensor:
        """Return the sum over all devices."""
        values = values.to(self.device)
        if self.trainer.world_size > 1:
            distributed.all_reduce(values)
        return values

    def _gathered(self, batches: list[Columns]) -> list[Tensor]:
        """Return the rows of all batches and devices, sorted by their last column, the row number.

        The list is emptied.
        """
        nothing = (torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.int64))
        seen = batches or [nothing]  # a device may have no crop
        columns = [torch.cat(column).cpu() for column in zip(*seen, strict=True)]
        batches.clear()
        if self.trainer.world_size > 1:
            parts: list[list[Tensor]] = [[] for _ in range(self.trainer.world_size)]
            distributed.all_gather_object(parts, columns)
            columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        order = columns[-1].argsort()
        return [column[order] for column in columns]


def _average(backbone: nn.Module) -> ModelEmaV3:
    """Return an exponential moving average of weights and statistics, whose decay is yet to be set.

    The decay after n steps is at most 1 - n^(-2/3), so that the first steps are soon forgotten even
    in a short training.
    """
    average = ModelEmaV3(backbone, use_warmup=True)
    average.requires_grad_(False)
    return average


def _mean_by(groups: Tensor, values: Tensor) -> Tensor:
    """Return the mean of float (n,) values for each of the int64 (n,) groups that occur."""
    names, inverse = torch.unique(groups, return_inverse=True)
    sums = torch.zeros(len(names)).index_add(0, inverse, values)
    return sums / torch.bincount(inverse)


def _log_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, labels)


def _auc(logits: Tensor, labels: Tensor) -> float:
    """Return the area under the ROC curve; one half if a label is absent."""
    both = bool(labels.min() < labels.max())
    return float(roc_auc_score(labels.numpy(), logits.numpy())) if both else 0.5
