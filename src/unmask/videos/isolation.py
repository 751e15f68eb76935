"""Isolation: a file that crashes, hangs or bloats its decoder costs one video, not its job.

Files come from strangers and go through C code. Each is opened in a worker process with a limit of
time and of memory; where the worker dies, its video gets a status and the next one a new worker.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import resource
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as PassedTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from unmask.config import LimitsConfig
from unmask.vocabulary import Status

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Lost:
    """What became of a video whose worker did not return."""

    status: Status
    detail: str


@dataclass(frozen=True)
class Task(Generic[T_co]):
    """A call to be made in a worker.

    Attributes:
        function: a module's function.
        arguments: its arguments, which must pickle.
        megabytes: what its result holds on to until the next task's is asked for.
    """

    function: Callable[..., T_co]
    arguments: tuple[Any, ...]
    megabytes: float = 0.0


def run_isolated(
    tasks: Iterable[Task[T]], limits: LimitsConfig, workers: int, budget: float = 0.0
) -> Iterator[T | Lost]:
    """Make calls in worker processes; yield their results in order.

    Args:
        tasks: the calls; one is asked for when a worker is about to need it.
        limits: of each call.
        workers: processes at a time.
        budget: megabytes that the results not yet taken may hold; a single one may hold more.

    Yields:
        What the call returned, or why it did not: `crashed`, `timeout` or `too_large`.

    Raises:
        Exception: whatever else a call raised, which is a bug of the caller.
    """
    waiting = iter(tasks)
    upcoming = next(waiting, None)
    running: deque[tuple[Task[T], ProcessFuture[T]]] = deque()
    # A fork has the imports already, and sees the descriptors of this process.
    with ProcessPool(
        max_workers=workers,
        initializer=_limit_memory,
        initargs=(limits.memory_mb,),
        context=multiprocessing.get_context("fork"),
    ) as pool:
        try:
            while upcoming is not None or running:
                held = [task for task, _ in running]
                while upcoming is not None and _fits(upcoming, held, workers, budget):
                    call, arguments = upcoming.function, upcoming.arguments
                    future = pool.schedule(call, arguments, timeout=limits.seconds)
                    running.append((upcoming, future))
                    held.append(upcoming)
                    upcoming = next(waiting, None)
                outcome: T | Lost = _outcome(running[0][1], limits)
                yield outcome
                running.popleft()
        except BaseException:  # who no longer asks for results does not wait for them
            pool.stop()  # type: ignore[no-untyped-call]
            raise


def _fits(task: Task[Any], running: list[Task[Any]], workers: int, budget: float) -> bool:
    held = sum(one.megabytes for one in running) + task.megabytes
    return not running or (len(running) <= workers and held <= budget)


def _outcome(future: ProcessFuture[T], limits: LimitsConfig) -> T | Lost:
    try:
        return future.result()
    except PassedTimeout:
        return Lost(Status.TIMEOUT, f"not done in {limits.seconds:g} s (limits.seconds)")
    except ProcessExpired as expired:
        code = expired.exitcode or 0
        died = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return Lost(Status.CRASHED, f"the decoder's process died of {died}")
    except MemoryError:
        return out_of_memory(limits)


def out_of_memory(limits: LimitsConfig) -> Lost:
    """Return the outcome of a video that asks for more memory than a worker may have."""
    detail = f"needs more than {limits.memory_mb} MB (limits.memory_mb)"
    return Lost(Status.TOO_LARGE, detail)


def _limit_memory(megabytes: int) -> None:
    """Prepare a worker: no more memory than this, no core file, no life after its parent's."""
    # What the parent has left lying is mapped: freed here, it would be room beyond the limit.
    gc.freeze()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what the parent does on it is not for workers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # What the parent had mapped counts for the fork as well.
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        limit = pages * resource.getpagesize() + megabytes * 1_000_000
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
