"""What a test set costs: seconds per video, and hours for 4,000 videos on a simulated clock.

    make bench-predict BENCH="--bundle results/kaggle/unmask --videos path/to/test_videos"

First the bundle predicts the videos, each several times. Then each video is measured alone, with
every share of the frames. For ensembles of several sizes, 4,000 videos are drawn from these
measurements. The clock is simulated, the governor is real.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from unmask.inference.predictor import Bundle, load_bundle, predict_videos
from unmask.inference.prepare import prepare_video
from unmask.kaggle.governor import Governor, list_settings
from unmask.kaggle.submission import fewer_frames, predict

VIDEOS = 4000
HOURS = 9.0
FRAMES = 32  # of a video


def measure(bundle: Bundle, video: Path, share: float) -> tuple[float, float]:
    """Return seconds of a worker and of one model for a share of the frames, the best of two."""
    frames = fewer_frames(bundle.config.frames, share)
    tries = []
    for _ in range(2):
        prepared = prepare_video(video.parent, video.name, frames, bundle.config.faces)
        began = time.perf_counter()
        predict_videos(bundle, [prepared.crops], 1)
        tries.append((prepared.seconds, time.perf_counter() - began))
    return min(one for one, _ in tries), min(other for _, other in tries)


def simulate(
    costs: dict[float, list[tuple[float, float]]], models: int, workers: int, deadline_s: float
) -> tuple[float, Counter[str]]:
    """Return seconds for 4,000 videos drawn from `costs` (by share of frames), and the settings."""
    now, used = 0.0, Counter[str]()
    steps = list_settings(FRAMES, models)
    governor = Governor(VIDEOS, steps, workers, deadline_s, lambda: now)
    for number in np.random.default_rng(0).integers(len(costs[1.0]), size=VIDEOS):
        setting = governor.choose()
        if setting is None:
            break
        preparation, network = costs[setting.frames][number]
        now += max(preparation / workers, network * setting.members)
        governor.record(setting, preparation, network * setting.members)
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
    shares = {one.frames for one in list_settings(FRAMES, 1)}
    costs = {share: [measure(bundle, one, share) for one in videos] for share in sorted(shares)}
    for share, of_videos in costs.items():
        preparation, network = np.mean(of_videos, axis=0)
        print(f"{share:g} of the frames: {preparation:.2f} s to prepare, {network:.3f} s a model")
    for models in options.models:
        deadline, workers = options.deadline * 3600, max(1, options.threads - 1)
        done, used = simulate(costs, models, workers, deadline)
        described = "; ".join(f"{count:,} with {what}" for what, count in used.most_common())
        kept = "within" if done <= HOURS * 3600 else "OVER"
        print(f"{models} models: {done / 3600:.2f} h, {kept} {HOURS:g} h: {described}")


if __name__ == "__main__":
    main()
