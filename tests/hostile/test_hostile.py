"""Whatever a part holds, every file gets a status, at a bounded cost, and nothing else is opened.

The stages run as the workflow runs them, through the command line. A fixed sample of the hostile
part runs with the other tests, the whole part with `make fuzz`.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
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
from hostile.watch import Job, Listener, OpenWatch, run_unmask
from unmask.tables import VIDEOS, read_table
from unmask.vocabulary import Status

MEMORY = 1_500_000_000  # bytes that a job may hold; the rules ask for more
SETTINGS = {
    "frames": {"per_video": 4},
    "faces": {"size": 64},
    "limits": {"seconds": 30},
}
SEEDS = [int(seed) for seed in os.environ.get("UNMASK_FUZZ_SEEDS", "0").split()]
GROUPS = hostile_groups()

# How many of each group the sample has; they are taken evenly from its list.
SAMPLED = {
    "ordinary": 18,
    "stills": 6,
    "without_times": 1,
    "faceless": 3,
    "truncated": 8,
    "flipped": 8,
    "scrambled": 4,
    "patched": 8,
    "bombs": 3,
    "not_video": 5,
    "no_file": 4,
    "playlists": 5,
}

# Costly even where the limits hold: each alone in `test_a_heavy_file_is_bounded`, with `make fuzz`.
HEAVY = {
    "edits_100000.mp4",
    "samples_20_million.mp4",
    "declared_16000.mp4",
    "declared_16000.gif",
    "declared_8192.gif",
    "picture_16000.png",
}

# Each was lost, or showed what it should not, in an earlier version: always in the sample.
FORMER_PROBLEMS = (
    "qtrle_palette.mov",
    "cover_art_first.mp4",
    "keyframe_first_is_the_fifth.mp4",
    "hole_behind_a_stream.ts",
    "times_shuffled.mp4",
    "before_zero.mp4",
    "hls_inside.m3u8",
    "hls_outside.m3u8",
    "ffconcat_inside.mp4",
    "ffconcat_inside.ffconcat",
)

OK, MISSING, UNREADABLE, NO_STREAM, NO_FACE, DECODE = (
    "ok",
    "missing",
    "unreadable",
    "no_video_stream",
    "no_face",
    "decode_error",
)


def expected_statuses() -> dict[str, set[str]]:
    """Return what each file may end as, where that is known whatever the seed."""
    groups = hostile_groups()
    irregular = ("folder", "fifo", "socket", "link_to_folder", "link_to_device", "link_to_fifo")
    expected: dict[str, set[str]] = (
        {name: {OK} for name in groups["ordinary"]}
        | {name: {NO_FACE} for name in groups["faceless"]}
        # Neither is promised to be a video, and neither is to be taken for anything else.
        | {name: {OK, NO_FACE, UNREADABLE} for name in groups["stills"]}
        | {name: {OK, DECODE, UNREADABLE} for name in groups["without_times"]}
        | {name: {UNREADABLE} for name in groups["not_video"]}
        | {name: {UNREADABLE, NO_STREAM, DECODE} for name in groups["playlists"]}
        | {name: {MISSING} for name in groups["no_file"]}
        | {f"{name}.mp4": {MISSING, UNREADABLE} for name in irregular}
    )
    # What a server may have put there instead; subtitles and ANSI art are formats of FFmpeg's.
    expected |= {
        "subtitles.mp4": {UNREADABLE, NO_STREAM},
        "ansi_art.txt": {UNREADABLE, NO_FACE},
        "sound.mp4": {NO_STREAM},
        "sound.mkv": {NO_STREAM},
        "sound.wav.mp4": {UNREADABLE, NO_STREAM},
        "sound.mp3.mp4": {UNREADABLE, NO_STREAM},
        "sound.aac.mp4": {UNREADABLE, NO_STREAM},
        "link_to_clip.mp4": {OK},
        "without_permission.mp4": {OK if os.geteuid() == 0 else UNREADABLE},
        "mdat_alone.mp4": {UNREADABLE},
        "box_moov_7.mp4": {UNREADABLE},
        "first_box_huge.mp4": {UNREADABLE},
        "nested_20000.mp4": {UNREADABLE, NO_STREAM},
        "tracks_none.mp4": {NO_STREAM},
        "handler_sound.mp4": {NO_STREAM},
        "packed_moov_100_mb.mp4": {NO_STREAM, UNREADABLE, "too_large"},
        "hole_of_zeros.mp4": {UNREADABLE, "too_large"},
        "hole_behind_a_clip.mp4": {OK},
        "hole_behind_a_stream.ts": {OK},
        "keyframe_first_is_the_fifth.mp4": {OK},
        "times_shuffled.mp4": {OK, DECODE},
        "brand_unknown.mp4": {OK},
        "movie_timescale_0.mp4": {OK},
        "timescale_0.mp4": {OK},
        "duration_0.mp4": {OK},
        "duration_huge.mp4": {OK},
        "sample_durations_0.mp4": {OK},
        "matrix_45_degrees.mp4": {OK},
        "matrix_zero.mp4": {OK},
        "declared_0_in_track.mp4": {OK},
        "declared_65535_in_track.mp4": {OK},
        "microseconds_0.avi": {OK},
        "rate_0.avi": {OK},
        "moov_twice.mp4": {OK},
    }
    undecodable = ("codec_unknown", "tables_removed", "chunk_beyond_end", "sample_sizes_huge")
    undecodable += ("sample_sizes_0", "avcc_zeroed", "moov_alone", "zeroed_005", "count_stco_0")
    undecodable += tuple(f"noise_in_mdat{codec}" for codec in ("", "_hevc", "_vp9", "_av1"))
    expected |= {f"{name}.mp4": {DECODE} for name in undecodable}
    # Sizes that FFmpeg itself refuses, and those that it does not.
    for name in groups["bombs"]:
        if name.startswith(("declared_16384", "declared_65520.", "declared_16383")):
            expected[name] = {DECODE, UNREADABLE, "too_large"}
        elif name.startswith(("declared_16000", "declared_8192", "picture", "samples")):
            expected[name] = {DECODE, UNREADABLE, NO_FACE, "too_large", "timeout"}
    expected["picture_8192x4320.mp4"] = {OK, "too_large"}
    expected["edits_100000.mp4"] = {DECODE, UNREADABLE, OK, "too_large", "timeout"}
    return expected


EXPECTED = expected_statuses()


def sample() -> set[str]:
    names = {"healthy_0.mp4", *FORMER_PROBLEMS}
    for group, count in SAMPLED.items():
        every = [name for name in GROUPS[group] if name not in HEAVY]
        names |= {every[index * len(every) // count] for index in range(count)}
    return names


@dataclass(frozen=True)
class Run:
    """What the stages made of a part.

    Attributes:
        names: in its metadata.json.
        jobs: the stages.
        ledger: the table; empty where a stage did not get that far.
        opened: files that no entry names and that were opened all the same.
        calls: connections to the port that the playlists point to.
    """

    names: list[str]
    jobs: list[Job]
    ledger: pd.DataFrame
    opened: set[str]
    calls: int

    def outcome(self, name: str) -> tuple[str, str]:
        row = self.ledger.set_index("video").loc[name]
        return row["status"], row["detail"]


def run_stages(root: Path, part: Path, seconds: float, memory: int) -> list[Job]:
    """Run the stages up to the ledger as the workflow's rules do; the first that fails ends it."""
    probe, stream, shard = root / "probe.parquet", root / "frames.tar", root / "faces/part.tar"
    index, videos = root / "faces/part.parquet", root / "faces/part.videos.parquet"
    limits = json.dumps({"limits": SETTINGS["limits"]})
    frames = json.dumps({key: SETTINGS[key] for key in ("frames", "limits")})
    faces = json.dumps({"faces": SETTINGS["faces"]})
    decoding = ["--probe", probe, "--settings", frames]
    outputs = ["--shard", shard, "--index", index, "--videos", videos]
    tables = ["--out", root / "videos.parquet", "--summary", root / "ledger.json"]
    stages: list[list[str | Path]] = [
        ["probe", "--parts", part, "--workers", "2", "--settings", limits, "--out", probe],
        ["extract-frames", "--parts", part, "--out", stream, *decoding],
        ["crop-faces", "--stream", stream, "--probe", probe, "--settings", faces, *outputs],
        ["ledger", "--probes", probe, "--cropped", videos, *tables],
    ]
    jobs: list[Job] = []
    for stage in stages:
        jobs.append(run_unmask([str(word) for word in stage], seconds, memory))
        if jobs[-1].code != 0:
            break
    return jobs


