"""The plan: what turning videos into faces will cost, found out on a few of them.

A sample of the videos goes through the very functions of the workflow, timed. Originals and fakes
are sampled apart, because a fake reuses its original's tracks, and evenly over their file sizes,
because size is what cost varies with most.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask.config import Config, FacesConfig, locate
from unmask.errors import UnmaskError
from unmask.faces.crops import crop_faces
from unmask.faces.detectors import Detector, create_detector
from unmask.faces.search import Search, find_faces
from unmask.progress import track
from unmask.videos.frames import Frame, sample_frames
from unmask.videos.probe import probe_entry
from unmask.videos.source import Entry, VideoFile, find_parts, read_metadata, shards_of
from unmask.vocabulary import Label, Status

# Writing planes into a pipe and reading them, which the sample does not: measured once.
_STREAM = 1.05
# Snakemake's start and end, and the seconds that a shard's pair of jobs leaves its cores idle while
# they start, while one decodes the last video, and until Snakemake, which looks once a second,
# sees that both have ended.
_SNAKEMAKE_SECONDS = 5.0
_PAIR_SECONDS = 2.5
# CPU seconds that a killed job may cost where small parts are joined, and the share of the wall
# time that joining them must spare to be advised.
_SHARD_SECONDS = 600.0
_WORTH_SAYING = 0.1
# What the face index takes beside the crops, and tar's headers and padding, per crop.
_BYTES_PER_CROP = 512 + 256 + 100
_STARTED = ("unmask.videos.probe", "unmask.videos.stream", "unmask.faces.cropping")


@dataclass(frozen=True)
class Plan:
    """A prediction.

    Attributes:
        videos: that have a file.
        sampled: videos that were measured.
        cpu_hours: of probe, extract_frames and crop_faces.
        wall_hours: of the same on so many cores.
        cores: that many.
        final_gb: disk that the face shards take.
        peak_gb: the most that is on the disk at any time.
        advice: what would make it faster; empty where nothing would.
    """

    videos: int
    sampled: int
    cpu_hours: float
    wall_hours: float
    cores: int
    final_gb: float
    peak_gb: float
    advice: str = ""

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


@dataclass(frozen=True)
class _Cost:
    seconds: float
    shard_bytes: int
    frame_bytes: int


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
    cv2.setNumThreads(1)
    root = data_root or config.data_root
    parts = find_parts(locate(root))
    candidates = _candidates(list(parts.values()))
    names = {(one.part, one.entry.name): one for one in candidates}
    own: list[_Candidate] = []
    reusing: list[_Candidate] = []
    for one in candidates:
        original = names.get((one.part, one.entry.family))
        is_fake = one.entry.label == Label.FAKE and original is not None
        (reusing if is_fake else own).append(one)
    if not candidates:
        raise UnmaskError(f"data_root: no video file in the parts of {root}")
    share = len(reusing) / len(candidates)
    measured_own = _spread(own, max(1, round(samples * (1 - share))))
    families: dict[_Candidate, list[_Candidate]] = {one: [] for one in measured_own}
    for fake in _spread(reusing, round(samples * share)):
        families.setdefault(names[fake.part, fake.entry.family], []).append(fake)
    # A core is slower where its neighbour works as well, as it does once jobs run. Not by
    # `run_isolated`, whose limits are those of a decoder: these hold a detector as well.
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(2, cores), mp_context=fork) as pool:
        arguments = (families, families.values(), repeat(config))
        costs = track(pool.map(_family_costs, *arguments), "families", len(families))
        try:
            by_family = dict(zip(families, costs, strict=True))
        except BrokenProcessPool:
            raise UnmaskError(
                "a sampled video takes its decoder down, which the workflow survives; plan with "
                "another number of --samples"
            ) from None
    own_costs = [by_family[one][0] for one in measured_own]
    fake_costs = [cost for _, of_fakes in by_family.values() for cost in of_fakes]

    shards = len(shards_of(parts, config.parts_per_shard, config.shards_per_part))
    measured, final, frames = _scaled(own_costs, len(own)) + _scaled(fake_costs, len(reusing))
    work, start = measured * _STREAM, _start_seconds()
    peak = final
    if config.frames.keep:
        peak += frames
    elif cores == 1:  # a pipe needs two cores: one shard's frames are a file at a time
        peak += frames / shards
    return Plan(
        videos=len(candidates),
        sampled=len(own_costs) + len(fake_costs),
        cpu_hours=(work + shards * start) / 3600,
        wall_hours=wall_seconds(shards, work, start, cores) / 3600,
        cores=cores,
        final_gb=final / 1e9,
        peak_gb=peak / 1e9,
        advice=advise_joining(len(parts), shards, work, start, cores),
    )


def wall_seconds(shards: int, work: float, start: float, cores: int) -> float:
    """Return how long the stages take.

    Args:
        shards: their number.
        work: CPU seconds of all videos.
        start: CPU seconds in which the jobs of one shard start.
        cores: that Snakemake is given.
    """
    # A pair of jobs keeps two cores busy; fewer shards than pairs leave some idle.
    busy = min(cores, max(1, 2 * shards))
    rounds = math.ceil(shards / max(1, cores // 2))
    return (work + shards * start) / busy + _SNAKEMAKE_SECONDS + rounds * _PAIR_SECONDS


def advise_joining(parts: int, shards: int, work: float, start: float, cores: int) -> str:
    """Say how many parts should be one shard, where another number spares much of the wall time.

    Args:
        parts: their number.
        shards: that they are now; where they are more, parts were cut on purpose.
        work: CPU seconds of all videos.
        start: CPU seconds in which the jobs of one shard start.
        cores: that Snakemake is given.

    Returns:
        A line; empty where nothing should change.
    """
    if shards > parts:
        return ""
    # No more than a killed job may cost.
    most = min(parts, max(1, int(_SHARD_SECONDS * parts / work)))

    def wall(joined: int) -> float:
        return wall_seconds(math.ceil(parts / joined), work, start, cores)

    now = wall_seconds(shards, work, start, cores)
    best = min(range(1, most + 1), key=wall)
    spared = now - wall(best)
    if spared < _WORTH_SAYING * now:
        return ""
    return f"parts_per_shard: {best} would spare {_hours(spared / 3600)} of wall time"


def _candidates(parts: Sequence[Path]) -> list[_Candidate]:
    """List the videos that can be worked on; their files are only looked up, not opened."""
    found = []
    for part in track(parts, "parts"):
        for entry in read_metadata(part):
            if entry.status == Status.OK:
                size = VideoFile(part, entry.name).size()
                if size:
                    found.append(_Candidate(part, entry, size))
    return found


def _spread(candidates: Sequence[_Candidate], count: int) -> list[_Candidate]:
    """Choose some candidates evenly over their sizes (systematic sampling)."""
    ordered = sorted(candidates, key=lambda one: (one.size, one.entry.name))
    count = min(count, len(ordered))
    return [ordered[int((index + 0.5) * len(ordered) / count)] for index in range(count)]


def _family_costs(
    original: _Candidate, fakes: Sequence[_Candidate], config: Config
) -> tuple[_Cost, list[_Cost]]:
    """Return the costs of an original, and of fakes of it that reuse what is found in it."""
    detector = _detector_of_process(config.faces.model_dump_json())
    cost, reference = _work(original, config, detector, None)
    return cost, [_work(fake, config, detector, reference)[0] for fake in fakes]


@cache
def _detector_of_process(settings: str) -> Detector:
    return create_detector(FacesConfig.model_validate_json(settings))


def _work(
    one: _Candidate, config: Config, detector: Detector, reference: Search | None
) -> tuple[_Cost, Search | None]:
    """Do with one video what the workflow does; return the cost and what was found."""
    start = time.process_time()
    if probe_entry(one.part, one.entry)["status"] != Status.OK:
        return _Cost(time.process_time() - start, 0, 0), None
    with VideoFile(one.part, one.entry.name).opened() as source:
        frames: list[Frame] = list(sample_frames(source, config.frames))
    search = find_faces(frames, detector, config.faces, reference)
    crops = crop_faces(frames, search, config.faces)
    seconds = time.process_time() - start
    frame_bytes = sum(plane.nbytes for frame in frames for plane in frame.planes)
    shard_bytes = sum(len(crop.jpeg) + _BYTES_PER_CROP for crop in crops)
    return _Cost(seconds, shard_bytes, frame_bytes), search


def _scaled(costs: Sequence[_Cost], count: int) -> NDArray[np.float64]:
    """Return seconds, bytes of faces and bytes of frames of `count` videos like the measured."""
    if not costs:
        return np.zeros(3)
    each = [(cost.seconds, cost.shard_bytes, cost.frame_bytes) for cost in costs]
    return np.asarray(np.mean(each, axis=0) * count, np.float64)


def _start_seconds() -> float:
    """Return the CPU seconds in which the three rules' processes of one shard start."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for module in _STARTED:
        code = f"import pyarrow.parquet, {module}"
        subprocess.run([sys.executable, "-c", code], env=os.environ | _own_path(), check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _own_path() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
