"""The plan: what turning videos into faces will cost, estimated from a sample.

A sample of the videos goes through the functions of the workflow and is timed. Originals and fakes
are sampled separately, because a fake reuses the tracks of its original, and evenly over their file
sizes, because size is what cost depends on most.
"""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask.config import Config
from unmask.config_files import locate
from unmask.errors import UnmaskError
from unmask.faces.crops import crop_video
from unmask.faces.detectors import cached_detector
from unmask.faces.search import Search
from unmask.progress import track
from unmask.videos.container import probe_entry
from unmask.videos.isolation import Lost, Task, run_isolated
from unmask.videos.sampling import sample_video
from unmask.videos.source import Entry, VideoFile, find_parts, read_metadata, shards_of
from unmask.vocabulary import Label, Status

# Writing planes into a pipe and reading them, which the sample does not do; measured.
_STREAM = 1.05
# Seconds in which Snakemake starts and ends, and in which the pair of jobs of a shard leaves cores
# idle: while it starts, while it decodes its last video, and until Snakemake, which checks once a
# second, notices its end.
_SNAKEMAKE_SECONDS = 5.0
_PAIR_SECONDS = 2.5
# CPU seconds of a shard at most, as they are lost when its job is killed, and the share of the wall
# time that must be saved, for joining parts to be advised.
_SHARD_SECONDS = 600.0
_WORTH_SAVING = 0.1
# Of a crop's row in the face index, and of its header and padding in the tar.
_BYTES_PER_CROP = 512 + 256 + 100
# Of a video, or of many: CPU seconds, bytes of faces and bytes of frames, float64 (3,).
Cost = NDArray[np.float64]
_STARTED = ("unmask.videos.probe", "unmask.videos.extraction", "unmask.faces.cropping")


@dataclass(frozen=True)
class Plan:
    """A prediction of costs."""

    videos: int  # with a file
    sampled: int  # videos that were measured
    cpu_hours: float  # of probe, extract_frames and crop_faces
    wall_hours: float  # of the same on `cores`
    cores: int
    final_gb: float  # disk space of the face shards
    peak_gb: float  # the most disk space in use at any time
    advice: str = ""  # what would make the stages faster; empty where nothing would

    def __str__(self) -> str:
        """Return the prediction in a few lines."""
        lines = [
            f"{self.videos:,} videos, {self.sampled} of them measured",
            f"CPU time    {_hours(self.cpu_hours)} (probe, extract_frames, crop_faces)",
            f"wall time   {_hours(self.wall_hours)} on {self.cores} cores",
            f"disk        {self.final_gb:.2f} GB of faces, {self.peak_gb:.2f} GB at the peak",
            f"advice      {self.advice}" if self.advice else "",
        ]
        return "\n".join(filter(None, lines))


@dataclass(frozen=True)
class _Candidate:
    part: Path
    entry: Entry
    size: int


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def plan_faces(
    config: Config, cores: int = os.cpu_count() or 1, samples: int = 24, data_root: str = ""
) -> Plan:
    """Predict what the stages from videos to faces will cost.

    Args:
        config: the whole configuration.
        cores: CPU cores that Snakemake will be given.
        samples: videos to measure at most; more make the prediction better and slower.
        data_root: folder of parts to measure instead of the configuration's.

    Raises:
        UnmaskError: there is no part, or no video that can be read.
    """
    root = data_root or config.data_root
    parts = find_parts(locate(root))
    candidates = _candidates(list(parts.values()))
    if not candidates:
        raise UnmaskError(f"data_root: no video file in the parts of {root}")
    names = {(one.part, one.entry.name): one for one in candidates}
    originals = {
        one: names[one.part, one.entry.family]
        for one in candidates
        if one.entry.label == Label.FAKE and (one.part, one.entry.family) in names
    }
    fakes = list(originals)
    others = [one for one in candidates if one not in originals]
    share = len(fakes) / len(candidates)
    sampled = _spread(others, max(1, round(samples * (1 - share))))
    families: dict[_Candidate, list[_Candidate]] = {one: [] for one in sampled}
    for fake in _spread(fakes, round(samples * share)):
        families.setdefault(originals[fake], []).append(fake)
    costs = _measure(families, config, cores)
    measured = [costs[one] for one in sampled]
    measured_fakes = [costs[fake] for of_family in families.values() for fake in of_family]
    total = np.mean(measured, axis=0) * len(others)
    if measured_fakes:
        total += np.mean(measured_fakes, axis=0) * len(fakes)

    shards = len(shards_of(parts, config.parts_per_shard, config.shards_per_part))
    work, start = float(total[0]) * _STREAM, _start_seconds()
    final = peak = float(total[1])
    if config.frames.keep:
        peak += total[2]
    elif cores == 1:  # a pipe needs two cores: frames are written to files, a shard at a time
        peak += total[2] / shards
    return Plan(
        videos=len(candidates),
        sampled=len(measured) + len(measured_fakes),
        cpu_hours=(work + shards * start) / 3600,
        wall_hours=wall_seconds(shards, work, start, cores) / 3600,
        cores=cores,
        final_gb=final / 1e9,
        peak_gb=peak / 1e9,
        advice=advise_joining(len(parts), shards, work, start, cores),
    )


