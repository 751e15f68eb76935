"""What the schedulers that the tests start have in common."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable


def search_path() -> str:
    """Return PATH with the folders of daemons, which not every user has in it."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def wait(ready: Callable[[], bool], told: Callable[[], str]) -> None:
    """Wait up to two minutes.

    Raises:
        RuntimeError: it is not ready by then, with what is told.
    """
    until = time.monotonic() + 120
    while not ready():
        if time.monotonic() > until:
            raise RuntimeError(told())
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
