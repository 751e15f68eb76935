"""The command line: a command is a function, its signature the options, its docstring the help.

Commands for people have names. Rules call any function of the package as MODULE:FUNCTION, for
example `unmask videos.probe:probe_shard`.

An argument @FILE stands for the lines of that file: of thousands of shards, the paths are more than
the system allows in a command.

Parameters that are sections of the configuration are no options. Functions that rules call read
them from `--settings` (JSON, `{"frames": {"per_video": 16}}`), commands from `--config` (YAML).
"""

from __future__ import annotations

import ast
import gc
import importlib
import logging
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from cyclopts import App, CycloptsError
from cyclopts import Parameter as Option

from unmask.errors import UnmaskError
from unmask.orphans import end_with_snakemake
from unmask.progress import configure_logging

logger = logging.getLogger("unmask")

# Name: the function in this package. Imported only when called, because torch takes seconds.
COMMANDS = {
    "demo": "demo:build_demo",
    "import": "videos.import_videos:import_videos",
    "plan": "plan:plan_faces",
    "experiments": "training.experiments:describe_experiments",
    "predict": "inference.command:predict_files",
    "app": "inference.app:serve_app",
    "summary": "explore.summary:print_summary",
    "grade": "kaggle.grade:grade_submission",
    "schema": "config_docs:write_config_documents",
}
# The rules of a checkout, which call other functions by their names in this package.
_RULES = Path(__file__).parents[2] / "workflow" / "rules"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, or 2 for a problem the user can fix."""
    name, *tokens = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    tokens = [one for token in tokens for one in _expanded(token)]
    if name not in COMMANDS and not _exists(name):
        asked = name in ("-h", "--help")
        print(_overview(), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    function = import_function(name)
    gc.enable()  # again, see unmask.__main__
    try:
        options = create_app(name, function)(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print(f"unmask {name}: {error}", file=sys.stderr)
        return 2
    return 0 if options is None else _run(name, function, options)  # None after --help


def _expanded(token: str) -> list[str]:
    """Return the lines of the file that an argument @FILE names; another argument as it is."""
    path = Path(token.removeprefix("@"))
    return path.read_text("utf-8").splitlines() if token[:1] == "@" and path.is_file() else [token]


def _overview() -> str:
    """Return all commands with the first lines of their functions' docstrings."""
    rules = "".join(path.read_text("utf-8") for path in sorted(_RULES.glob("*.smk")))
    called = re.findall(r"python -m unmask ([\w.]+:\w+)", rules)
    return "\n".join(
        [
            "Usage: unmask COMMAND [OPTIONS]. unmask COMMAND --help lists the options of one.",
            "\nCommands:",
            *(f"  {name:<12} {_first_line(target)}" for name, target in COMMANDS.items()),
            "\nFunctions that rules of the workflow call:" if called else "",
            *(f"  {target:<44} {_first_line(target)}" for target in called),
        ]
    )


def _path(module: str) -> Path:
    return Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")


def _exists(target: str) -> bool:
    module, _, name = target.partition(":")
    return _path(module).is_file() and f"\ndef {name}(" in _path(module).read_text("utf-8")


def _first_line(target: str) -> str:
    """Return the first line of a function's docstring without importing its module."""
    module, _, name = target.partition(":")
    tree = ast.parse(_path(module).read_text("utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    return (ast.get_docstring(functions[name]) or "").partition("\n")[0]


def import_function(name: str) -> Callable[..., Any]:
    """Return the function of a command, or the one that MODULE:FUNCTION names."""
    module, _, attribute = COMMANDS.get(name, name).partition(":")
    return getattr(importlib.import_module(f"unmask.{module}"), attribute)  # type: ignore[no-any-return]


def _common_options(
    log: Annotated[Path | None, Option(help="log file; by default the log goes to stderr")] = None,
    config: Annotated[Sequence[Path], Option(help="as Snakemake's `--configfile`")] = (),
    settings: Annotated[Sequence[str], Option(help="sections of the configuration as JSON")] = (),
) -> None:
    """Options that are no parameters of a command's function."""


def create_app(name: str, function: Callable[..., Any]) -> App:
    """Return an application that parses the options of a function and returns them by name."""

    def options(*values: Any, **given: Any) -> dict[str, Any]:
        return dict(zip(by_position, values, strict=False)) | given

    common = signature(_common_options, eval_str=True).parameters
    types, sections = get_type_hints(function), _sections_of(function)
    by_name = [common["log"]]
    if sections:
        by_name.append(common["config" if name in COMMANDS else "settings"])
    by_position: dict[str, Parameter] = {}  # required arguments of commands for people
    for parameter in signature(function).parameters.values():
        kind = types[parameter.name]
        if is_dataclass(kind):
            kind = Annotated[kind, Option(name="*")]  # an option for each field
        option = parameter.replace(annotation=kind)
        if name in COMMANDS and option.name not in sections and option.default is option.empty:
            by_position[option.name] = option
        elif option.name not in sections:
            by_name.append(option)
    by_name = [option.replace(kind=Parameter.KEYWORD_ONLY) for option in by_name]
    vars(options)["__signature__"] = Signature([*by_position.values(), *by_name])
    options.__annotations__ = {}  # An option may have the name of one of its parameters.
    options.__doc__ = function.__doc__
    app = App(
        f"unmask {name}", help_format="markdown", version_flags=(), result_action="return_value"
    )
    app.default_parameter = Option(consume_multiple=True, negative=())
    app.default(options)
    return app


def _sections_of(function: Callable[..., Any]) -> dict[str, type]:
    """Return the parameters of a function that are sections of the configuration, or all of it.

    Sections are recognised as pydantic models, because importing `unmask.config` takes 70 ms.
    """
    types = {name: kind for name, kind in get_type_hints(function).items() if name != "return"}
    return {name: kind for name, kind in types.items() if hasattr(kind, "model_fields")}


def _run(name: str, function: Callable[..., Any], options: dict[str, Any]) -> int:
    """Call a command's function; log how long it took, or in one line why it failed."""
    log = options.pop("log", None)
    configure_logging(log)
    try:
        end_with_snakemake()
        if sections := _sections_of(function):
            from unmask.config_files import read_config, read_settings

            settings, files = options.pop("settings", ()), options.pop("config", ())
            config = read_config(files) if name in COMMANDS else read_settings(settings)
            by_type = {type(value): value for value in (config, *dict(config).values())}
            options |= {parameter: by_type[kind] for parameter, kind in sections.items()}
        start = time.monotonic()
        result = function(**options)
        if name in COMMANDS and result is not None:
            print(result)
        logger.info("done in %.1f s", time.monotonic() - start)
    except UnmaskError as error:
        return _fail(str(error), log)
    except OSError as error:
        if error.errno is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}", log)
    except Exception:
        # The log keeps the traceback even where the terminal is gone.
        logger.exception("this is a bug of unmask, please report it with this log")
        raise
    return 0


def _fail(message: str, log: Path | None) -> int:
    logger.error("%s", message)
    if log is not None:
        print(f"unmask: {message}", file=sys.stderr)
    return 2
