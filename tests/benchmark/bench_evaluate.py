"""What an evaluation of all of DFDC takes: `make bench-evaluate`.

Tables of DFDC's shape are made up (119,146 videos of 19,154 families in 5 folds, 32 faces each, of
which every video has them from two models), and the command of the rule `evaluate` works on them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from skimage import data

from unmask.faces.images import encode_jpeg
from unmask.faces.shards import write_shard
from unmask.files import write_json
from unmask.tables import FACES, SCORES, SPLITS, VIDEOS, write_table
from unmask.training.run_record import LoggedMetrics, RunDescription, RunRecord

FOLDS, PARTS = 5, 50


def main() -> None:
    """Make the tables, run the command, print its time and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=119_146)
    parser.add_argument("--faces", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = draw_videos(options.videos)
        indices = write_tables(folder, videos, options.faces)
        models = [write_model(folder, videos, options.faces, fold) for fold in range(FOLDS)]
        command = [
            sys.executable,
            "-m",
            "unmask",
            "evaluation.evaluate:evaluate",
            "--log",
            str(folder / "log"),
        ]
        command += ["--scores", *(str(scores) for scores, _ in models)]
        command += ["--runs", *(str(run) for _, run in models)]
        command += ["--splits", str(folder / "splits.parquet")]
        command += ["--ledger", str(folder / "videos.parquet")]
        command += ["--shards", str(folder / "faces"), "--indices", *map(str, indices)]
        command += ["--output", str(folder / "evaluation")]
        started = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = json.loads((folder / "evaluation" / "metrics.json").read_text())["test"]
    print("| videos | faces of two models each | wall s | CPU s | peak memory, GB |")
    print("|---|---|---|---|---|")
    print(
        f"| {report['count']:,} | {2 * options.videos * options.faces:,} | {seconds:.1f} "
        f"| {used.ru_utime + used.ru_stime:.1f} | {used.ru_maxrss / 1e6:.2f} |"
    )


def draw_videos(count: int) -> pd.DataFrame:
    """Return one row per video: about a sixth REAL, each the original of those that follow it."""
    rng = np.random.default_rng(0)
    number = np.arange(count)
    names = np.array([f"{index:08d}.mp4" for index in number], dtype=object)
    real = rng.random(count) < 19_154 / 119_146
    real[0] = True
    original = names[np.maximum.accumulate(np.where(real, number, 0))]
    part = np.array([f"dfdc_train_part_{index:02d}" for index in range(PARTS)], dtype=object)
    family = np.cumsum(real)
    return pd.DataFrame(
        {
            "part": part[number * PARTS // count],
            "video": names,
            "label": np.where(real, "REAL", "FAKE"),
            "family": original,
            "source": "bench",
            "group": original,
            "fold": family % FOLDS,
        }
    )


def write_tables(folder: Path, videos: pd.DataFrame, faces: int) -> list[Path]:
    """Write ledger, split, one picture and the face index; return the parts of the index."""
    write_table(videos, SPLITS, folder / "splits.parquet")
    ledger = videos.assign(status="ok", video_width=1920, video_height=1080, video_fps=30.0)
    absent = {name: None for name in VIDEOS.columns if name not in ledger}
    write_table(ledger.assign(**absent), VIDEOS, folder / "videos.parquet")
    crop = cv2.cvtColor(data.astronaut()[:128, 160:288], cv2.COLOR_RGB2BGR)
    payload = encode_jpeg(np.ascontiguousarray(crop), 95)
    with write_shard(folder / "faces" / "one.tar") as shard:
        place = {"shard": "one.tar", "offset": shard.add("one.jpg", payload), "size": len(payload)}
    paths = []
    rng = np.random.default_rng(1)
    for part, of_part in videos.groupby("part"):
        rows = of_part[["part", "video"]].loc[of_part.index.repeat(faces)].reset_index(drop=True)
        number = np.arange(len(rows)) % faces
        measured = {"x0": 0.0, "x1": rng.uniform(40, 300, len(rows)), "sharpness": 80.0}
        measured["brightness"] = rng.uniform(20, 200, len(rows))
        rows = rows.assign(track=0, frame=number, key=rows["video"], **place, **measured)
        absent = {name: None for name in FACES.columns if name not in rows}
        paths.append(folder / "faces" / f"{part}-00.parquet")
        write_table(rows.assign(**absent), FACES, paths[-1])
    return paths


def write_model(folder: Path, videos: pd.DataFrame, faces: int, fold: int) -> tuple[Path, Path]:
    """Write scores and run.json of the model of one fold."""
    role = ((videos["fold"] - fold) % FOLDS).map({0: "test", 1: "val"}).fillna("train")
    scored = videos.assign(role=role)[role != "train"]
    rng = np.random.default_rng(fold)
    rows = scored.loc[scored.index.repeat(faces)].reset_index(drop=True)
    sign = np.where(rows["label"] == "FAKE", 1.0, -1.0)
    of_video = np.repeat(rng.normal(0, 1, len(scored)), faces)
    rows["logit"] = sign + of_video + rng.normal(0, 1, len(rows))
    number = np.arange(len(rows)) % faces
    rows = rows.assign(track=0, frame=number, time=0.3 * number, experiment="made-up", seed=1)
    output = folder / "scores" / f"fold{fold}.parquet"
    write_table(rows.assign(fold=fold), SCORES, output)
    epoch = LoggedMetrics(1, 1, {"epoch": 0, "train/loss": 0.7, "val/log_loss": 0.6})
    training = ("made-up", f"fold{fold}-seed1", fold, FOLDS, 1, 0.0, 0.84, 0, 0.6, 1.0, 1)
    record = RunRecord(*training, RunDescription("", "", 0, {}, {}, {}), [epoch])
    write_json(record, output.with_suffix(".json"))
    return output, output.with_suffix(".json")


if __name__ == "__main__":
    main()
