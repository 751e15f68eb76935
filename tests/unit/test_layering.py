"""Imports run only in one direction, from later stages to earlier ones."""

import ast
from pathlib import Path

import unmask

PACKAGE = Path(unmask.__file__).parent
STAGES = ["videos", "faces", "splits", "audits", "training", "inference", "evaluation"]
# What each of the other rooms may import: the stages up to one, and itself.
ABOVE = {"explore": "training", "robustness": "evaluation", "kaggle": "evaluation"}
GROUND_FLOOR = {
    *("importing", "errors", "config", "config_files", "config_docs", "tables", "vocabulary"),
    *("files", "progress", "orphans", "provenance"),
}
FRONT_DOORS = {"cli", "__main__", "plan", "tracking"}
MODULES = sorted(
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)


def imports_of(module: str) -> set[str]:
    """Return the modules of this package that a module imports, wherever in it."""
    tree = ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            written = [alias.name for alias in node.names if alias.name.startswith("unmask.")]
            assert not written, "write `from unmask… import …`, which provenance follows"
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "unmask":
            base = (node.module or "").removeprefix("unmask").removeprefix(".")
            names = {f"{base}.{alias.name}".lstrip(".") for alias in node.names}
            found |= (names & set(MODULES)) or {base}
    return found


def allowed(module: str) -> set[str]:
    if module in FRONT_DOORS:
        return set(MODULES)
    room = module.partition(".")[0]
    if module not in GROUND_FLOOR and room != "report" and "." in module:
        rooms = {room, "report", *STAGES[: STAGES.index(ABOVE.get(room, room)) + 1]}
        return {m for m in MODULES if m.partition(".")[0] in rooms} | GROUND_FLOOR
    if room == "report":
        return {m for m in MODULES if m.startswith("report.")} | GROUND_FLOOR
    return GROUND_FLOOR


def test_the_package_is_made_of_the_stages_and_the_ground_floor() -> None:
    top = {module.partition(".")[0] for module in MODULES}
    assert top == {*STAGES, *ABOVE, "report", *GROUND_FLOOR, *FRONT_DOORS, "demo"}


def test_imports_run_only_backwards() -> None:
    wrong = {module: imports_of(module) - allowed(module) for module in MODULES}
    assert {module: names for module, names in wrong.items() if names} == {}


def test_tables_and_config_need_nothing_but_errors() -> None:
    assert imports_of("config") == set()
    assert imports_of("config_files") == {"config", "errors"}
    assert imports_of("tables") == {"errors", "files"}
