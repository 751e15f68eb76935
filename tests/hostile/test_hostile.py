"""Whatever a part holds, each file gets a status at a bounded cost, and no other file is opened.

The stages run as the workflow runs them, through the command line. `make fuzz` writes the part with
several seeds.
"""

import fnmatch
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import av
import pandas as pd
import pytest

from hostile.generate import (
    ODD_NAMES,
    OUTSIDE,
    UNLISTED,
    UNLISTED_PICTURE,
    hostile_groups,
    write_hostile_part,
)
from hostile.watch import Job, Listener, OpenWatch, run_job
from unmask.tables import VIDEOS, read_table
from unmask.vocabulary import Status

pytestmark = pytest.mark.serial  # memory and time are bounded

MEMORY = 1_500_000_000  # bytes that a job may use; the rules request more
FRAMES, FACES, LIMITS = {"per_video": 4}, {"size": 64}, {"seconds": 30, "retries": 0}
SEEDS = [int(seed) for seed in os.environ.get("UNMASK_FUZZ_SEEDS", "0").split()]
GROUPS = hostile_groups()

# Slow even within the limits: each runs alone.
HEAVY = {
    *("edits_100000.mp4", "samples_20_million.mp4", "picture_16000.png"),
    *("declared_16000.mp4", "declared_16000.gif", "declared_8192.gif"),
}
# The statuses that are right for a file or for an @group, if they are the same for every seed;
# later lines win. Stills and streams without times need not be videos, but no other file may be
# read in their place. Subtitles and ANSI art are formats that FFmpeg reads.
STATUSES = """
ok: @ordinary
no_face: @faceless
ok no_face unreadable: @stills
ok decode_error unreadable: @without_times
unreadable: @not_video
unreadable no_video_stream decode_error: @playlists
missing: @no_file
missing unreadable: folder.mp4 fifo.mp4 socket.mp4
missing unreadable: link_to_device.mp4 link_to_fifo.mp4
# The folder has pictures, and a folder of pictures is a video.
ok missing unreadable: link_to_folder.mp4
decode_error unreadable no_face too_large timeout: declared_16000* declared_8192* picture* samples*
decode_error unreadable too_large: declared_16384* declared_65520.*
unreadable no_face: ansi_art.txt
no_video_stream: sound.mp4 sound.mkv tracks_none.mp4 handler_soun.mp4
unreadable no_video_stream: subtitles.mp4 sound.*.mp4 nested_20000.mp4
unreadable: mdat_alone.mp4 box_moov_7.mp4 first_box_huge.mp4
no_video_stream unreadable too_large: packed_moov_100_mb.mp4
unreadable too_large: hole_of_zeros.mp4
ok decode_error: times_shuffled.mp4
decode_error: codec_zzzz.mp4 tables_removed.mp4 chunk_offset_7fffffff.mp4 sample_sizes_*.mp4
decode_error: avcc_zeroed.mp4 moov_alone.mp4 zeroed_005.mp4 count_stco_0.mp4 noise_in_mdat.mp4
decode_error: noise_in_mdat_hevc.mp4 noise_in_mdat_vp9.mp4 noise_in_mdat_av1.mp4
ok too_large: picture_8192x4320.mp4
decode_error unreadable ok too_large timeout: edits_100000.mp4
ok: link_to_clip.mp4 hole_behind_a_clip.mp4 hole_behind_a_stream.ts first_keyframe_5.mp4
ok: brand_zzzz.mp4 movie_timescale_0.mp4 timescale_0.mp4 duration_0.mp4 duration_huge.mp4
ok: sample_durations_0.mp4 matrix_45_degrees.mp4 matrix_zero.mp4 declared_*_in_track.mp4
ok: microseconds_0.avi rate_0.avi moov_twice.mp4
"""


def expected_statuses() -> dict[str, set[str]]:
    every = [name for group in GROUPS.values() for name in group]
    expected: dict[str, set[str]] = {}
    for line in STATUSES.strip().splitlines():
        statuses, _, patterns = line.partition(": ")
        for pattern in patterns.split():
            names = GROUPS[pattern[1:]] if pattern[0] == "@" else fnmatch.filter(every, pattern)
            assert names, pattern
            expected |= {name: set(statuses.split()) for name in names}
    return expected | {"without_permission.mp4": {"ok" if os.geteuid() == 0 else "unreadable"}}


EXPECTED = expected_statuses()


@dataclass(frozen=True)
class Run:
    """Outcome of the stages on a part.

    Attributes:
        names: of the entries in its metadata.json.
        jobs: the stages.
        ledger: the table; empty if a stage before it failed.
        reached: files outside metadata.json that were opened, and "network" after a connection.
    """

    names: list[str]
    jobs: list[Job]
    ledger: pd.DataFrame
    reached: set[str]

    def outcome(self, name: str) -> tuple[str, str]:
        row = self.ledger.set_index("video").loc[name]
        return row["status"], row["detail"]


def run_stages(root: Path, part: Path, seconds: float) -> list[Job]:
    """Run the stages up to the ledger as the workflow's rules do, until one fails."""
    probe, stream, videos = root / "probe.parquet", root / "frames.tar", root / "cropped.parquet"
    limits = json.dumps({"limits": LIMITS})
    frames = json.dumps({"frames": FRAMES, "limits": LIMITS})
    whole = ["--chunk", "0", "--chunks", "1", "--workers", "2", "--settings", limits]
    sampling = ["--probe", probe, "--settings", frames, "--workers", "1", "--output", stream]
    faces = ["--probe", probe, "--settings", json.dumps({"faces": FACES}), "--videos", videos]
    cropped = ["--shard", root / "faces.tar", "--index", root / "faces.parquet"]
    tables = ["--output", root / "videos.parquet", "--summary", root / "ledger.json"]
    stages: list[list[str | Path]] = [
        ["videos.probe:probe_shard", "--parts", part, *whole, "--output", probe],
        ["videos.extraction:write_stream", "--parts", part, *sampling],
        ["faces.cropping:crop_shard", "--stream", stream, *faces, *cropped],
        ["videos.ledger:write_ledger", "--probes", probe, "--cropped", videos, *tables],
    ]
    jobs: list[Job] = []
    for stage in stages:
        # Stopped at twice the memory allowed: that is enough to see that it was too much.
        jobs.append(run_job([sys.executable, "-m", "unmask", *stage], seconds, 2 * MEMORY))
        if jobs[-1].code != 0:
            break
    return jobs


