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

from unmask.config import LimitsConfig
from unmask.errors import UnmaskError
from unmask.videos.isolation import Lost, Task, run_isolated, with_attempts
from unmask.vocabulary import Status

MakeVideo = Callable[..., Path]
MakePart = Callable[..., Path]

QUICK = LimitsConfig(seconds=1, memory_mb=200, retries=0)


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


def nap_once(mark: Path, seconds: float) -> str:
    """Take some seconds the first time, as on a busy machine."""
    if not mark.exists():
        mark.touch()
        time.sleep(seconds)
    return with_attempts("done")


def test_a_call_that_a_busy_machine_lost_is_made_again_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [Task(nap_once, (tmp_path / name, 100 * (name == "b")), name=name) for name in "abc"]
    limits = LimitsConfig(seconds=1, memory_mb=200)
    first, again, last = run_isolated(tasks, limits, 2)
    assert (first, last) == ("done", "done")
    assert again == "done; tried again after: not done in 1 s (limits.seconds)"
    assert "b: not done in 1 s" in caplog.text


@pytest.mark.parametrize("retries", [1, 2])
def test_limits_are_doubled_each_time_and_calls_lost_for_good_are_lost(retries: int) -> None:
    limits = LimitsConfig(seconds=0.5, memory_mb=200, retries=retries)
    lost, other = run_isolated([Task(hang_in_python, ()), Task(double, (2,))], limits, 1)
    assert isinstance(lost, Lost)
    assert lost.status == Status.TIMEOUT
    assert lost.detail.startswith(f"not done in {0.5 * 2**retries:g} s")
    assert other == 4


def use_memory(_: Any = None) -> int:
    return int(np.ones(150_000_000, np.uint8).nbytes)


def test_the_limit_does_not_depend_on_what_the_parent_holds() -> None:
    held = np.ones(300_000_000, np.uint8)
    (outcome,) = run_isolated([Task(use_memory, ())], LimitsConfig(memory_mb=100, retries=0), 1)
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
