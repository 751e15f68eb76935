"""Speed of the training loop relative to bare steps of the same model: `make bench-train`.

The loop is the workflow's own trainer, with shards, JPEGs, augmentation and logging. The bare steps
are forward, loss, backward and optimizer on one random batch that is already on the device. Both
take turns in one process, so that the load of the machine is the same; the ratio counts, not the
seconds. The table goes to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from unmask.__main__ import restart_with_settings
from unmask.config import TrainingConfig
from unmask.training.backbones import create_backbone
from unmask.training.dataset import create_score_loader, create_train_loader, loader_workers
from unmask.training.fit import Progress, create_trainer
from unmask.training.module import DeepfakeClassifier
from unmask.training.optimizers import create_optimizer

from bench_loader import PER_TRACK, write_crops

# Longer epochs repeat them, so that crops for a fast device are written soon.
MOST_CROPS = 2048
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Clock(pl.Callback):
    """Measure the steps of an epoch without the first few."""

    def __init__(self, skipped: int) -> None:
        self.skipped, self.seconds, self.steps = skipped, 0.0, 0

    def on_train_batch_end(self, *arguments: Any) -> None:
        number = arguments[-1] + 1
        if number == self.skipped:
            synchronize()
            self._started = time.perf_counter()
        elif number > self.skipped:
            self.steps = number - self.skipped

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        synchronize()
        self.seconds = time.perf_counter() - self._started


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def bare_rate(network: nn.Module, config: TrainingConfig, steps: int, skipped: int) -> float:
    """Return images/s of bare steps on a random batch."""
    network = network.to(DEVICE).train()
    size = (config.batch_size, 3, config.image_size, config.image_size)
    images, labels = torch.randn(size, device=DEVICE), torch.ones(size[0], device=DEVICE)
    # The layout of pictures from a loader; faster, also on CPUs.
    network, images = (
        network.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        images.contiguous(memory_format=torch.channels_last),
    )
    optimizer = create_optimizer(network, config)
    dtype = DTYPES.get(config.precision)
    for step in range(steps + skipped):
        if step == skipped:
            synchronize()
            started = time.perf_counter()
        with torch.autocast(DEVICE.type, dtype, enabled=dtype is not None):
            logits: Tensor = network(images).squeeze(1)
            loss = functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    synchronize()
    return steps * config.batch_size / (time.perf_counter() - started)


def loop_rate(
    faces: pd.DataFrame, folder: Path, config: TrainingConfig, threads: int, skipped: int
) -> tuple[float, float]:
    """Return images/s of the training loop, and the share of time spent waiting for data."""
    backbone, model_input = create_backbone(config)
    model = DeepfakeClassifier(backbone, model_input, config, 0.0, np.zeros(2, np.int64))
    workers = loader_workers(threads)
    train = create_train_loader(faces, folder, model_input, config, 1, workers)
    val = create_score_loader(faces.head(2), folder, model_input, 2, 0)
    clock, progress = Clock(skipped), Progress(config.batch_size)
    # Lightning leaves its checkpoint in the working directory.
    with warnings.catch_warnings(), contextlib.chdir(folder):
        warnings.simplefilter("ignore")
        trainer = create_trainer(config, [clock, progress])
        trainer.fit(model, train, val)
    waited = float(trainer.callback_metrics["train/waiting"])
    return clock.steps * config.batch_size / clock.seconds, waited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", nargs="+", default=["tf_efficientnet_lite0"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--preset", default=TrainingConfig().augment)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--skipped", type=int, default=3, help="steps of each turn not measured")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    restart_with_settings("training.fit:fit")
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    print("| backbone | bare, images/s | loop, images/s | share | waiting | GPU memory |")
    print("|---|---|---|---|---|---|")
    for backbone in options.backbone:
        config = TrainingConfig(
            backbone=backbone,
            weights="none",
            image_size=options.image_size,
            batch_size=options.batch_size,
            precision=options.precision,
            batches="plain",
            augment=options.preset,
            epochs=1,
        )
        count = (options.steps + options.skipped) * options.batch_size
        written = min(count, MOST_CROPS)
        bare, loop, waits = [], [], []
        with tempfile.TemporaryDirectory() as folder:
            crops = write_crops(
                Path(folder), -(-written // PER_TRACK), max(256, options.image_size)
            )
            faces = pd.concat([crops] * -(-count // len(crops)), ignore_index=True)
            for _ in range(options.rounds):
                network, _ = create_backbone(config)
                bare.append(bare_rate(network, config, options.steps, options.skipped))
                rate, waited = loop_rate(
                    faces, Path(folder), config, options.threads, options.skipped
                )
                loop.append(rate)
                waits.append(waited)
        shares = [one / other for one, other in zip(loop, bare, strict=True)]
        memory = (
            f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if DEVICE.type == "cuda" else "-"
        )
        print(
            f"| {backbone} | {statistics.median(bare):.1f} | {statistics.median(loop):.1f} "
            f"| {statistics.median(shares):.3f} ({min(shares):.3f} to {max(shares):.3f}) "
            f"| {statistics.median(waits):.1%} | {memory} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
