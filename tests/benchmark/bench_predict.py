"""What a test set costs: seconds per video, and hours for 4,000 videos on a simulated clock.

    make bench-predict BENCH="--bundle results/kaggle/unmask --videos path/to/test_videos"

First the bundle predicts the videos, each several times. Then each video is measured alone, with
every setting of the governor, and 4,000 videos are drawn from these measurements: workers and
networks are simulated, the governor is real, and ensembles have several sizes.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapreplace
from pathlib import Path

import numpy as np
import torch

from unmask.inference.predictor import Bundle, load_bundle, predict_videos
from unmask.inference.prepare import prepare_video
from unmask.kaggle.governor import Governor, Setting, list_settings
from unmask.kaggle.submission import fewer_frames, predict

VIDEOS = 4000
HOURS = 9.0


@dataclass(frozen=True)
class Cost:
    """Seconds of one video at one share of the frames: a worker's, and one model's."""

    prepared: float
    network: float


def measure(bundle: Bundle, video: Path, shares: list[float]) -> dict[float, Cost]:
    """Measure a video, one process alone, the best of two."""
    costs = {}
    for share in shares:
        frames = fewer_frames(bundle.config.frames, share)
        tries = []
        for _ in range(2):
            prepared = prepare_video(video.parent, video.name, frames, bundle.config.faces)
            began = time.perf_counter()
            predict_videos(bundle, [prepared.crops], 1)
            tries.append((prepared.seconds, time.perf_counter() - began))
        costs[share] = Cost(*(min(column) for column in zip(*tries, strict=True)))
    return costs


def simulate(
    costs: list[Mapping[float, Cost]], steps: list[Setting], workers: int, deadline_s: float
) -> tuple[float, Counter[str]]:
    """Simulate 4,000 videos drawn from `costs`; return the time at the end, and the settings.

    As in `predict`: the main process hands out one video more than there are workers, takes their
    results in order, and runs the networks itself.
    """
    now = 0.0
    governor = Governor(VIDEOS, steps, workers, deadline_s, lambda: now)
    drawn = [costs[number] for number in np.random.default_rng(0).integers(len(costs), size=VIDEOS)]
    free = [0.0] * workers
    handed: list[tuple[Setting, float]] = []
    used: Counter[str] = Counter()
    for number, cost in enumerate(drawn):
        while len(handed) < min(number + workers + 1, VIDEOS):
            setting = governor.choose()
            if setting is None:
                break
            started = max(now, free[0])
            heapreplace(free, started + drawn[len(handed)][setting.frames].prepared)
            handed.append((setting, started + drawn[len(handed)][setting.frames].prepared))
        if number == len(handed):
            break
        setting, prepared = handed[number]
        network = cost[setting.frames].network * setting.members
        now = max(now, prepared) + network
        if now > deadline_s:
            now = deadline_s
            break
        governor.record(setting, cost[setting.frames].prepared, network)
        used[f"{setting.frames:g} of the frames and {setting.members} models"] += 1
    used["the prior"] = VIDEOS - used.total()
    return now, +used


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--videos", type=Path, required=True, help="folder of .mp4 files")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--models", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--deadline", type=float, default=8.5, help="hours")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    videos = sorted(options.videos.glob("*.mp4"))
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for repeat in range(options.repeats):
            for video in videos:
                names.append(f"{repeat}-{video.name}")
                shutil.copyfile(video, Path(folder) / names[-1])
        sample = Path(folder) / "sample.csv"
        sample.write_text("filename,label\n" + "".join(f"{name},0.5\n" for name in names))
        began = time.monotonic()
        predict(options.bundle, Path(folder), sample, Path(folder) / "out.csv", options.threads)
        seconds = (time.monotonic() - began) / len(names)
    bundle = load_bundle(options.bundle)
    print(
        f"{len(names)} videos, {len(bundle.members)} models, {options.threads} threads: "
        f"{seconds:.2f} s a video, {VIDEOS * seconds / 3600:.2f} h for {VIDEOS:,}"
    )

    torch.set_num_threads(1)
    steps = list_settings(bundle.config.frames.per_video, 1)
    costs = [measure(bundle, video, [one.frames for one in steps]) for video in videos]
    for share in costs[0]:
        prepared, network = (
            [getattr(one[share], name) for one in costs] for name in ("prepared", "network")
        )
        print(
            f"{share:g} of the frames: {np.mean(prepared):.2f} s to prepare "
            f"(at most {max(prepared):.2f}), {np.mean(network):.3f} s a model"
        )
    workers = max(1, options.threads - 1)
    for models in options.models:
        known = list_settings(bundle.config.frames.per_video, models)
        done, used = simulate(costs, known, workers, options.deadline * 3600)
        described = "; ".join(f"{count:,} with {what}" for what, count in used.most_common())
        kept = "within" if done <= HOURS * 3600 else "OVER"
        print(f"{models} models: {done / 3600:.2f} h, {kept} {HOURS:g} h: {described}")


if __name__ == "__main__":
    main()
