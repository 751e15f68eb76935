"""A call that crashes, hangs or uses too much memory is lost alone, and so is its video."""

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from unmask.config import Config, FacesConfig, FramesConfig, LimitsConfig
from unmask.errors import UnmaskError
from unmask.faces.cropping import crop_shard
from unmask.tables import CROPPED, PROBE, read_rows
from unmask.videos import extraction, probe
from unmask.videos.isolation import Lost, Task, run_isolated
from unmask.videos.sampling import Written
from unmask.videos.source import Entry, VideoFile
from unmask.videos.stream import read_stream
from unmask.vocabulary import Status

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]

QUICK = LimitsConfig(seconds=1, memory_mb=200)


def double(number: int) -> int:
    return 2 * number


def crash(_: Any = None) -> None:
    faulthandler.disable()  # the test's output need not show how it ends
    ctypes.string_at(0)


def leave(_: Any = None) -> None:
    os._exit(3)


def hang_in_python(_: Any = None) -> None:
    while True:
        time.sleep(0.01)


def hang_in_c(_: Any = None) -> None:
    ctypes.PyDLL(None).pause()  # without letting go of the interpreter, as a stuck decoder might


def bloat(_: Any = None) -> None:
    np.ones(400_000_000, np.uint8)


def bloat_in_c(_: Any = None) -> None:
    raise av.error.MemoryError(12, "Cannot allocate memory", "clip.mp4")


def name_no_number(_: Any = None) -> int:
    return int("no number")


def refuse(_: Any = None) -> None:
    raise UnmaskError("a reason of one line")


