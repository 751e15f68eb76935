"""Sources of videos: the parts of a data set in DFDC's format, their entries and their shards.

A part is a folder with a `metadata.json` and its videos, or a zip archive of such a folder, which
is read in place and never unpacked.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import lzma
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar

from unmask.errors import UnmaskError, reason
from unmask.videos.images import image_files
from unmask.videos.listing import label_of
from unmask.videos.originals import RealVideos
from unmask.vocabulary import Label, Status

T = TypeVar("T")

logger = logging.getLogger(__name__)

METADATA = "metadata.json"
_ZIP = ".zip"
_MAX_NAME_BYTES = 255
_SAMPLE = 1 << 16
# Limits of metadata.json, which a stranger may have written: parsed, it takes up to 20 times its
# bytes. All of DFDC's 119,154 entries have 10 MB.
_MAX_METADATA, _MAX_OBJECTS = 16_000_000, 400_000
# Bytes of metadata.json of all parts that share a shard; an entry of DFDC's has 80.
_SHARED_BYTES = 8_000
# Raised by zipfile and its decompressors; the last two for unknown methods and encryption.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError),
    *(NotImplementedError, RuntimeError),
)


@dataclass(frozen=True)
class Entry:
    """One video of a part's `metadata.json`."""

    name: str  # of the file inside the part
    label: Label | None  # None where the entry has neither REAL nor FAKE
    original: str | None  # name of the REAL video that a FAKE was made from; None for a REAL
    family: str  # name of its original, or its own; the same whatever its label
    status: Status = Status.OK  # or why the video cannot be opened
    detail: str = ""  # the reason of a status other than OK, or how an unusual label is read
    method: str | None = None  # how a FAKE was made, where the entry says it
    source: str | None = None  # the collection that the video is from, where the entry says it
    group: str | None = None  # who or what it shows, where the entry says it: one fold has them all
    split: str | None = None  # train, val or test, as its authors divide the collection


def find_parts(root: Path, key: str = "data_root") -> dict[str, Path]:
    """Return the parts below `root` by name: folders and zip archives with a `metadata.json`.

    `root` may also be a part itself; messages call it by its configuration key. Folders of videos
    are not listed, so that a workflow over 119,154 videos starts in a second.

    Raises:
        UnmaskError: `root` is absent, or no part is in it.
    """
    if root.suffix == _ZIP and root.is_file():
        return {part_name(root): root}
    if root.parts[:1] in (("s3:",), ("gs:",)):
        raise UnmaskError(f"{key}: only the workflow reads buckets; copy a part of {root} to disk")
    if not root.is_dir():
        raise UnmaskError(
            f"{key}: no folder {root}; set it to the folder that holds the parts "
            "(for example --config data_root=/data/dfdc)"
        )
    if (root / METADATA).is_file():
        _check_is_part(root, key)
        return {part_name(root): root}
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    parts = {path.name: path for path in folders if (path / METADATA).is_file()}
    for path in folders:
        if path.name not in parts:
            logger.warning("%s: no %s, so its videos are not used", path, METADATA)
    for archive in sorted(path for path in root.glob(f"*{_ZIP}") if path.is_file()):
        if archive.stem in parts:
            logger.warning("%s: the folder of the same name is used instead", archive)
        elif _metadata_bytes(archive) is None:
            logger.warning("%s: no %s, so it is not used", archive, METADATA)
        else:
            parts[archive.stem] = archive
    if not parts:
        raise UnmaskError(
            f"{key}: no part in {root}; a part is a folder with a {METADATA} and its videos, "
            "or a .zip of one"
        )
    return parts


def _check_is_part(root: Path, key: str) -> None:
    """Raise if a metadata.json is above the folders of its videos, which would all be missing."""
    names = [entry.name for entry in read_metadata(root)]
    below = sorted(path.name for path in root.iterdir() if path.is_dir())
    if names and below and not any((root / name).exists() for name in names):
        raise UnmaskError(
            f"{key}: {root / METADATA} is above the parts ({', '.join(below[:3])}): none of its "
            f"{len(names)} videos is next to it; give each folder of videos a {METADATA} of its own"
        )


def part_name(part: Path) -> str:
    """Return the name of a part: that of its folder, without following links."""
    path = Path(os.path.abspath(part))  # noqa: PTH100 (resolve() follows links)
    return path.stem if path.suffix == _ZIP and not path.is_dir() else path.name


