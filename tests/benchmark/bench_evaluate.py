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

import numpy as np
import pandas as pd
from skimage import data

sys.path.insert(0, str(Path(__file__).parents[1]))
from records import write_run
from unmask.faces.images import encode_jpeg
from unmask.faces.shards import write_shard
from unmask.tables import FACES, SCORES, SPLITS, VIDEOS, write_table

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
    number = np.arange(count)
    real = np.random.default_rng(0).random(count) < 19_154 / 119_146
    real[0] = True
    names = np.array([f"{index:08d}.mp4" for index in number], dtype=object)
    original = names[np.maximum.accumulate(np.where(real, number, 0))]
    return pd.DataFrame(
        {
            "part": [f"dfdc_train_part_{index:02d}" for index in number * PARTS // count],
            "video": names,
            "label": np.where(real, "REAL", "FAKE"),
            "family": original,
            "source": "bench",
            "group": original,
            "fold": np.cumsum(real) % FOLDS,
        }
    )


def write_tables(folder: Path, videos: pd.DataFrame, faces: int) -> list[Path]:
    """Write ledger, split, one picture and the face index; return the parts of the index."""
    write_table(videos, SPLITS, folder / "splits.parquet")
    ledger = videos.assign(status="ok", video_width=1920, video_height=1080, video_fps=30.0)
    write_table(ledger.reindex(columns=list(VIDEOS.columns)), VIDEOS, folder / "videos.parquet")
    payload = encode_jpeg(np.ascontiguousarray(data.astronaut()[:128, 160:288]), 95)
    with write_shard(folder / "faces" / "one.tar") as shard:
        place = {"shard": "one.tar", "offset": shard.add("one.jpg", payload), "size": len(payload)}
    rng = np.random.default_rng(1)
    index = one_row_per_face(videos, faces)
    index = index.assign(x0=0.0, x1=rng.uniform(40, 300, len(index)), sharpness=80.0, **place)
    index = index.assign(key=index["video"], brightness=rng.uniform(20, 200, len(index)))
    index = index.assign(landmarks=None, landmarks_68=None).reindex(columns=list(FACES.columns))
    paths = []
    for part, rows in index.groupby("part"):
        paths.append(folder / "faces" / f"{part}-00.parquet")
        write_table(rows, FACES, paths[-1])
    return paths


def one_row_per_face(videos: pd.DataFrame, faces: int) -> pd.DataFrame:
    """Return the rows of videos, each once for every face."""
    rows = videos.loc[videos.index.repeat(faces)].reset_index(drop=True)
    number = np.arange(len(rows)) % faces
    return rows.assign(track=0, frame=number, time=0.3 * number)


def write_model(folder: Path, videos: pd.DataFrame, faces: int, fold: int) -> tuple[Path, Path]:
    """Write scores and run.json of the model of one fold."""
    role = ((videos["fold"] - fold) % FOLDS).map({0: "test", 1: "val"}).fillna("train")
    rng = np.random.default_rng(fold)
    scored = videos.assign(role=role, shared=rng.normal(0, 1, len(videos)))[role != "train"]
    rows = one_row_per_face(scored, faces)
    sign = np.where(rows["label"] == "FAKE", 1.0, -1.0)
    logit = sign + rows["shared"] + rng.normal(0, 1, len(rows))
    scores, run = folder / f"fold{fold}.parquet", folder / f"fold{fold}.json"
    rows = rows.assign(experiment="made-up", fold=fold, seed=1, logit=logit)
    write_table(rows, SCORES, scores)
    write_run(run, "made-up", fold, folds=FOLDS, assumed_prior=0.84)
    return scores, run


if __name__ == "__main__":
    main()
