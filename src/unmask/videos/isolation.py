"""Isolation: a file that crashes, hangs or bloats its decoder costs one video, not its job.

Files come from strangers and go through C code. Each is opened in a worker process with a limit on
time and memory. When a worker dies, its video gets a status and a new worker takes the next one.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as TimeLimitExceeded
from concurrent.futures import wait
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from unmask.errors import UnmaskError
from unmask.vocabulary import Status

if TYPE_CHECKING:
    from unmask.config import LimitsConfig  # workers start faster without it

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lost:
    """Why a call in a worker has no result."""

    status: Status
    detail: str


@dataclass(frozen=True)
class Task(Generic[T_co]):
    """A call to be made in a worker; the function and its arguments must pickle."""

    function: Callable[..., T_co]
    arguments: tuple[Any, ...]
    megabytes: float = 0.0  # that its result occupies until the result of the next task is taken
    name: str = ""  # of the video, for the log


# Statuses that a busy machine can cause.
_TRIED_AGAIN = (Status.CRASHED, Status.TIMEOUT, Status.TOO_LARGE)
# In a worker: why a call is made again, "" the first time.
_earlier = ""


def with_attempts(detail: str) -> str:
    """Return a detail of the ledger that also says, in a worker, why the call is made again."""
    return "; ".join(filter(None, [detail, _earlier]))


def run_isolated(
    tasks: Iterable[Task[T]],
    limits: LimitsConfig,
    workers: int,
    budget: float = 0.0,
    earlier: str = "",
) -> Iterator[T | Lost]:
    """Make calls in worker processes and yield their results in order.

    A call that a busy machine may have lost is made again, up to `limits.retries` times: alone, and
    with twice the limits.

    Args:
        tasks: the calls; the next one is taken only when a worker is about to need it.
        limits: time and memory of each call.
        workers: number of processes.
        budget: megabytes that results not yet taken may occupy; a single one may exceed it.
        earlier: why the calls are made again, for `with_attempts`.

    Yields:
        What the call returned, or why there is no result: `crashed`, `timeout`, `too_large`, or
        `failed` where it raised something unexpected, whose traceback is logged.

    Raises:
        UnmaskError: a call raised it: a problem that the user can fix.
    """
    waiting = iter(tasks)
    upcoming = next(waiting, None)
    if upcoming is None:
        return
    # Workers are forked from a server that holds nothing but imports. A fork of this process would
    # also hold its memory and its threads' locks.
    context = multiprocessing.get_context("forkserver")
    module = upcoming.function.__module__
    context.set_forkserver_preload([__name__, module])
    running: deque[tuple[Task[T], ProcessFuture[T]]] = deque()
    with ProcessPool(
        max_workers=workers,
        initializer=_prepare_worker,
        initargs=(module, limits.memory_mb, earlier),
        context=context,
    ) as pool:
        try:
            while upcoming is not None or running:
                while upcoming is not None and _fits(upcoming, running, workers, budget):
                    call, arguments = upcoming.function, upcoming.arguments
                    future = pool.schedule(call, arguments, timeout=limits.seconds)
                    running.append((upcoming, future))
                    upcoming = next(waiting, None)
                task, future = running[0]
                outcome = _outcome(task, future, limits)
                if isinstance(outcome, Lost) and outcome.status in _TRIED_AGAIN and limits.retries:
                    wait([other for _, other in running])
                    outcome = _try_again(task, outcome, limits)
                yield outcome
                running.popleft()
        except BaseException:  # the caller wants no more results, so do not wait for them
            pool.stop()  # type: ignore[no-untyped-call]
            raise


def _try_again(task: Task[T], lost: Lost, limits: LimitsConfig) -> T | Lost:
    logger.warning("%s: %s; trying again alone, with twice the limits", task.name, lost.detail)
    doubled = {
        "seconds": 2 * limits.seconds,
        "memory_mb": 2 * limits.memory_mb,
        "retries": limits.retries - 1,
    }
    earlier = f"tried again after: {lost.detail}"
    (outcome,) = run_isolated([task], limits.model_copy(update=doubled), 1, earlier=earlier)
    if isinstance(outcome, Lost):
        return Lost(outcome.status, f"{outcome.detail}; {earlier}")
    return outcome


def _fits(
    task: Task[T], running: Iterable[tuple[Task[T], object]], workers: int, budget: float
) -> bool:
    occupied = [one.megabytes for one, _ in running]
    return not occupied or (len(occupied) <= workers and sum(occupied) + task.megabytes <= budget)


def _outcome(task: Task[T], future: ProcessFuture[T], limits: LimitsConfig) -> T | Lost:
    try:
        return future.result()
    except TimeLimitExceeded:
        return Lost(Status.TIMEOUT, f"not done in {limits.seconds:g} s (limits.seconds)")
    except ProcessExpired as expired:
        code = expired.exitcode or 0
        cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return Lost(Status.CRASHED, f"the decoder's process died of {cause}")
    except MemoryError:
        detail = f"needs more than {limits.memory_mb} MB (limits.memory_mb)"
        return Lost(Status.TOO_LARGE, detail)
    except UnmaskError:
        raise
    except Exception as error:  # one odd video must not cost the others
        logger.exception("%s%r failed", task.function.__name__, task.arguments)
        return Lost(Status.FAILED, f"{type(error).__name__}; the log has the traceback")


def _prepare_worker(module: str, megabytes: int, earlier: str) -> None:
    """Limit what this process allocates after its imports; end it when its parent ends."""
    global _earlier
    _earlier = earlier
    import_module(module)  # in case the server could not: its sys.path may differ from the parent's
    threading.Thread(target=_end_with_parent, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # Modules and the stacks of their threads are data too: 80 MB, 500 MB on many cores.
        imported = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        limit = imported + megabytes * 1_000_000
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
