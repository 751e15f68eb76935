"""Provenance: a digest of the code behind a rule's output.

Snakemake notices an edited shell command but not an edited module, so every rule has
`source_digest(...)` of the module it runs as a parameter. The digest changes when what the rule can
compute may have changed: comments, docstrings, type hints and formatting do not count.
"""

from __future__ import annotations

import ast
import atexit
import hashlib
import json
import re
import sys
from contextlib import suppress
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from unmask import tables
from unmask.errors import UnmaskError
from unmask.files import atomic_path

_PACKAGE = Path(__file__).resolve().parent
# Digests of modules that have not changed, next to Python's own cache: parsing all takes 0.2 s.
_CACHE = Path(cache_from_source(__file__)).with_suffix(".json")

# How a job runs, not what it computes. `config` says which settings there may be; their values are
# parameters of rules. Of `tables`, only the columns of the tables that a module imports count.
_IGNORED = {
    *("errors", "config", "config_files", "tables", "files", "progress", "orphans"),
    *("provenance", "training.live_tracking"),
}


def source_digest(module: str, settings: str = "") -> str:
    """Return a digest of the code of a module and of all that it imports from this package.

    Data files in the folders of these modules, for example templates, count as well.

    Args:
        module: dotted name below `unmask`, for example "videos.probe".
        settings: JSON. Modules in the working directory that it names as "module:object" count too.
    """
    names = sorted(imported_modules(module))
    parts = [part for name in names for part in (name, _parsed(_path(name))[0], _columns(name))]
    folders = {_path(name).parent for name in names} - {_PACKAGE}
    for path in sorted(path for folder in folders for path in _data_files(folder)):
        parts += [str(path.relative_to(_PACKAGE)), hashlib.sha256(path.read_bytes()).hexdigest()]
    for name in sorted(set(re.findall(r'"([\w.]+):\w+"', settings))):
        own = Path(*name.split(".")).with_suffix(".py")
        parts += [name, _parsed(own)[0]] if own.is_file() else []
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def imported_modules(module: str) -> set[str]:
    """Return the module and the modules of this package it imports, directly or not."""
    seen: set[str] = set()
    found = {module}
    while waiting := found - seen:
        seen |= waiting
        names = [one for name in waiting for one in _parsed(_path(name))[1]]
        found |= set(map(_module_of, names)) - _IGNORED - {""}
    return seen


@cache
def _module_of(imported: str) -> str:
    """Return the module of this package that an imported name is or comes from, "" if of none."""
    package, _, name = imported.partition(".")
    candidates = [name, name.rpartition(".")[0]] if package == "unmask" else []
    return next((one for one in candidates if one and _path(one).is_file()), "")


@cache
def _columns(module: str) -> str:
    """Return the tables that a module imports, columns and all."""
    names = [one.removeprefix("unmask.tables.") for one in _parsed(_path(module))[1]]
    values = [getattr(tables, name, None) for name in names]
    return "\n".join(repr(value) for value in values if isinstance(value, tables.Table))


@cache
def _parsed(path: Path) -> tuple[str, list[str]]:
    """Return a digest of the code that counts, and the full names of what it imports and uses."""
    text = path.read_bytes()
    key = hashlib.sha256(Path(__file__).read_bytes() + text).hexdigest()
    entry = _cached().get(str(path), [""])
    if entry[0] != key:
        entry = _cached()[str(path)] = [key, *_parse(text)]
    return entry[1], entry[2]


@cache
def _cached() -> dict[str, Any]:
    """Return the content of the cache; additions are saved when the process ends."""
    try:
        content = dict(json.loads(_CACHE.read_bytes()))
    except (OSError, ValueError):
        content = {}
    atexit.register(_save, content, content.copy())
    return content


def _save(content: dict[str, Any], saved: dict[str, Any]) -> None:
    if content != saved:
        with suppress(OSError, UnmaskError), atomic_path(_CACHE) as temporary:
            temporary.write_text(json.dumps(content))


def _parse(text: bytes) -> tuple[str, list[str]]:
    reducer = _Reducer()
    tree = reducer.visit(ast.parse(text))
    # Equal for Python 3.11 and later, so that another interpreter is no reason to rerun.
    code = ast.dump(tree, **({"show_empty": True} if sys.version_info >= (3, 13) else {}))
    used = reducer.imports.keys() & set(re.findall(r"Name\(id='(\w+)'", code))
    imports = sorted((reducer.imports[name], name) for name in used)
    digest = hashlib.sha256(f"{imports}\n{code}".encode()).hexdigest()
    return digest, [imported for imported, _ in imports]


class _Reducer(ast.NodeTransformer):
    """Removes docstrings, type hints and imports, and collects the imports.

    Fields of classes keep their types: pydantic acts on them.
    """

    def __init__(self) -> None:
        self.imports: dict[str, str] = {}  # name in the module to full name

    def generic_visit(self, node: ast.AST) -> ast.AST:
        # Expressions hold nothing to remove, and visiting them takes most of the time.
        return node if isinstance(node, ast.expr) else super().generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.name if alias.asname else alias.name.partition(".")[0]
            self.imports[alias.asname or name] = name

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        vars(node).pop("type_params", None)  # Python 3.12 and later
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        vars(node).pop("type_params", None)
        kept = [one if isinstance(one, ast.AnnAssign) else self.visit(one) for one in node.body]
        node.body = [one for one in kept if one is not None]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return node.value and ast.Assign([node.target], node.value)


def _path(module: str) -> Path:
    return _PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


@cache
def _data_files(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("[!.]*") if path.is_file()]
    return [path for path in files if path.suffix not in (".py", ".pyc")]