def wall_seconds(shards: int, work: float, start: float, cores: int) -> float:
    """Return the wall time of the stages.

    Args:
        shards: number of shards.
        work: CPU seconds of all videos.
        start: CPU seconds in which the jobs of one shard start.
        cores: cores that Snakemake is given.
    """
    # The jobs of a shard keep two cores busy; with fewer shards, some cores are idle.
    busy = min(cores, max(1, 2 * shards))
    rounds = math.ceil(shards / max(1, cores // 2))
    return (work + shards * start) / busy + _SNAKEMAKE_SECONDS + rounds * _PAIR_SECONDS


def advise_joining(parts: int, shards: int, work: float, start: float, cores: int) -> str:
    """Return advice on `parts_per_shard`, empty where no other value saves much wall time.

    `parts` and `shards` are their present numbers; the rest are the arguments of `wall_seconds`.
    """
    if shards > parts:  # parts were cut on purpose
        return ""
    most = min(parts, max(1, int(_SHARD_SECONDS * parts / work)))

    def wall(joined: int) -> float:
        return wall_seconds(math.ceil(parts / joined), work, start, cores)

    now = wall_seconds(shards, work, start, cores)
    best = min(range(1, most + 1), key=wall)
    saved = now - wall(best)
    if saved < _WORTH_SAVING * now:
        return ""
    return f"parts_per_shard: {best} would save {_hours(saved / 3600)} of wall time"


def _candidates(parts: Sequence[Path]) -> list[_Candidate]:
    """Return the videos that can be processed; their files are not opened."""
    return [
        _Candidate(part, entry, size)
        for part in track(parts, "parts")
        for entry in read_metadata(part)
        if entry.status == Status.OK and (size := VideoFile(part, entry.name).size())
    ]


def _spread(candidates: Sequence[_Candidate], count: int) -> list[_Candidate]:
    """Choose some candidates evenly over their sizes (systematic sampling)."""
    ordered = sorted(candidates, key=lambda one: (one.size, one.entry.name))
    count = min(count, len(ordered))
    return [ordered[int((index + 0.5) * len(ordered) / count)] for index in range(count)]


def _measure(
    families: Mapping[_Candidate, Sequence[_Candidate]], config: Config, cores: int
) -> dict[_Candidate, Cost]:
    """Return the costs of originals and of their fakes."""
    tasks = [Task(measure_family, (original, of, config)) for original, of in families.items()]
    largest = max(map(len, families.values())) + 1
    limits = config.limits.model_copy(update={"seconds": config.limits.seconds * largest})
    costs: dict[_Candidate, Cost] = {}
    # Two at a time: a core is slower while its neighbour is busy, as it will be in the workflow.
    measured = run_isolated(tasks, limits, min(2, cores))
    for family in track(measured, "families", len(tasks)):
        if isinstance(family, Lost):
            raise UnmaskError(
                f"a sampled video is lost ({family.detail}), which the workflow survives; plan "
                "with another number of --samples"
            )
        costs |= family
    return costs


def measure_family(
    original: _Candidate, fakes: Sequence[_Candidate], config: Config
) -> dict[_Candidate, Cost]:
    """Process an original and some of its fakes as the workflow does; return their costs."""
    cv2.setNumThreads(1)
    detector, faces = cached_detector(config.faces), config.faces
    reference: Search | None = None
    costs = {}
    for one in (original, *fakes):
        start = time.process_time()
        shard_bytes = frame_bytes = 0
        if probe_entry(one.part, one.entry)["status"] == Status.OK:
            file = VideoFile(one.part, one.entry.name).opened()
            sampled = sample_video(file, config.frames.per_video, config.frames.rate)
            cropped = crop_video(sampled, detector, faces, reference)
            reference = cropped.search if one == original else reference
            frame_bytes = sum(plane.nbytes for frame in sampled.frames for plane in frame.planes)
            shard_bytes = sum(len(crop.jpeg) + _BYTES_PER_CROP for crop in cropped.crops)
        costs[one] = np.array([time.process_time() - start, shard_bytes, frame_bytes])
    return costs


def _start_seconds() -> float:
    """Return the CPU seconds in which the processes of the three rules of one shard start."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    path = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    for module in _STARTED:
        code = f"import pyarrow.parquet, {module}"
        subprocess.run([sys.executable, "-c", code], env=os.environ | path, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
