"""Where videos come from: parts of a DFDC-format folder, their entries, and their shards."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from unmask.errors import UnmaskError
from unmask.tables import Label, Status

logger = logging.getLogger(__name__)

METADATA = "metadata.json"
_MAX_NAME_BYTES = 255


@dataclass(frozen=True)
class Entry:
    """One video as its part's `metadata.json` names it.

    Attributes:
        name: file name inside the part.
        label: what it is; None where the entry does not say so in DFDC's words.
        original: name of the REAL video a FAKE was made from; None for a REAL.
        family: the name its family is known by: its original's, or its own.
        status: OK, or what already keeps it from being opened.
        detail: the reason of a status other than OK.
    """

    name: str
    label: Label | None
    original: str | None
    family: str
    status: Status = Status.OK
    detail: str = ""


def find_parts(root: Path) -> dict[str, Path]:
    """Return the parts below `root` by name: folders that hold a `metadata.json`.

    `root` may also be a part itself. Only the folders are listed, never the videos in them, so
    that a workflow over 119,154 videos starts in a second.

    Raises:
        UnmaskError: `root` is absent, or no part is in it.
    """
    if not root.is_dir():
        raise UnmaskError(
            f"data_root: no folder {root}; set it to the folder that holds the parts "
            "(for example --config data_root=/data/dfdc)"
        )
    if (root / METADATA).is_file():
        return {part_name(root): root}
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    parts = {path.name: path for path in folders if (path / METADATA).is_file()}
    if not parts:
        raise UnmaskError(
            f"data_root: no part in {root}; a part is a folder with a {METADATA} and its videos"
        )
    for path in folders:
        if path.name not in parts:
            logger.warning("%s: no %s, so its videos are not used", path, METADATA)
    return parts


def part_name(part: Path) -> str:
    """Return the name a part goes by: its folder's as it was given, links not followed."""
    return Path(os.path.abspath(part)).name  # noqa: PTH100 (resolve() follows links)


def read_metadata(part: Path) -> list[Entry]:
    """Read a part's `metadata.json`: `{name: {"label", "split", "original"}}`.

    An entry that is not as DFDC writes it is kept, with a status that says why.

    Raises:
        UnmaskError: the file cannot be read, is no JSON, or is no JSON object.
    """
    path = part / METADATA
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique_names)
    except OSError as error:
        raise UnmaskError(
            f"{path}: cannot be read ({error.strerror}); copy the part again"
        ) from None
    except UnicodeDecodeError:
        raise UnmaskError(f"{path}: is no UTF-8 text; copy the part again") from None
    except json.JSONDecodeError as error:
        raise UnmaskError(
            f"{path}: is no valid JSON at line {error.lineno}, column {error.colno} "
            f"({error.msg}); copy the part again or move it out of data_root"
        ) from None
    if not isinstance(content, dict):
        raise UnmaskError(f"{path}: holds a JSON {type(content).__name__}, not an object of videos")
    if not content:
        logger.warning("%s: names no video", path)
    return [_entry(name, value) for name, value in sorted(content.items())]


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        logger.warning("%s: named more than once, the last entry counts", ", ".join(repeated))
    return dict(pairs)


def _entry(name: str, value: Any) -> Entry:
    if not is_safe_name(name):
        name = _printable(name)
        detail = "the name is not a plain file name"
        return Entry(name, None, None, name, Status.UNSAFE_NAME, detail)
    if not isinstance(value, Mapping):
        return Entry(name, None, None, name, Status.BAD_METADATA, "the entry is no JSON object")
    label, original = value.get("label"), value.get("original")
    if label not in tuple(Label):
        detail = f"label is {label!r}, not 'REAL' or 'FAKE'"
        return Entry(name, None, None, name, Status.BAD_METADATA, detail)
    # A REAL has no original, whatever the tool that wrote the file puts there: null, "", NaN.
    if label == Label.REAL or original in (None, ""):
        return Entry(name, Label(label), None, name)
    if not (isinstance(original, str) and is_safe_name(original)):
        detail = f"original is {original!r}, not a file name"
        return Entry(name, Label.FAKE, None, name, Status.BAD_METADATA, detail)
    return Entry(name, Label.FAKE, original, original)


def is_safe_name(name: str) -> bool:
    """Tell whether `name` is one plain path component that can be opened inside a folder."""
    return (
        name not in ("", ".", "..")
        and "\\" not in name
        and "\0" not in name
        and PurePosixPath(name).name == name
        and name == _printable(name)
        and len(name.encode()) <= _MAX_NAME_BYTES
    )


def _printable(name: str) -> str:
    """Return a name without lone surrogates, which JSON may hold and no file system does."""
    return name.encode("utf-8", "backslashreplace").decode()


def chunk_of(family: str, chunks: int) -> int:
    """Return the chunk of a family: stable over machines and over added videos."""
    digest = hashlib.blake2b(family.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % chunks


def shard_entries(part: Path, chunk: int, chunks: int) -> list[Entry]:
    """Return the entries of one shard: the families of the part that hash to `chunk`."""
    return [entry for entry in read_metadata(part) if chunk_of(entry.family, chunks) == chunk]
