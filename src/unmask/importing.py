"""Objects that a configuration names by an import path."""

from __future__ import annotations

import importlib
from typing import Any

from unmask.errors import UnmaskError


def import_object(path: str, where: str) -> Any:
    """Return what `package.module:name` names.

    Args:
        path: the import path; the module must be installed, or be in the working directory.
        where: the configuration key, for errors.

    Raises:
        UnmaskError: the module cannot be imported, or has no such name.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnmaskError(f"{where}: '{path}' cannot be imported: {error}") from None
