"""Estimated hours of DFDC on 1, 16 and 128 cores, from a simulation (`make bench-makespan`).

Snakemake plans `config/dfdc.yaml` on metadata of DFDC's shape. The planned jobs, with their
dependencies, cores and GPUs, then run on a simulated clock: every job that is ready and fits is
started, by priority, then in Snakemake's order. `COSTS` has the seconds of a job and their source.
Nothing fails, and nothing waits for a disk, a network or a queue.
"""

from __future__ import annotations

import heapq
import itertools
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_dag import PARTS, REAL, VIDEOS, planned, write_metadata

# Cores and GPUs.
MACHINES = ((1, 1), (16, 4), (128, 8))
SHARDS_PER_PART = (1, 10)

# Measured on 63 clips with a mean of 362 million pixels; a clip of DFDC has 617 million (1080p, 298
# frames). The time of decoding and of the following stages is proportional to them.
CLIPS, PIXELS = 63, 617 / 362
TRACKS = 67 / 61
FRAMES, FOLDS, EPOCHS, SHIFTED = 32, 5, 20, 100
FAKE = 1 - REAL / VIDEOS
# Seconds of imports before a job starts to work.
START = 2.0

# The speed of tf_efficientnet_b4 at 380 has not been measured. B0 at 224 trains 3,009 images a
# second on an H100 (steps only) with 0.40 GMACs, and B4 has 4.49. A forward pass alone takes a
# third of a step.
TRAINED = 3009 * 0.40 / 4.49
SCORED = 3 * TRAINED
# Images a second that one core prepares: 501 and 1,514 at 224.
AUGMENTED, DECODED = (speed * (224 / 380) ** 2 for speed in (501, 1514))


def scoring(videos: float, threads: int) -> float:
    """Return the seconds in which a GPU scores the faces of so many videos."""
    return FRAMES * videos / min(SCORED, DECODED * max(1, threads - 1))


def training(threads: int) -> float:
    """Return the seconds of one model: in each epoch its pairs, then the validation videos."""
    pairs = (FOLDS - 2) / FOLDS * REAL * FRAMES
    epoch = 2 * pairs / min(TRAINED, AUGMENTED * max(1, threads - 1))
    return EPOCHS * (epoch + scoring(VIDEOS / FOLDS, threads))


@dataclass(frozen=True)
class Cost:
    """Time of a job.

    Attributes:
        seconds: as a function of the videos of its shard and of its threads.
        source: a section of docs/benchmarks.md, unless it says otherwise.
    """

    seconds: Callable[[float, int], float]
    source: str


def fixed(seconds: float) -> Callable[[float, int], float]:
    return lambda videos, threads: seconds


def by_video(seconds: float) -> Callable[[float, int], float]:
    return lambda videos, threads: START + videos * seconds


FACES = "Videos to faces, times 1.7 for DFDC's pixels"
TABLES = "Identities, audits: tables of DFDC's shape"
COSTS = {
    "probe": Cost(lambda videos, threads: START + videos * 5.5 / CLIPS * PIXELS / threads, FACES),
    "extract_frames": Cost(by_video(82.2 / CLIPS * PIXELS), FACES),
    "crop_faces": Cost(by_video(19.1 / CLIPS * PIXELS), FACES),
    "embed_faces": Cost(by_video(0.36 * TRACKS), "Identities, audits: a track"),
    "audit_labels": Cost(by_video(0.16 * TRACKS * FAKE), "Identities, audits: a FAKE track"),
    "split": Cost(fixed(13), TABLES),
    "audit_leaks": Cost(fixed(69 + 18), TABLES),
    "explore_videos": Cost(fixed(9), TABLES),
    "explore_faces": Cost(fixed(73), TABLES),
    "compare_detectors": Cost(fixed(200 * 0.22 * PIXELS), "Identities, audits: a frame"),
    "shift_faces": Cost(
        lambda videos, threads: START + 45 * 60 * videos / VIDEOS / threads,
        "config/config.yaml, evaluation.shift_videos: 45 minutes of one core at 1080p",
    ),
    "train": Cost(
        lambda videos, threads: training(threads), "Training, From crops to batches; extrapolated"
    ),
    "score": Cost(
        lambda videos, threads: scoring(2 / FOLDS * VIDEOS, threads), "as train; extrapolated"
    ),
    "score_shifts": Cost(
        # The clean reference and eleven shifts.
        lambda videos, threads: START + scoring(2 / FOLDS * 12 * SHIFTED, threads),
        "as train; extrapolated",
    ),
    "evaluate": Cost(fixed(48), "Evaluation"),
    "export": Cost(fixed(60), "benchmarks/ of a run on 84 clips, with larger models"),
    "all": Cost(fixed(0), "no work"),
    "explore": Cost(fixed(0), "no work"),
}
# Ledger, samples, figures, comparison: imports and little more.
OTHERS = Cost(fixed(10), "benchmarks/ of a run on 84 clips: 2 to 9 CPU seconds each")


@dataclass(eq=False)
class Work:
    """A job, or the two ends of a pipe, which run at the same time.

    Attributes:
        rules: of the job, or of both.
        order: ready jobs start in this order.
        cores: in use while it runs.
        gpus: in use while it runs.
        seconds: duration.
        after: dependencies.
    """

    rules: tuple[str, ...]
    order: tuple[int, int]
    cores: int
    gpus: int
    seconds: float
    after: set[Work] = field(default_factory=set)