def run_part(root: Path, seed: int, names: set[str]) -> Run:
    """Write a part and run the stages on it, under watch."""
    listener = Listener()
    part = write_hostile_part(root / "part", seed, names, listener.port)
    bait = [root / OUTSIDE, part / UNLISTED, part / UNLISTED_PICTURE]
    watch = OpenWatch(bait)
    # Twice the memory allowed is enough to know that it was too much.
    jobs = run_stages(root, part, seconds=60 + 2 * len(names), memory=2 * MEMORY)
    opened = {path.name for path in watch.opened()}
    watch.close()
    listener.close()
    table = root / "videos.parquet"
    ledger = read_table(table, VIDEOS) if table.exists() else pd.DataFrame(columns=["video"])
    listed = list(json.loads((part / "metadata.json").read_text()))
    return Run(listed, jobs, ledger, opened, listener.calls)


def everything() -> set[str]:
    return {name for group in GROUPS.values() for name in group} - HEAVY


@pytest.fixture(
    scope="module",
    params=["sample"]
    + [pytest.param(seed, id=f"all, seed {seed}", marks=pytest.mark.fuzz) for seed in SEEDS],
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    root = tmp_path_factory.mktemp("hostile")
    if request.param == "sample":
        yield run_part(root, 0, sample())
    else:
        yield run_part(root, request.param, everything())


def test_every_stage_succeeds(run: Run) -> None:
    for job in run.jobs:
        assert job.code == 0, f"{job.arguments[0]} after {job.seconds:.0f} s:\n{job.log}"
    assert len(run.jobs) == 4


def test_every_file_has_one_row_and_one_status(run: Run) -> None:
    assert sorted(run.ledger["video"]) == sorted(run.names)
    assert set(run.ledger["status"]) <= set(Status)


def test_no_file_meets_something_unknown_to_the_code(run: Run) -> None:
    failed = run.ledger[run.ledger["status"] == Status.FAILED]
    assert dict(zip(failed["video"], failed["detail"], strict=True)) == {}


def test_what_is_known_of_a_file_is_what_it_ends_as(run: Run) -> None:
    known = [name for name in run.names if name in EXPECTED]
    assert len(known) > len(run.names) / 3
    ends = {name: run.outcome(name) for name in known}
    assert {name: end for name, end in ends.items() if end[0] not in EXPECTED[name]} == {}


def test_damage_leaves_some_and_takes_some(run: Run) -> None:
    """The mutations are neither harmless nor all deadly."""
    for group in ("truncated", "flipped", "scrambled", "patched"):
        ends = Counter(run.outcome(name)[0] for name in GROUPS[group] if name in run.names)
        assert 0 < ends[Status.OK] < ends.total(), (group, ends)


def test_no_face_is_said_only_of_pictures_that_were_seen(run: Run) -> None:
    unseen = run.ledger[(run.ledger["status"] == Status.NO_FACE) & (run.ledger["frames"] < 1)]
    assert set(unseen["video"]) == set()


def test_memory_stays_bounded(run: Run) -> None:
    assert {job.arguments[0]: job.peak for job in run.jobs if job.peak > MEMORY} == {}
    assert min(job.peak for job in run.jobs) > 30_000_000  # it was measured


def test_nothing_but_the_entries_is_opened(run: Run) -> None:
    assert run.opened == set()


def test_no_playlist_reaches_the_network(run: Run) -> None:
    assert run.calls == 0


@pytest.mark.fuzz
@pytest.mark.parametrize("name", sorted(HEAVY))
def test_a_heavy_file_is_bounded(name: str, tmp_path: Path) -> None:
    done = run_part(tmp_path, 0, {"healthy_0.mp4", name})
    test_every_stage_succeeds(done)
    test_memory_stays_bounded(done)
    assert done.outcome("healthy_0.mp4")[0] == OK
    assert done.outcome(name)[0] in EXPECTED[name]


def test_names_are_no_urls_where_the_part_is_the_working_folder(tmp_path: Path) -> None:
    part = write_hostile_part(tmp_path / "part", 0, ODD_NAMES)
    out = tmp_path / "probe.parquet"
    arguments = ["probe", "--parts", ".", "--out", str(out)]
    assert run_unmask(arguments, 120, 2 * MEMORY, part).code == 0
    table = pd.read_parquet(out)
    assert set(table["video"]) == set(ODD_NAMES)
    assert set(table.loc[table["status"] != Status.OK, "video"]) == set()


def test_the_whole_part_is_large_and_the_sample_a_cut_of_it() -> None:
    assert len(everything()) >= 500
    assert 60 <= len(sample()) <= 90
    assert sample() <= everything()
    assert set(EXPECTED) <= everything() | set(HEAVY)
    assert set(FORMER_PROBLEMS) | HEAVY <= set(EXPECTED)


def test_equal_seeds_make_equal_files_and_others_do_not(tmp_path: Path) -> None:
    names = {"truncated_003.mp4", "flip_mdat_004.mp4", "noise_000.mp4", "hevc.mp4", "vp9.webm"}

    def written(folder: str, seed: int, wanted: set[str]) -> dict[str, bytes]:
        part = write_hostile_part(tmp_path / folder / "part", seed, wanted)
        return {name: (part / name).read_bytes() for name in names}

    one, two = written("one", 0, names), written("two", 0, names | {"a:b.mp4"})
    other = written("other", 1, names)
    assert one == two
    assert {name for name in names if one[name] != other[name]} == {
        "flip_mdat_004.mp4",
        "noise_000.mp4",
    }


def test_the_bait_is_taken_by_who_trusts_the_files(tmp_path: Path) -> None:
    """What the part's playlists say does happen where FFmpeg is allowed to, and is noticed."""
    listener = Listener()
    part = write_hostile_part(tmp_path / "part", 0, GROUPS["playlists"], listener.port)
    watch = OpenWatch([tmp_path / OUTSIDE, part / UNLISTED])
    trust = {"protocol_whitelist": "file,http,tcp,crypto,data"}
    assert watch.opened() == set()
    for name, path in {"outside": tmp_path / OUTSIDE, "inside": part / UNLISTED}.items():
        with av.open(str(part / f"hls_{name}.m3u8")) as container:
            assert container.streams.video[0].width == 176
        assert watch.opened() == {path}
    with av.open(str(part / "ffconcat_outside.mp4"), options={"safe": "0"}) as container:
        assert next(container.decode(video=0)).width == 176
    assert watch.opened() == {tmp_path / OUTSIDE}
    assert listener.calls == 0
    with pytest.raises(av.FFmpegError):
        av.open(str(part / "hls_network.m3u8"), options=trust)
    watch.close()
    listener.close()
    assert listener.calls > 0


def test_a_job_beyond_its_limits_is_stopped(tmp_path: Path) -> None:
    fifo = tmp_path / "stream"
    os.mkfifo(fifo)  # nobody writes: crop-faces would wait for ever
    part = write_hostile_part(tmp_path / "part", 0, {"healthy_0.mp4"})
    assert run_stages(tmp_path, part, 60, 2 * MEMORY)[-1].code == 0
    arguments = ["crop-faces", "--stream", fifo, "--probe", tmp_path / "probe.parquet"]
    arguments += ["--shard", tmp_path / "s", "--index", tmp_path / "i", "--videos", tmp_path / "v"]
    waiting = run_unmask([str(word) for word in arguments], 5, 2 * MEMORY)
    assert waiting.code is None
    assert 5 < waiting.seconds < 10
    greedy = run_unmask([str(word) for word in arguments], 60, 20_000_000)
    assert greedy.code is None
    assert greedy.peak > 20_000_000
