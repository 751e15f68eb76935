"""Cost and quality of the rules from videos to faces, next to plain decoding: `make bench-faces`.

CPU time is summed over all processes of the three rules' commands. FFmpeg decodes the files of a
shard right before and after the rules process it, so that both run on the same machine under the
same load: the ratios of one run are what matters, not the seconds. The clips are in five small
parts. Everything is measured twice: with the default settings, by which such parts share a shard,
and with a shard for each part (`parts_per_shard: 1`), where the fixed cost of a shard weighs more
than with DFDC's parts, which are two hundred times larger. The tables go to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
import pandas as pd
import psutil
from skimage import data

from unmask.config import FacesConfig, FramesConfig
from unmask.faces.boxes import iou, squares
from unmask.faces.detectors import create_detector
from unmask.faces.search import detect_faces
from unmask.faces.tracks import prominent_faces
from unmask.videos.sampling import sample_frames
from unmask.videos.source import find_parts, shards_of

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "src")}
# Modules are compiled once, not at each start.
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)
UNMASK = [sys.executable, "-m", "unmask"]
Joined = Literal["auto"] | int
RULES = ("probe", "extract_frames", "crop_faces")
# Repetitions of wall times, which vary on a machine that others use.
WALL_TURNS = 3
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
DFDC_CLIPS = ("brtujopkby.mp4", "yhffcuhhjy.mp4")


@dataclass
class Usage:
    """CPU seconds by command, and the largest memory of a job in MB."""

    cpu: dict[str, float] = field(default_factory=dict)
    megabytes: float = 0.0

    def add(self, command: str, seconds: float) -> None:
        self.cpu[command] = self.cpu.get(command, 0.0) + seconds


def cpu_of_jobs(*jobs: subprocess.Popen[bytes]) -> list[float]:
    """Wait for jobs and all that they started; return the CPU seconds of each.

    A server of worker processes outlives its job by a moment and is then a child of this process,
    see `adopt_orphans`. It is counted with the first job. Without a job, this only waits for what
    earlier commands have left.
    """
    seconds = dict.fromkeys([job.pid for job in jobs], 0.0)
    with suppress(ChildProcessError):  # no child is left
        while True:
            pid, status, usage = os.wait4(-1, 0)
            if jobs:
                seconds[pid if pid in seconds else jobs[0].pid] += usage.ru_utime + usage.ru_stime
            for job in jobs:
                if job.pid == pid:
                    job.returncode = os.waitstatus_to_exitcode(status)
    for job in jobs:
        if job.returncode:
            raise SystemExit(f"{job.args!r} failed with {job.returncode}")
    return list(seconds.values())


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def decode(path: Path) -> float:
    """Decode a file with one thread of FFmpeg; return its CPU seconds."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-threads", "1", "-i", path, "-f", "null", "-"]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def work_shard(parts: Sequence[Path], folder: Path, usage: Usage) -> None:
    """Run the commands of the three rules on a shard, as the workflow does.

    Unlike in the workflow, one process decodes, because two would share caches and memory, and
    FFmpeg decodes one file at a time here as well. The wall time is measured with the workflow.
    """
    folder.mkdir(parents=True)
    probe, stream = folder / "probe.parquet", folder / "frames.tar"
    cpu_of_jobs()
    watch = MemoryWatch()
    start = [*UNMASK, "videos.probe:probe_shard", "--log", folder / "probe.log", "--parts", *parts]
    start += ["--chunk", "0", "--chunks", "1", "--output", probe]
    usage.add("probe", *cpu_of_jobs(watch.start(start)))
    os.mkfifo(stream)
    extract = [
        *UNMASK,
        "videos.extraction:write_stream",
        "--log",
        folder / "extract.log",
        "--parts",
        *parts,
    ]
    extract += ["--probe", probe, "--workers", "1", "--output", stream]
    crop = [*UNMASK, "faces.cropping:crop_shard", "--log", folder / "crop.log", "--stream", stream]
    crop += ["--probe", probe, "--shard", folder / "faces.tar", "--index", folder / "faces.parquet"]
    crop += ["--videos", folder / "videos.parquet"]
    extracting, cropping = cpu_of_jobs(watch.start(extract), watch.start(crop))
    usage.add("extract_frames", extracting)
    usage.add("crop_faces", cropping)
    usage.megabytes = max(usage.megabytes, watch.stop())