def plan(data: Path, directory: Path, cores: int, shards_per_part: int) -> list[Work]:
    """Return the jobs that Snakemake plans."""
    with planned(data, directory, cores, shards_per_part=shards_per_part) as dag:
        dag.handle_pipes_and_services()
        together: dict[Any, list[Any]] = {}
        for job in dag.jobs:
            together.setdefault(job.pipe_group or job, []).append(job)
        videos = VIDEOS / (PARTS * shards_per_part)
        works = {key: work_of(jobs, videos) for key, jobs in together.items()}
        for key, jobs in together.items():
            before = {other.pipe_group or other for job in jobs for other in dag.dependencies[job]}
            works[key].after |= {works[other] for other in before - {key}}
    return list(works.values())


def work_of(jobs: list[Any], videos: float) -> Work:
    """Return the work of a job, or of both ends of a pipe."""
    seconds = [COSTS.get(job.rule.name, OTHERS).seconds(videos, job.threads) for job in jobs]
    cores = sum(job.threads for job in jobs)
    return Work(
        rules=tuple(job.rule.name for job in jobs),
        order=(-max(job.rule.priority for job in jobs), min(job.jobid for job in jobs)),
        cores=cores,
        gpus=sum(job.resources.get("gpu", 0) for job in jobs),
        # Both cores of a pipe are shared by the processes of its ends.
        seconds=sum(seconds) / len(jobs),
    )


@dataclass(frozen=True)
class Schedule:
    """Times of a simulated run.

    Attributes:
        faces: seconds until the last face was cropped.
        whole: seconds until the last job ended.
        cores: share of the cores' time that was in use.
        gpus: share of the GPUs' time that was in use.
    """

    faces: float
    whole: float
    cores: float
    gpus: float


def simulate(works: Iterable[Work], cores: int, gpus: int) -> Schedule:
    """Start every job that is ready and fits, each time that a job ends."""
    waiting = sorted(works, key=lambda work: work.order)
    ends: dict[Work, float] = {}
    running: list[tuple[float, tuple[int, int], Work]] = []
    clock, free_cores, free_gpus = 0.0, cores, gpus
    while waiting or running:
        for work in list(waiting):
            fits = work.cores <= free_cores and work.gpus <= free_gpus
            if fits and work.after <= ends.keys():
                waiting.remove(work)
                heapq.heappush(running, (clock + work.seconds, work.order, work))
                free_cores -= work.cores
                free_gpus -= work.gpus
        clock, _, done = heapq.heappop(running)
        ends[done] = clock
        free_cores += done.cores
        free_gpus += done.gpus
    return Schedule(
        faces=max(end for work, end in ends.items() if "crop_faces" in work.rules),
        whole=clock,
        cores=sum(work.seconds * work.cores for work in ends) / (clock * cores),
        gpus=sum(work.seconds * work.gpus for work in ends) / (clock * gpus),
    )


def critical_path(works: Iterable[Work]) -> list[Work]:
    """Return the chain of jobs that determines the time on infinitely many cores."""
    longest: dict[Work, float] = {}
    before: dict[Work, Work | None] = {}

    def length(work: Work) -> float:
        if work not in longest:
            before[work] = max(work.after, key=length, default=None)
            last = before[work]
            longest[work] = work.seconds + (length(last) if last else 0.0)
        return longest[work]

    work: Work | None = max(works, key=length)
    path = []
    while work is not None:
        path.append(work)
        work = before[work]
    return path[::-1]


def described(path: list[Work]) -> str:
    """Return the hours of the jobs on a path that take a minute or more."""
    hours = ((" and ".join(work.rules), work.seconds / 3600) for work in path)
    return " → ".join(f"{rules} {hour:.2f}" for rules, hour in hours if hour >= 1 / 60)


def main() -> None:
    """Plan, simulate and print Markdown."""
    head = ("cores", "GPUs", "shards a part", "jobs", "faces done", "all done", "critical path")
    print(f"| {' | '.join(head)} | cores in use | GPUs in use |\n{'|---' * 9}|")
    paths = {}
    with tempfile.TemporaryDirectory() as folder:
        write_metadata(Path(folder) / "data", VIDEOS)
        for (cores, gpus), shards in itertools.product(MACHINES, SHARDS_PER_PART):
            works = plan(Path(folder) / "data", Path(folder), cores, shards)
            run, path = simulate(works, cores, gpus), critical_path(works)
            jobs = sum(len(work.rules) for work in works)
            seconds = (run.faces, run.whole, sum(work.seconds for work in path))
            hours = " | ".join(f"{one / 3600:.1f} h" for one in seconds)
            print(
                f"| {cores} | {gpus} | {shards} | {jobs:,} | {hours} "
                f"| {run.cores:.0%} | {run.gpus:.0%} |"
            )
            paths[f"{cores} cores, {shards} shards a part"] = described(path)
    print(f"\n| critical path of | hours |\n{'|---' * 2}|")
    for name, steps in paths.items():
        print(f"| {name} | {steps} |")
    print(f"\n| a job of | seconds, 2,383 videos, 8 threads | from |\n{'|---' * 3}|")
    for rule, cost in {**COSTS, "others": OTHERS}.items():
        print(f"| {rule} | {cost.seconds(VIDEOS / PARTS, 8):,.0f} | {cost.source} |")


if __name__ == "__main__":
    main()
