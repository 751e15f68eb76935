"""The LightningModule: forward, loss, optimiser, and what is logged each epoch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from unmask.config import TrainingConfig
from unmask.training.backbones import ModelInput
from unmask.training.dataset import Batch


class DeepfakeClassifier(pl.LightningModule):
    """A backbone with one logit, trained with binary cross-entropy.

    Validation is per video: the mean logit of a video's crops, as the challenge asks for one
    probability a video. Where training is class-balanced its logits assume half FAKE; they are
    shifted to the share of FAKE among the training crops (`prior_shift`) before the log loss.
    """

    def __init__(
        self,
        backbone: nn.Module,
        model_input: ModelInput,
        config: TrainingConfig,
        prior_shift: float,
        video_of_row: NDArray[np.int64],
    ) -> None:
        """Take the parts.

        Args:
            backbone: maps float32 (n, 3, size, size) to (n, 1) logits.
            model_input: normalises the images.
            config: the experiment.
            prior_shift: added to a logit to move it from the training prior to the data's.
            video_of_row: int64 (rows of the validation set,), which video each crop is of.
        """
        super().__init__()
        self.backbone = backbone
        self._input = model_input
        self._config = config
        self._prior_shift = prior_shift
        self._video_of_row = torch.tensor(video_of_row)
        self._validated: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (n,) of images, uint8 (n, 3, size, size)."""
        logits: Tensor = self.backbone(self._input.normalize(image)).squeeze(1)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean binary cross-entropy of a batch, with smoothed targets."""
        smoothing = self._config.label_smoothing
        target = batch["label"] * (1 - 2 * smoothing) + smoothing
        loss = functional.binary_cross_entropy_with_logits(self(batch["image"]), target)
        size = len(target)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=size)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the logits of a batch until the epoch ends."""
        logits = self(batch["image"]).float().cpu() + self._prior_shift
        self._validated.append((logits, batch["label"].cpu(), batch["row"].cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log frame and video log loss and the video accuracy of the select role."""
        columns = zip(*self._validated, strict=True)
        logits, labels, rows = (torch.cat(column) for column in columns)
        self._validated.clear()
        videos = self._video_of_row[rows]
        video_logits, video_labels = _mean_by(videos, logits), _mean_by(videos, labels)
        self.log("val/frame_log_loss", _log_loss(logits, labels))
        self.log("val/log_loss", _log_loss(video_logits, video_labels), prog_bar=True)
        accuracy = ((video_logits > 0) == (video_labels > 0.5)).float().mean()
        self.log("val/accuracy", accuracy)

    def configure_optimizers(self) -> Any:
        """Return AdamW with a linear warm-up and a cosine decay to zero, stepped every batch."""
        optimizer = torch.optim.AdamW(
            self.parameters(), self._config.learning_rate, weight_decay=self._config.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = max(1, round(self._config.warmup * steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

        schedule = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def _mean_by(groups: Tensor, values: Tensor) -> Tensor:
    """Return the mean of float (n,) values for each of the int64 (n,) groups that occur."""
    names, inverse = torch.unique(groups, return_inverse=True)
    sums = torch.zeros(len(names)).index_add(0, inverse, values)
    return sums / torch.bincount(inverse)


def _log_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, labels)