class MemoryWatch:
    """Samples the memory of jobs: the proportional set size of processes, and files in memory."""

    def __init__(self) -> None:
        self._jobs: list[psutil.Process] = []
        self._peak = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def start(self, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, env=ENVIRONMENT)
        self._jobs.append(psutil.Process(process.pid))
        return process

    def stop(self) -> float:
        """Return the peak of the largest job in MB."""
        self._stopped.set()
        self._thread.join()
        return self._peak

    def _sample(self) -> None:
        while not self._stopped.wait(0.2):
            for job in list(self._jobs):
                self._peak = max(self._peak, _job_megabytes(job))


def _job_megabytes(job: psutil.Process) -> float:
    try:
        processes = [job, *job.children(recursive=True)]
        held = sum(process.memory_full_info().pss for process in processes)
        for descriptor in Path(f"/proc/{job.pid}/fd").iterdir():
            if str(descriptor.readlink()).startswith("/memfd:frames"):
                held += descriptor.stat().st_blocks * 512
    except (psutil.Error, OSError):  # a process of the job has just ended
        return 0.0
    return held / 1e6


def wall_of_workflow(root: Path, joined: Joined, folder: Path) -> tuple[float, float]:
    """Return the seconds that `snakemake --cores 2` takes, and those of the three rules in it.

    The latter are logged by Snakemake, from reading the workflow to the end of the last job.
    """
    shards = shards_of(find_parts(root), joined, 1)
    targets = [f"results/faces/{shard}.videos.parquet" for shard in shards]
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--directory", folder]
    command += ["--snakefile", REPOSITORY / "Snakefile", *targets]
    command += ["--config", f"data_root={root}", f"parts_per_shard={joined}"]
    start = time.monotonic()
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    whole = time.monotonic() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    hours, minutes, seconds = re.findall(r"Elapsed time: (\d+):(\d+):([\d.]+)", done.stderr)[-1]
    return whole, 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def planned(root: Path, joined: Joined, work: Path) -> str:
    """Return the CPU time, wall time and advice of `unmask plan`."""
    own = work / "plan.yaml"
    own.write_text(f"parts_per_shard: {joined}\n")
    command = [*UNMASK, "plan", "--config", own, "--cores", "2"]
    command += ["--data-root", root]
    done = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    said = [" ".join(line.split()) for line in done.stdout.splitlines()]
    return "; ".join(line for line in said if line.startswith(("CPU time", "wall time", "advice")))


def wall_of_decoding(files: Iterable[Path]) -> float:
    """Return the seconds that two FFmpeg processes side by side take."""
    start = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(decode, files))
    return time.monotonic() - start


def reuse_overlap(root: Path, videos: pd.DataFrame, faces: pd.DataFrame) -> pd.Series:
    """Return, for each reused face, the IoU of its crop with that of a box detected afresh."""
    config = FacesConfig()
    detector = create_detector(config)
    overlaps = {}
    for row in videos[videos["reused"]].itertuples():
        own = faces[(faces["video"] == row.video) & (faces["track"] == 0)].set_index("frame")
        url = f"file:{root / row.part / row.video}"
        for frame in sample_frames(url, FramesConfig().per_video):
            found = prominent_faces(detect_faces(frame, detector, config))
            if frame.index not in own.index or not len(found):
                continue
            face = own.loc[frame.index]
            square = squares(face.crop_x0, face.crop_y0, face.crop_side)
            centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
            corners = centres - face.crop_side / 2
            fresh = squares(corners[:, 0], corners[:, 1], face.crop_side)
            overlaps[row.video, frame.index] = iou(square, fresh).max()
    return pd.Series(overlaps)