def source_of_part(name: str) -> str:
    """Return the source of a part's videos: its name without the number at the end."""
    return name.rstrip("0123456789").rstrip("_-. ") or name


@dataclass(frozen=True)
class VideoFile:
    """One video of a part: a file or a folder of images in it, or a member of the archive."""

    part: Path
    name: str

    def size(self) -> int | None:
        """Return the size of the video in bytes; None where the part has no such video.

        Raises:
            UnmaskError: the archive cannot be read.
        """
        if self.part.is_dir():
            path = self.part / self.name
            if path.is_dir():
                return sum(image.stat().st_size for image in image_files(path)) or None
            # Opening a pipe or a device would block.
            return path.stat().st_size if path.is_file() else None
        member = _open_archive(self.part)[1].get(self.name)
        return None if member is None else member.file_size

    def fingerprint(self) -> str:
        """Return a digest of the size and of the first, middle and last 64 kB, 32 hex digits.

        Different videos hardly ever have the same digest, because a container's tables are at one
        end, and pictures in the middle. Reading all 470 GB of DFDC would take hours.

        Raises:
            UnmaskError: the archive or this member of it is damaged.
        """
        with self.opened() as source:
            if isinstance(source, Path):
                images = image_files(source)
                ends = {images[0], images[len(images) // 2], images[-1]}
                read = b"".join(image.read_bytes() for image in sorted(ends))
                return _digest_of(io.BytesIO(read + len(images).to_bytes(8, "big")))
            if not isinstance(source, str):
                return _digest_of(source)
        with (self.part / self.name).open("rb") as file:
            return _digest_of(file)

    @contextmanager
    def opened(self) -> Iterator[str | BinaryIO | Path]:
        """Yield the URL of the file, the bytes of the archive's member, or a folder of images.

        Raises:
            UnmaskError: the archive or this member of it is damaged.
        """
        if self.part.is_dir() and (self.part / self.name).is_dir():
            yield self.part / self.name
        elif self.part.is_dir():
            # Without `file:`, FFmpeg takes the part of a name before a colon as the protocol.
            yield f"file:{self.part / self.name}"
        else:
            # Demuxers seek, which a compressed member does not allow, so it is read into memory.
            yield io.BytesIO(_read_member(self.part, self.name))


class FileState(NamedTuple):
    """What a file is recognised by without being read."""

    size: int  # bytes
    # Time of modification in ns; the CRC-32 of a member of an archive; of a folder of images a
    # digest of their names, sizes and times.
    stamp: int


def file_states(part: Path, names: Iterable[str]) -> dict[str, FileState]:
    """Return the states of those files of a part that exist; a folder of images counts as one file.

    Raises:
        UnmaskError: the archive cannot be read.
    """
    if not part.is_dir():
        members = _open_archive(part)[1]
        return {
            name: FileState(members[name].file_size, members[name].CRC)
            for name in names
            if name in members
        }
    states = {name: _state_of(f"{part}/{name}") for name in names}
    return {name: state for name, state in states.items() if state is not None}


def _state_of(path: str) -> FileState | None:
    try:
        found = os.stat(path)  # noqa: PTH116 (a Path for each of 119,154 files takes a second)
    except (OSError, ValueError):
        return None
    if not stat.S_ISDIR(found.st_mode):
        return FileState(found.st_size, found.st_mtime_ns)
    inside = [(image.name, image.stat()) for image in image_files(Path(path))]
    listed = [(name, image.st_size, image.st_mtime_ns) for name, image in inside]
    digest = hashlib.blake2b(repr(listed).encode(), digest_size=7).digest()
    return FileState(sum(size for _, size, _ in listed), int.from_bytes(digest, "big"))


@lru_cache(maxsize=2)
def _open_archive(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Return an archive and its members by file name: those next to its `metadata.json`."""
    try:
        file = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UnmaskError(f"{path}: no readable zip archive ({error}); copy it again") from None
    members = {PurePosixPath(one.filename): one for one in file.infolist() if not one.is_dir()}
    folders = {name.parent for name in members if name.name == METADATA}
    if len(folders) > 1:
        raise UnmaskError(f"{path}: has {len(folders)} {METADATA}; zip each part separately")
    return file, {name.name: one for name, one in members.items() if name.parent in folders}


def _digest_of(file: BinaryIO) -> str:
    size = file.seek(0, io.SEEK_END)
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    for start in (0, size // 2, max(0, size - _SAMPLE)):
        file.seek(start)
        digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def _read_member(part: Path, name: str) -> bytes:
    archive, members = _open_archive(part)
    if name not in members:
        raise UnmaskError(f"{part}: has no {name}")
    try:
        return archive.read(members[name])  # checks the CRC as well
    except _ZIP_ERRORS as error:
        raise UnmaskError(f"{part}: {name} is damaged in the archive ({error})") from None


def video_files(parts: Iterable[Path], rows: Iterable[Mapping[str, Any]]) -> list[VideoFile]:
    """Return the file of each row of a table with `part` and `video`.

    Raises:
        UnmaskError: a row's part is not among the folders and archives given.
    """
    places = {part_name(part): part for part in parts}
    try:
        return [VideoFile(places[row["part"]], row["video"]) for row in rows]
    except KeyError as error:
        raise UnmaskError(
            f"{error.args[0]}: this part is in the probe table but not among --parts "
            f"({', '.join(places)}); add it"
        ) from None


def video_names(part: Path) -> list[str]:
    """Return the names of the files of a part, its `metadata.json` included."""
    if part.is_dir():
        return sorted(path.name for path in part.iterdir())
    return sorted(_open_archive(part)[1])


def read_metadata(part: Path) -> list[Entry]:
    """Read a part's `metadata.json`: an object with an entry for each video.

    An entry has a `label`, and may have `original`, `method`, `source`, `group` and `split`. Labels
    may have the spellings of `unmask.videos.listing`, such as 1 for FAKE, and an original of the
    part may lack its extension. An invalid entry is kept, with a status.

    Raises:
        UnmaskError: the file cannot be read, is too large, or is not a JSON object.
    """
    path = part / METADATA
    size = VideoFile(part, METADATA).size() or 0
    if size > _MAX_METADATA:
        raise UnmaskError(
            f"{path}: has {size / 1e6:.0f} MB, and at most {_MAX_METADATA / 1e6:.0f} MB are read; "
            "divide the part"
        )
    try:
        data = path.read_bytes() if part.is_dir() else _read_member(part, METADATA)
        objects = data.count(b"{") + data.count(b"[")
        if objects > _MAX_OBJECTS:
            raise UnmaskError(
                f"{path}: has {objects:,} objects and lists, and at most {_MAX_OBJECTS:,} are "
                "read; divide the part"
            )
        merge = partial(_warn_repeated, path)
        content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=merge)
    except (OSError, ValueError, RecursionError) as error:
        raise UnmaskError(
            f"{path}: cannot be read as JSON ({reason(error)}); copy the part again"
        ) from None
    if not isinstance(content, dict):
        raise UnmaskError(f"{path}: is a JSON {type(content).__name__}, not an object of videos")
    if not content:
        logger.warning("%s: has no video", path)
    entries = [_entry(name, value) for name, value in sorted(content.items())]
    videos = RealVideos(("", entry.name) for entry in entries)
    return [_with_extension(entry, videos) for entry in entries]


def _with_extension(entry: Entry, videos: RealVideos) -> Entry:
    """Return an entry with the file name of its original, if only one video of the part has it.

    Labels do not matter: a corrected one must not change the family, on which crops depend.
    """
    found = [name for _, name in videos.find("", entry.family) if name != entry.name]
    if len(found) != 1:
        return entry
    return replace(entry, original=entry.original and found[0], family=found[0])


def described(part: Path, entry: Entry) -> dict[str, Any]:
    """Return the columns of the probe table that a video's pictures do not depend on."""
    return {
        "label": entry.label,
        "original": entry.original,
        "family": entry.family,
        "method": entry.method,
        "source": entry.source or source_of_part(part_name(part)),
        "given_group": entry.group,
        "given_split": entry.split,
    }


def _warn_repeated(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of the JSON; its last entry counts where several have one name."""
    counts = Counter(name for name, _ in pairs)
    if repeated := ", ".join(sorted(name for name, count in counts.items() if count > 1)):
        logger.warning("%s: %s: several entries, the last one counts", path, repeated)
    return dict(pairs)


def _entry(name: str, value: Any) -> Entry:
    if not is_safe_name(name):
        name = _printable(name)
        detail = "the name is not a plain file name"
        return Entry(name, None, None, name, Status.UNSAFE_NAME, detail)
    if not isinstance(value, Mapping):
        return Entry(name, None, None, name, Status.BAD_METADATA, "the entry is not a JSON object")
    spelled = value.get("label")
    label = label_of(int(spelled) if isinstance(spelled, bool) else spelled)
    if label is None:
        detail = f"label is {spelled!r}, not REAL or FAKE"
        return Entry(name, None, None, name, Status.BAD_METADATA, detail)
    named = value.get("original")
    original = _text(named) if isinstance(named, str) else None
    known = original if original and is_safe_name(original) else None
    if label == Label.FAKE and known is None and _text(named):
        detail = f"original is {named!r}, not a file name"
        return Entry(name, label, None, name, Status.BAD_METADATA, detail)
    return Entry(
        name,
        label,
        # A REAL has no original, whatever the file has instead.
        known if label == Label.FAKE else None,
        known or name,
        detail="" if str(spelled).strip().upper() == label else f"label {spelled!r} is {label}",
        method=_text(value.get("method")) if label == Label.FAKE else None,
        source=_text(value.get("source")),
        group=_text(value.get("group")),
        split=_text(value.get("split")),
    )


def _text(value: Any) -> str | None:
    """Return what an entry has for a key; None for null, NaN, and how tables write these."""
    text = str(value).strip()
    return None if text.lower() in ("", "none", "null", "nan") else text


def is_safe_name(name: str) -> bool:
    """Return whether a name is a single path component, which cannot leave its folder."""
    return (
        name not in ("", ".", "..")
        and "\\" not in name
        and "\0" not in name
        and PurePosixPath(name).name == name
        and name == _printable(name)
        and len(name.encode()) <= _MAX_NAME_BYTES
    )


def _printable(name: str) -> str:
    """Return a name without lone surrogates, which are valid in JSON but not in file names."""
    return name.encode("utf-8", "backslashreplace").decode()


def chunk_of(family: str, chunks: int) -> int:
    """Return the chunk of a family, which is independent of the machine and of other families."""
    digest = hashlib.blake2b(family.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % chunks


def shards_of(
    parts: Mapping[str, T], several: int | Literal["auto"], chunks: int
) -> dict[str, list[T]]:
    """Return the parts of each shard, by name of the shard.

    The name of a shard of several parts consists of the first part's name, the number of the others
    and a digest of all names. So different sets of parts never have the same file.

    Args:
        parts: by name; their paths if `several` is "auto".
        several: parts per shard; "auto" joins small ones, up to about a hundred videos, unless
            parts are divided into chunks.
        chunks: number of chunks that each part is divided into.

    Raises:
        UnmaskError: `several` is "auto", and an archive cannot be read.
    """
    names = sorted(parts)
    if several == "auto" and chunks == 1:
        groups = _join_small({name: Path(str(parts[name])) for name in names})
    else:
        step = 1 if several == "auto" else several
        groups = [names[start : start + step] for start in range(0, len(names), step)]
    shards = {}
    for group in groups:
        name = group[0]
        if len(group) > 1:
            listed = "/".join(group).encode(errors="surrogateescape")
            digest = hashlib.blake2b(listed, digest_size=3).hexdigest()
            name += f"+{len(group) - 1}-{digest}"
        for chunk in range(chunks):
            shards[f"{name}-{chunk:02d}"] = [parts[one] for one in group]
    return shards


def _join_small(parts: Mapping[str, Path]) -> list[list[str]]:
    """Join neighbouring parts whose `metadata.json` are small in sum; return their names."""
    groups: list[list[str]] = []
    room = 0
    for name, part in parts.items():
        # A part whose metadata.json is absent or empty gets its own shard, so that it fails alone.
        size = _metadata_bytes(part) or _SHARED_BYTES
        if not groups or size > room:
            groups.append([])
            room = _SHARED_BYTES
        groups[-1].append(name)
        room -= size
    return groups


@lru_cache(maxsize=1024)  # called twice for each archive when the workflow starts
def _metadata_bytes(part: Path) -> int | None:
    return VideoFile(part, METADATA).size()


def shard_entries(part: Path, chunk: int, chunks: int) -> list[Entry]:
    """Return the entries of one chunk of a part."""
    return [entry for entry in read_metadata(part) if chunk_of(entry.family, chunks) == chunk]
