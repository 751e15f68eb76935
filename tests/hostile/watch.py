"""Run stages and see what they cost, what they open and whom they call."""

import ctypes
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_IN_OPEN = 0x20
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Job:
    """What one command did.

    Attributes:
        arguments: after `python -m unmask`.
        code: the exit status; None where it was stopped for its time or memory.
        seconds: it took.
        peak: bytes that its processes held in memory together, at most.
        log: the end of what it wrote.
    """

    arguments: tuple[str, ...]
    code: int | None
    seconds: float
    peak: int
    log: str


def run_unmask(
    arguments: Sequence[str], seconds: float, memory: int, folder: Path | None = None
) -> Job:
    """Run one subcommand, and stop it with all it started beyond `seconds` or `memory` bytes.

    Memory is the sum over its processes, sampled, and never less than the peak that the kernel
    keeps of each. Pages that processes share count for each.
    """
    environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    with subprocess.Popen(
        [sys.executable, "-m", "unmask", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        output = bytearray()
        reader = threading.Thread(target=_drain, args=(process.stdout, output))
        reader.start()
        start, peak, stopped = time.monotonic(), 0, False
        while True:
            done, status = os.waitpid(process.pid, os.WNOHANG)
            if done:
                break
            peak = max(peak, _resident(process.pid))
            if time.monotonic() - start > seconds or peak > memory:
                stopped = True
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.05)
        process.returncode = os.waitstatus_to_exitcode(status)
        elapsed = time.monotonic() - start
        reader.join()
    code = None if stopped else process.returncode
    log = output[-3000:].decode(errors="replace")
    return Job(tuple(arguments), code, elapsed, peak, log)


def _drain(source: object, output: bytearray) -> None:
    for line in source:  # type: ignore[attr-defined]
        output += line


def _resident(pid: int) -> int:
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = largest = 0
    for member in family:
        with suppress(psutil.Error, OSError):
            total += member.memory_info().rss
            largest = max(largest, _high_water(member.pid))
    return max(total, largest)


def _high_water(pid: int) -> int:
    # Not `ru_maxrss`: that begins with the size of the process which forked this one.
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0  # a process that has ended has none


class OpenWatch:
    """Tell which of some files any process opened, with Linux's inotify."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._descriptor = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._paths: dict[int, Path] = {}
        for path in paths:
            watch = _LIBC.inotify_add_watch(self._descriptor, os.fsencode(path), _IN_OPEN)
            if watch < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(path))
            self._paths[watch] = path

    def opened(self) -> set[Path]:
        """Return the files opened since the last call."""
        found: set[Path] = set()
        with suppress(BlockingIOError):
            while events := os.read(self._descriptor, 1 << 16):
                while events:
                    watch, _, _, length = struct.unpack_from("iIII", events)
                    found.add(self._paths[watch])
                    events = events[16 + length :]
        return found

    def close(self) -> None:
        os.close(self._descriptor)


class Listener:
    """Count the connections to a port of this machine, and hang up on each."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.calls = 0
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.calls += 1
                connection.close()

    def close(self) -> None:
        # Closing alone would leave the thread in accept.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