def run(functions: list[Callable[..., Any]], workers: int = 1) -> list[Any]:
    tasks: list[Task[Any]] = [Task(one, (index,)) for index, one in enumerate(functions)]
    return list(run_isolated(tasks, QUICK, workers))


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_calls(workers: int) -> None:
    seconds = [0.3, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert list(run_isolated([Task(nap, (one,)) for one in seconds], QUICK, workers)) == seconds
    assert run([], workers) == []


@pytest.mark.parametrize(
    ("function", "lost"),
    [
        (crash, Lost(Status.CRASHED, "the decoder's process died of SIGSEGV")),
        (leave, Lost(Status.CRASHED, "the decoder's process died of exit status 3")),
        (hang_in_python, Lost(Status.TIMEOUT, "not done in 1 s (limits.seconds)")),
        (hang_in_c, Lost(Status.TIMEOUT, "not done in 1 s (limits.seconds)")),
        (bloat, Lost(Status.TOO_LARGE, "needs more than 200 MB (limits.memory_mb)")),
        (bloat_in_c, Lost(Status.TOO_LARGE, "needs more than 200 MB (limits.memory_mb)")),
    ],
)
def test_a_lost_call_does_not_affect_others(function: Callable[..., Any], lost: Lost) -> None:
    found = run([double, double, function, double, double, double], workers=2)
    assert found == [0, 2, lost, 6, 8, 10]


def test_memory_below_the_limit_may_be_used_by_every_call() -> None:
    tasks = [Task(use_memory, ())] * 3
    assert list(run_isolated(tasks, LimitsConfig(memory_mb=200), 1)) == [150_000_000] * 3


def use_memory(_: Any = None) -> int:
    return int(np.ones(150_000_000, np.uint8).nbytes)


def test_the_limit_does_not_depend_on_what_the_parent_holds() -> None:
    held = np.ones(300_000_000, np.uint8)
    (outcome,) = run_isolated([Task(use_memory, ())], LimitsConfig(memory_mb=100), 1)
    assert isinstance(outcome, Lost)
    assert outcome.status == Status.TOO_LARGE
    assert held.nbytes == 300_000_000


def test_an_unexpected_exception_fails_its_call_alone(caplog: pytest.LogCaptureFixture) -> None:
    found = run([double, name_no_number, double])
    assert found[::2] == [0, 4]
    assert found[1].status == Status.FAILED
    assert "ValueError" in found[1].detail
    assert "in name_no_number" in caplog.text  # the worker's own traceback


def test_a_problem_that_the_user_can_fix_is_raised() -> None:
    with pytest.raises(UnmaskError, match="a reason of one line"):
        run([double, refuse, double])


def leave_a_mark(folder: Path, index: int) -> int:
    (folder / str(index)).touch()
    return index


def most_outstanding(results: Iterator[int | Lost], folder: Path) -> int:
    """Return the largest number of calls whose results were pending at one time."""
    most = 0
    for taken, _ in enumerate(results):
        time.sleep(0.15)  # time enough to begin what may begin
        most = max(most, len(list(folder.iterdir())) - taken)
    return most


@pytest.mark.parametrize(
    ("workers", "megabytes", "budget", "most"),
    [
        (1, 0, 0, 2),  # the one in hand and the one in work
        (3, 0, 0, 4),
        (3, 10, 35, 3),
        (3, 40, 60, 1),
        (3, 100, 10, 1),  # more than the budget: alone
    ],
)
def test_calls_in_progress_are_limited_by_workers_and_budget(
    workers: int, megabytes: float, budget: float, most: int, tmp_path: Path
) -> None:
    tasks = [Task(leave_a_mark, (tmp_path, index), megabytes) for index in range(6)]
    results = run_isolated(tasks, QUICK, workers, budget)
    assert most_outstanding(results, tmp_path) == most
    assert len(list(tmp_path.iterdir())) == 6


PARENT = """
import os, sys, time
from pathlib import Path
from unmask.config import LimitsConfig
from unmask.videos.isolation import Task, run_isolated

def work(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(100)

if __name__ == "__main__":
    list(run_isolated([Task(work, (sys.argv[1],))] * 2, LimitsConfig(seconds=100), workers=2))
"""


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends orphans on Linux only")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_do_not_outlive_a_killed_parent(how: signal.Signals, tmp_path: Path) -> None:
    script, marks = tmp_path / "parent.py", tmp_path / "marks"
    script.write_text(PARENT)
    marks.mkdir()
    parent = subprocess.Popen([sys.executable, script, marks], stderr=subprocess.DEVNULL)
    try:
        assert wait_for(lambda: len(list(marks.iterdir())) == 2, 30)
        workers = [int(path.name) for path in marks.iterdir()]
        assert all(map(is_running, workers))
        parent.send_signal(how)
        assert parent.wait(10) == -how
        assert wait_for(lambda: not any(map(is_running, workers)))
    finally:
        parent.kill()
        parent.wait()


CONFIG = Config(frames=FramesConfig(per_video=3), limits=QUICK, faces=FacesConfig(size=64))
LOSSES: list[tuple[Callable[..., Any], Status]] = [
    (crash, Status.CRASHED),
    (hang_in_c, Status.TIMEOUT),
    (bloat, Status.TOO_LARGE),
]


@pytest.fixture(scope="module")
def part(
    make_video: MakeVideo, make_part: MakePart, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("data") / "part"
    make_part(folder, {"a.mp4": "REAL", "b.mp4": "REAL", "c.mp4": "REAL", "d.mp4": "c.mp4"})
    for name in "abcd":
        make_video(folder / f"{name}.mp4", frames=12)
    probe.probe_shard([folder], 0, 1, LimitsConfig(), folder.parent / "probe.parquet")
    return folder


def crop(part: Path, root: Path, workers: int) -> dict[str, dict[str, Any]]:
    """Decode and crop a part; return what became of each video."""
    extraction.write_stream(
        [part], part.parent / "probe.parquet", CONFIG, workers, root / "frames.tar"
    )
    crop_shard(
        root / "frames.tar",
        part.parent / "probe.parquet",
        CONFIG.faces,
        root / "faces.tar",
        root / "faces.parquet",
        root / "cropped.parquet",
    )
    return {row["video"]: row for row in read_rows(root / "cropped.parquet", CROPPED)}


def copies_of(path: Path) -> dict[str, tuple[Status, list[list[bytes]]]]:
    """Read a stream; return the status and the planes of each video."""
    return {
        video: (
            sampled.status,
            [[plane.tobytes() for plane in frame.planes] for frame in sampled.frames],
        )
        for _, video, sampled in read_stream(path)
    }


write_frames, probe_entry = extraction.write_frames, probe.probe_entry


def misbehave(part: Path) -> None:
    """Do in a worker what the test has asked for by a file."""
    globals()[(part.parent / "misbehaviour").read_text()]()


def write_frames_badly(buffer: Path, name: str, video: VideoFile, *sampling: Any) -> Written:
    if video.name == "b.mp4":
        with buffer.open("r+b") as sink:
            sink.write(bytes(1000))  # as if something had been decoded
        misbehave(video.part)
    return write_frames(buffer, name, video, *sampling)


@pytest.mark.parametrize(("misbehaviour", "status"), LOSSES)
def test_a_video_that_loses_its_decoder_is_lost_alone(
    misbehaviour: Callable[..., Any],
    status: Status,
    part: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "before").mkdir()
    before = crop(part, tmp_path / "before", 2)
    undisturbed = copies_of(tmp_path / "before/frames.tar")
    (part.parent / "misbehaviour").write_text(misbehaviour.__name__)
    monkeypatch.setattr(extraction, "write_frames", write_frames_badly)
    after = crop(part, tmp_path, 2)
    assert copies_of(tmp_path / "frames.tar") == undisturbed | {"b.mp4": (status, [])}
    lost = after.pop("b.mp4")
    assert (lost["status"], lost["crops"], lost["frames"]) == (status, 0, 0)
    assert lost["detail"]
    assert before.pop("b.mp4")["status"] == Status.OK
    assert after == before


def probe_entry_badly(part: Path, entry: Entry) -> dict[str, Any]:
    if entry.name == "b.mp4":
        misbehave(part)
    return probe_entry(part, entry)


def test_a_video_that_loses_its_probe_is_lost_alone(
    part: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (part.parent / "misbehaviour").write_text("crash")
    monkeypatch.setattr(probe, "probe_entry", probe_entry_badly)
    probe.probe_shard([part], 0, 1, QUICK, tmp_path / "probe.parquet", 2)
    before = {row["video"]: row for row in read_rows(part.parent / "probe.parquet", PROBE)}
    after = {row["video"]: row for row in read_rows(tmp_path / "probe.parquet", PROBE)}
    lost = after.pop("b.mp4")
    assert lost["status"] == Status.CRASHED
    assert (lost["label"], lost["family"]) == ("REAL", "b.mp4")
    del before["b.mp4"]
    assert after == before


def test_an_enormous_picture_is_too_large(make_part: MakePart, tmp_path: Path) -> None:
    part = make_part(tmp_path / "part", {"a.avi": "REAL"})
    with av.open(str(part / "a.avi"), "w") as container:
        video = container.add_stream("mjpeg", rate=25)
        video.width = video.height = 10_000
        video.pix_fmt = "yuvj420p"
        picture = av.VideoFrame(10_000, 10_000, "yuvj420p")
        for plane in picture.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(video.encode(picture))
        container.mux(video.encode())
    table = tmp_path / "probe.parquet"
    for megabytes, expected in [(100, Status.TOO_LARGE), (1000, Status.OK)]:
        limits = LimitsConfig(memory_mb=megabytes)
        probe.probe_shard([part], 0, 1, limits, table)
        assert [row["status"] for row in read_rows(table, PROBE)] == [expected]
    for megabytes, expected in [(100, Status.TOO_LARGE), (1000, Status.OK)]:
        limits = LimitsConfig(memory_mb=megabytes)
        config = CONFIG.model_copy(update={"limits": limits})
        extraction.write_stream([part], table, config, 1, tmp_path / "frames.tar")
        ((_, _, sampled),) = read_stream(tmp_path / "frames.tar")
        assert sampled.status == expected
