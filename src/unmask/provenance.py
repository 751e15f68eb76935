"""Provenance: a digest of the code behind a rule's output, and the commit it came from.

Snakemake notices an edited shell command but not an edited module, so every rule carries
`source_digest(...)` of the module it runs as a parameter.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from functools import cache
from pathlib import Path

from unmask import tables

_PACKAGE = Path(__file__).resolve().parent
_FROM_IMPORT = re.compile(r"^ *from ([\w.]+) import (\([^)]*\)|.*)", re.MULTILINE)

# The ground floor changes no result by itself: settings reach a rule as parameters of their own,
# and of `tables` only the columns that a module names count.
_NOT_FOLLOWED = {
    *("errors", "config", "tables", "vocabulary", "files", "progress", "orphans"),
    *("provenance", "tracking", "buffer"),
}


def source_digest(module: str) -> str:
    """Return a digest of a module of this package and all modules of it that it imports.

    Args:
        module: dotted name below `unmask`, for example "videos.probe".
    """
    digest = hashlib.sha256()
    for name in sorted(imported_modules(module)):
        digest.update(f"{name}\0".encode())
        digest.update(_path(name).read_bytes())
        digest.update(_columns(name).encode())
    return digest.hexdigest()[:16]


def imported_modules(module: str) -> set[str]:
    """Return the module and the modules of this package it imports, directly or not."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [found for found in _imports(name) if found not in _NOT_FOLLOWED]
    return seen


def _imports(module: str) -> set[str]:
    return _imports_of(_path(module).read_text(encoding="utf-8"))


@cache
def _imports_of(code: str) -> set[str]:
    """Return the modules of this package that a source text imports.

    Every start of Snakemake asks for all rules' modules, so a text is parsed once.
    """
    found = set()
    for source, names in _from_imports(code):
        if source.startswith("unmask"):
            base = source.removeprefix("unmask").removeprefix(".")
            candidates = [base, *(f"{base}.{name}".lstrip(".") for name in names)]
            found |= {name for name in candidates if name and _path(name).is_file()}
    return found


def _columns(module: str) -> str:
    """Return the tables that a module imports, columns and all."""
    named = []
    for source, names in _from_imports(_path(module).read_text(encoding="utf-8")):
        if source == "unmask.tables":
            values = (getattr(tables, name, None) for name in names)
            named += [repr(value) for value in values if isinstance(value, tables.Table)]
    return "\n".join(sorted(named))


@cache
def _from_imports(code: str) -> list[tuple[str, list[str]]]:
    """Return each `from MODULE import NAMES` of a source text, those inside functions too.

    By their form, which the formatter keeps: parsing 70 modules at each start takes longer.
    """
    return [(module, re.findall(r"\w+", names)) for module, names in _FROM_IMPORT.findall(code)]


def _path(module: str) -> Path:
    return _PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def git_state() -> dict[str, str]:
    """Return the commit of the code and whether it has uncommitted changes, where git knows."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_PACKAGE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": str(bool(git("status", "-s")))}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": "not a git checkout", "git_dirty": "unknown"}
