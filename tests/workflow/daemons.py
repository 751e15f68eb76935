"""What the schedulers that the tests start have in common."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence


def search_path() -> str:
    """Return PATH with the folders of daemons, which not every user's PATH has."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def missing(programs: Sequence[str], packages: str) -> str:
    """Return why a scheduler cannot be started here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in programs if shutil.which(name, path=search_path()) is None]
    return f"needs {', '.join(absent)}: apt-get install {packages}" if absent else ""


def wait(ready: Callable[[], bool], report: Callable[[], str]) -> None:
    """Wait up to two minutes until `ready()`.

    Raises:
        RuntimeError: not ready by then; the message is `report()`.
    """
    end = time.monotonic() + 120
    while not ready():
        if time.monotonic() > end:
            raise RuntimeError(report())
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