def write_4k_part(folder: Path) -> Path:
    """Write a part with one 4K clip of ten seconds."""
    folder.mkdir()
    entry = {"label": "REAL", "split": "train", "original": None}
    (folder / "metadata.json").write_text(json.dumps({"4k.mp4": entry}))
    portrait = cv2.resize(data.astronaut(), (2160, 2160), interpolation=cv2.INTER_CUBIC)
    with av.open(str(folder / "4k.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 3840, 2160, "yuv420p"
        for index in range(300):
            picture = np.zeros((2160, 3840, 3), np.uint8)
            left = 800 + 2 * index
            picture[:, left : left + 2160] = portrait
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return folder


def link_data(real: Path, root: Path) -> None:
    """Make one folder of parts: the training clips, and DFDC's own as a part of originals."""
    for part in sorted((real / "ffpp").iterdir()):
        (root / part.name).symlink_to(part)
    dfdc = root / "dfdc_test_clips"
    dfdc.mkdir()
    entry = {"label": "REAL", "split": "train", "original": None}
    (dfdc / "metadata.json").write_text(json.dumps(dict.fromkeys(DFDC_CLIPS, entry)))
    for name in DFDC_CLIPS:
        (dfdc / name).symlink_to(real / "test/test_videos" / name)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("UNMASK_REAL_DATA", REPOSITORY / "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="the folder of real clips")
    real = parser.parse_args().data.resolve()
    if not (real / "ffpp").is_dir() or not shutil.which("ffmpeg"):
        raise SystemExit(f"bench-faces needs ffmpeg and real clips in {real} (UNMASK_REAL_DATA)")
    cv2.setNumThreads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    adopt_orphans()
    with tempfile.TemporaryDirectory() as temporary:
        measure(real, Path(temporary))


@dataclass
class Costs:
    """What the rules and FFmpeg took for the same clips."""

    usage: Usage
    full: float
    workflow_wall: float
    rules_wall: float
    decoding_wall: float
    plan: str

    def print(self, title: str) -> None:
        cpu = self.usage.cpu
        total = sum(cpu.values())
        print(f"| {title} | | of FFmpeg's |\n|---|---|---|")
        print(f"| `ffmpeg -threads 1 -f null`, all files, CPU s | {self.full:.1f} | 1 |")
        for rule in RULES:
            print(f"| `{rule}`, CPU s | {cpu[rule]:.1f} | {cpu[rule] / self.full:.3f} |")
        print(f"| **all three** | {total:.1f} | **{total / self.full:.3f}** |")
        print(f"| wall time of two ffmpeg side by side, s | {self.decoding_wall:.1f} | 1 |")
        print(
            f"| the rules with `--cores 2`, as Snakemake says, s | {self.rules_wall:.1f} "
            f"| **{self.rules_wall / self.decoding_wall:.2f}** |"
        )
        print(
            f"| the command, its start and end included, s | {self.workflow_wall:.1f} "
            f"| {self.workflow_wall / self.decoding_wall:.2f} |"
        )
        print(f"| `unmask plan` before | {self.plan} | |")
        print(f"| peak memory of one job, MB | {self.usage.megabytes:.0f} | |\n")


def costs_of(root: Path, joined: Joined, work: Path) -> Costs:
    """Work on all parts of a folder, some joined to a shard."""
    usage, full = Usage(), 0.0
    for shard in shards_of(find_parts(root), joined, 1).values():
        files = sorted(file for part in shard for file in part.glob("*.mp4"))
        full += sum(map(decode, files[::2]))
        work_shard(shard, work / "out" / shard[0].name, usage)
        full += sum(map(decode, files[1::2]))
    turns = []
    for turn in range(WALL_TURNS):
        decoding = wall_of_decoding(sorted(root.glob("*/*.mp4")))
        turns.append((*wall_of_workflow(root, joined, work / f"workflow{turn}"), decoding))
    return Costs(usage, full, *np.mean(turns, axis=0), planned(root, joined, work))


def measure(real: Path, work: Path) -> None:
    """Measure in a temporary folder and print the tables."""
    root = work / "data"
    root.mkdir()
    link_data(real, root)
    parts = len(list(root.iterdir()))
    costs_of(root, "auto", work / "default").print(f"{parts} parts, default settings")
    costs_of(root, 1, work / "apart").print(f"{parts} parts, `parts_per_shard: 1`")
    large = Usage()
    work_shard([write_4k_part(work / "4k")], work / "out4k", large)

    videos = _tables(work / "default/out", "videos.parquet")
    faces = _tables(work / "default/out", "faces.parquet")
    overlap = reuse_overlap(root, videos, faces)
    reused = videos[videos["reused"]]
    found = videos["frames_with_face"] / videos["frames"]
    print(f"{len(videos)} clips, statuses {videos['status'].value_counts().to_dict()}\n")
    print("| | figure |\n|---|---|")
    print(f"| fakes whose tracks are their original's | {len(reused)} |")
    print(f"| detections of such a fake, mean | {reused['detections'].mean():.1f} |")
    own = videos[~videos["reused"]]
    print(
        f"| detections of another video, mean (of {own['frames'].mean():.0f} frames) "
        f"| {own['detections'].mean():.1f} |"
    )
    print(f"| frames with a face | {found.mean():.4f} |")
    print(f"| the same, worst clip | {found.min():.3f} ({videos.loc[found.idxmin(), 'video']}) |")
    print(f"| crop IoU, reused and fresh: mean | {overlap.mean():.3f} |")
    print(
        f"| 5th percentile; lowest mean of a clip | {overlap.quantile(0.05):.3f}; "
        f"{overlap.groupby(level=0).mean().min():.3f} |"
    )
    print(f"| peak memory of a job on a 4K clip | {large.megabytes:.0f} MB |")


def _tables(folder: Path, name: str) -> pd.DataFrame:
    tables = [pd.read_parquet(path) for path in sorted(folder.glob(f"*/{name}"))]
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    main()
