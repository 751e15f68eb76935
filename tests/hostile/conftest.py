"""`fuzz` tests take minutes: they run only where `-m` asks for them."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Not `addopts = "-m 'not fuzz'"`, which any other -m on the command line would undo.
    if "fuzz" in config.option.markexpr:
        return
    fuzz = [item for item in items if item.get_closest_marker("fuzz")]
    config.hook.pytest_deselected(items=fuzz)
    items[:] = [item for item in items if item not in fuzz]
