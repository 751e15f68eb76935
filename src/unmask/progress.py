"""Progress of a job: a bar on a terminal, a line every few seconds in its log file."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger("unmask")
# For what the user should see at once: on the terminal, and in the log file of the job.
notice = logging.getLogger("unmask.notice")

_LINE_EVERY_S = 5.0


def configure_logging(path: Path | None) -> None:
    """Write log messages, warnings and the tracebacks of fatal signals to a file.

    Args:
        path: the log file, which is replaced; None writes to stderr.
    """
    if path is None:
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.environ.get("LOCAL_RANK", "0") == "0":  # other devices' processes append
            path.write_text("")
        stream = path.open("a", encoding="utf-8")
        faulthandler.enable(stream)
        handler = logging.StreamHandler(stream)
        notice.handlers = [logging.StreamHandler(sys.stderr)]
        notice.handlers[0].setFormatter(logging.Formatter("unmask: %(levelname)s: %(message)s"))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items`, plural noun `what`, and report progress; `total` is their number."""
    from tqdm import tqdm  # takes 20 ms, and only some commands show progress

    if total is None and isinstance(items, Sized):
        total = len(items)
    start = last = time.monotonic()
    done = 0
    # disable=None: no bar unless stderr is a terminal, so that it does not fill a scheduler's log.
    for item in tqdm(items, total=total, unit=f" {what}", leave=False, disable=None):
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= _LINE_EVERY_S:
            logger.info("%d of %s %s, %.1f/s", done, total or "?", what, done / (now - start))
            last = now
    logger.info("%d %s in %.1f s", done, what, time.monotonic() - start)
