"""Speed of the training loader for each augmentation: `make bench-loader`.

Images per second of CPU time of one process, from the shard to the collated batch. CPU time depends
less on the load of the machine than wall time. Rounds of all rows of the table are interleaved and
the fastest of each counts. The table goes to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import psutil
import torch
from skimage import data
from torch.utils.data import DataLoader

from unmask.config import REPOSITORY, Augment, TrainingConfig
from unmask.config_files import resolve_augment
from unmask.faces.images import encode_jpeg
from unmask.faces.shards import write_shard
from unmask.training.backbones import ModelInput
from unmask.training.dataset import Batch, create_train_loader

STORED, SIZE, BATCH = 256, 224, 32
TRACKS, PER_TRACK = 16, 8
EPOCHS, WORKERS, REPEATS = 5, 2, 500
EYES_NOSE_MOUTH = [[201, 107], [241, 102], [225, 130], [210, 150], [240, 146]]


@dataclass
class Row:
    """A row of the table, and the CPU seconds per image of its fastest round."""

    name: str
    config: TrainingConfig
    seconds: float = float("inf")


def main() -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds over the table")
    parser.add_argument("--only", default="", help="rows whose name contains this text")
    parser.add_argument("--against", type=Path, help="checkout to take turns with, round by round")
    options = parser.parse_args()
    if options.against is not None:
        take_turns(options.against, options.rounds)
        return
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        faces = write_crops(Path(folder))
        rows = [row for row in table() if options.only in row.name]
        for _ in range(options.rounds):
            for row in rows:
                row.seconds = min(row.seconds, seconds_per_image(faces, Path(folder), row.config))
        print(f"| {STORED} px stored, {SIZE} px in batches of {BATCH} | images/s per core |")
        print("|---|---|")
        for row in rows:
            print(f"| {row.name} | {1 / row.seconds:,.0f} |")
        print()
        if not options.only:
            memory(faces, Path(folder))


def take_turns(other: Path, rounds: int) -> None:
    """Run this script and that of another checkout in turns; print the rows that both have."""
    best: dict[str, list[float]] = {}
    for _ in range(rounds):
        for position, root in enumerate((other, REPOSITORY)):
            command = [sys.executable, root / "tests/benchmark/bench_loader.py", "--rounds", "1"]
            environment = os.environ | {"PYTHONPATH": str(root / "src")}
            printed = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            ).stdout
            for name, rate in re.findall(r"^\| (.*`.*|the default) \| ([\d,]+) \|$", printed, re.M):
                rates = best.setdefault(name, [0.0, 0.0])
                rates[position] = max(rates[position], float(rate.replace(",", "")))
    print("| images/s per core, the best of the rounds | other | this | ratio |")
    print("|---|---|---|---|")
    for name, (before, after) in best.items():
        if before and after:
            print(f"| {name} | {before:,.0f} | {after:,.0f} | {after / before:.2f} |")


def write_crops(folder: Path, tracks: int = TRACKS, stored: int = STORED) -> pd.DataFrame:
    """Write a shard of shifted crops of one portrait; return its index, half of it FAKE."""
    portrait = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
    rng = np.random.default_rng(0)
    rows = []
    with write_shard(folder / "bench.tar") as shard:
        for track in range(tracks):
            for frame in range(PER_TRACK):
                x, y = 96 + rng.integers(-20, 20), rng.integers(0, 20)
                crop = portrait[y : y + stored, x : x + stored]
                payload = encode_jpeg(crop, 95)
                key = f"{track}_{frame}"
                landmarks = (np.array(EYES_NOSE_MOUTH) - (x, y)).astype(np.float32).ravel()
                rows.append(
                    {"video": f"{track}.mp4", "track": 0, "frame": frame, "time": frame / 3}
                    | {"shard": "bench.tar", "key": key, "offset": shard.add(key, payload)}
                    | {"size": len(payload), "landmarks": landmarks, "landmarks_68": None}
                    | {"label": "FAKE" if track % 2 else "REAL", "family": f"{track // 2 * 2}.mp4"}
                )
    square = {"crop_x0": 0.0, "crop_y0": 0.0, "crop_side": float(stored)}
    box = {"x0": 70.0, "y0": 40.0, "x1": 190.0, "y1": 190.0}
    faces = pd.DataFrame(rows).assign(part="bench", source="bench", **square, **box)
    return faces.assign(group=faces["family"])


def table() -> list[Row]:
    """Return the rows: presets, kinds of batches, and each transform on every crop."""

    def config(augment: Augment, batches: str = "plain") -> TrainingConfig:
        return TrainingConfig(image_size=SIZE, batch_size=BATCH, batches=batches, augment=augment)

    default = TrainingConfig().augment
    presets = sorted(path.stem for path in (REPOSITORY / "config/augmentations").glob("*.yaml"))
    rows = [Row("the default", config(default, TrainingConfig().batches))]
    rows += [Row(f"preset `{name}`", config(name)) for name in presets]
    rows.append(Row("`paired`, the default's augmentation", config(default, "paired")))
    rows.append(Row("`self_blended`, the same", config(default, "self_blended")))
    strong = resolve_augment([{"preset": "strong"}, {"PairMixup": {}}, {"RGBShift": {}}])
    for name, parameters in transforms_of(strong):
        kind = "paired" if name == "PairMixup" else "plain"
        rows.append(Row(f"`{name}` on every crop", config([{name: parameters | {"p": 1}}], kind)))
    return rows


def transforms_of(entries: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names and parameters of a list, presets in their place."""
    for entry in entries:
        if "preset" in entry:
            yield from transforms_of(entry["transforms"])
        else:
            yield from entry.items()


def loader(
    faces: pd.DataFrame, folder: Path, config: TrainingConfig, workers: int = 0
) -> DataLoader[Batch]:
    model_input = ModelInput("any", SIZE, (0.5,) * 3, (0.5,) * 3)
    return create_train_loader(faces, folder, model_input, config, 0, workers)


def seconds_per_image(faces: pd.DataFrame, folder: Path, config: TrainingConfig) -> float:
    """Return the CPU seconds of this process per image of an epoch."""
    batches = loader(faces, folder, config)
    gc.collect()
    start = time.process_time()
    images = sum(len(batch["label"]) for batch in batches)
    return (time.process_time() - start) / images


def memory(faces: pd.DataFrame, folder: Path) -> None:
    """Print the memory that workers do not share, epoch by epoch."""
    many = pd.concat([faces] * REPEATS, ignore_index=True)
    config = TrainingConfig(image_size=SIZE, batch_size=BATCH, batches="plain", augment="none")
    batches = loader(many, folder, config, WORKERS)
    # The columns of all rows are read in each epoch, but only a tenth of the pictures.
    print(f"| epoch of {len(many):,} rows | MB of {WORKERS} workers' own |")
    print("|---|---|")
    for epoch in range(EPOCHS):
        batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        batches.sampler.start_at(epoch, int(0.9 * len(batches)))  # type: ignore[attr-defined]
        for _ in batches:
            pass
        children = psutil.Process(os.getpid()).children()
        own = sum(child.memory_full_info().uss for child in children) / 1e6
        print(f"| {epoch + 1} | {own:.0f} |")


if __name__ == "__main__":
    main()