def run_part(root: Path, seed: int, names: set[str]) -> Run:
    """Write a part, run the stages on it, and watch what they open and connect to."""
    listener = Listener()
    part = write_hostile_part(root / "part", seed, names, listener.port)
    watch = OpenWatch([root / OUTSIDE, part / UNLISTED, part / UNLISTED_PICTURE])
    jobs = run_stages(root, part, seconds=60 + 2 * len(names))
    reached = {path.name for path in watch.opened()} | ({"network"} if listener.calls else set())
    watch.close()
    listener.close()
    table = root / "videos.parquet"
    ledger = read_table(table, VIDEOS) if table.exists() else pd.DataFrame(columns=["video"])
    return Run(list(json.loads((part / "metadata.json").read_text())), jobs, ledger, reached)


@pytest.fixture(scope="module", params=SEEDS, ids=lambda seed: f"seed {seed}")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    names = {name for group in GROUPS.values() for name in group} - HEAVY
    return run_part(tmp_path_factory.mktemp("hostile"), request.param, names)


def test_every_stage_succeeds_in_bounded_memory(run: Run) -> None:
    for job in run.jobs:
        assert job.code == 0, f"{job.name} after {job.seconds:.0f} s:\n{job.log}"
    assert len(run.jobs) == 4
    assert {job.name: job.peak for job in run.jobs if job.peak > MEMORY} == {}
    assert min(job.peak for job in run.jobs) > 30_000_000  # it has been measured


def test_every_file_has_one_row_without_an_unexpected_error(run: Run) -> None:
    assert len(run.names) >= 500
    assert sorted(run.ledger["video"]) == sorted(run.names)
    assert set(run.ledger["status"]) <= set(Status)
    failed = run.ledger[run.ledger["status"] == Status.FAILED]
    assert dict(zip(failed["video"], failed["detail"], strict=True)) == {}
    # Only of a decoded video can be said that it shows no face.
    unseen = run.ledger[(run.ledger["status"] == Status.NO_FACE) & (run.ledger["frames"] < 1)]
    assert set(unseen["video"]) == set()


def test_files_end_with_the_expected_status(run: Run) -> None:
    known = [name for name in run.names if name in EXPECTED]
    assert len(known) > len(run.names) / 3
    ends = {name: run.outcome(name) for name in known}
    assert {name: end for name, end in ends.items() if end[0] not in EXPECTED[name]} == {}


def test_damage_spoils_some_files_and_not_others(run: Run) -> None:
    for group in ("truncated", "flipped", "scrambled", "patched"):
        ends = Counter(run.outcome(name)[0] for name in GROUPS[group] if name not in HEAVY)
        assert 0 < ends[Status.OK] < ends.total(), (group, ends)


def test_nothing_but_the_entries_is_reached(run: Run) -> None:
    assert run.reached == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HEAVY))
def test_a_heavy_file_is_bounded(name: str, tmp_path: Path) -> None:
    done = run_part(tmp_path, 0, {"healthy_0.mp4", name})
    test_every_stage_succeeds_in_bounded_memory(done)
    assert done.outcome("healthy_0.mp4")[0] == Status.OK
    assert done.outcome(name)[0] in EXPECTED[name]


def test_names_are_no_urls_where_the_part_is_the_working_folder(tmp_path: Path) -> None:
    part = write_hostile_part(tmp_path / "part", 0, ODD_NAMES)
    out = tmp_path / "probe.parquet"
    command = [sys.executable, "-m", "unmask", "videos.probe:probe_shard", "--parts", "."]
    command += ["--chunk", "0", "--chunks", "1", "--output", out]
    assert run_job(command, 120, 2 * MEMORY, part).code == 0
    table = pd.read_parquet(out)
    assert set(table["video"]) == set(ODD_NAMES)
    assert set(table.loc[table["status"] != Status.OK, "video"]) == set()


def test_the_watch_sees_a_reader_that_follows_the_playlists(tmp_path: Path) -> None:
    listener = Listener()
    part = write_hostile_part(tmp_path / "part", 0, GROUPS["playlists"], listener.port)
    watch = OpenWatch([tmp_path / OUTSIDE, part / UNLISTED])
    assert watch.opened() == set()
    for name, path in {"outside": tmp_path / OUTSIDE, "inside": part / UNLISTED}.items():
        with av.open(str(part / f"hls_{name}.m3u8")) as container:
            assert container.streams.video[0].width == 176
        assert watch.opened() == {path}
    with av.open(str(part / "ffconcat_outside.mp4"), options={"safe": "0"}) as container:
        assert next(container.decode(video=0)).width == 176
    assert watch.opened() == {tmp_path / OUTSIDE}
    assert listener.calls == 0
    trust = {"protocol_whitelist": "file,http,tcp,crypto,data"}
    with pytest.raises(av.FFmpegError):
        av.open(str(part / "hls_network.m3u8"), options=trust)
    watch.close()
    listener.close()
    assert listener.calls > 0
