"""Run jobs, and measure what they cost, what they open and what they connect to."""

import ctypes
import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
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
    """Outcome of a command.

    Attributes:
        name: its first words after the interpreter.
        code: the exit status; None if it was stopped for its time or memory.
        seconds: until it ended.
        peak: bytes of memory, at most, of its processes together.
        log: the end of its output.
    """

    name: str
    code: int | None
    seconds: float
    peak: int
    log: str


def run_job(
    command: Sequence[str | Path], seconds: float, memory: int, folder: Path | None = None
) -> Job:
    """Run a command, and stop it and its children beyond `seconds` or `memory` bytes.

    Memory is the sum over its processes, sampled, and at least the peak that the kernel records
    for each. Shared pages count for each process.
    """
    environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    start, peak, stopped = time.monotonic(), 0, False
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            if time.monotonic() - start > seconds or peak > memory:
                stopped = True
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.05)
        elapsed = time.monotonic() - start
        log.seek(0)
        text = log.read()[-3000:].decode(errors="replace")
    code = None if stopped else process.returncode
    return Job(" ".join(map(str, command[1:4])), code, elapsed, peak, text)


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
    # Not `ru_maxrss`, which starts at the size of the process that forked this one.
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0  # a process that has ended has none


class OpenWatch:
    """Records with inotify which of the given files any process opens."""

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
    """Counts the connections to a port of this machine, and closes each."""

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
