"""Files that are either complete or absent."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from unmask.errors import UnmaskError

T = TypeVar("T")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it to `path` when the block succeeds.

    A reader never sees half a file. Where the job is killed, or the machine loses power, before the
    block ends, the previous file remains.

    Raises:
        UnmaskError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming_full_disk(path):
            yield temporary
            # Otherwise the new name could reach the disk before the content does.
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Write a file's content, or a folder's names, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot do it for folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Replace the system's error about a full disk with one that says what to do.

    Raises:
        UnmaskError: there is no room for what the block writes to `path`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UnmaskError(
            f"{path}: no space left on the disk; free some, or put results elsewhere "
            "with --directory, and rerun"
        ) from None


def write_json(content: Any, path: Path) -> None:
    """Write indented JSON, dataclasses as objects, replacing the file atomically."""
    with atomic_path(path) as temporary:
        text = json.dumps(content, indent=2, default=_as_object)
        temporary.write_text(text + "\n", encoding="utf-8")


def _as_object(value: Any) -> dict[str, Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def read_json(path: Path, kind: type[T]) -> T:
    """Read a JSON file as a typed record.

    Args:
        path: a file that `write_json` wrote.
        kind: a dataclass, or a container of dataclasses such as `dict[str, Kind]`. Keys of the file
            that it does not name are ignored.

    Raises:
        UnmaskError: the file cannot be read, or lacks something that `kind` needs.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except OSError as error:
        reason = str(error.strerror)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    raise UnmaskError(f"{path}: cannot be read ({reason}); delete it and rerun")
