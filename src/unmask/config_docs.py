"""Documents generated from `unmask.config`: config.yaml, its schema and its table of keys."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from unmask import config
from unmask.config import REPOSITORY, Config, Section

_HEADER = """\
# All keys with their defaults, and how to choose them. Copy what you change into a file of your
# own and run `snakemake --cores all --configfile my.yaml`, or set single keys at the end of the
# command line: `--config data_root=/data/dfdc`. A misspelt key stops the run before it starts.
# config/README.md has the same keys as a table. Generated from src/unmask/config.py by
# `make schema`.
"""
_YAML_END = "\n..."  # which PyYAML writes after a scalar
_BEGIN, _END = "<!-- config:begin -->", "<!-- config:end -->"


def _describe_fields() -> None:
    """Make the docstring below each field of `unmask.config` its description.

    `use_attribute_docstrings` does the same whenever the module is imported, which takes pydantic
    0.2 s at each start of Snakemake.
    """
    for section in ast.parse(inspect.getsource(config)).body:
        if isinstance(section, ast.ClassDef):
            fields = getattr(config, section.name).model_fields
            if section.name == "ExperimentConfig":
                for name in fields.keys() & config.TrainingConfig.model_fields:
                    fields[name].description = config.TrainingConfig.model_fields[name].description
            for field, text in pairwise(section.body):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    description = inspect.cleandoc(ast.literal_eval(text.value))
                    fields[ast.unparse(field.target)].description = description
            getattr(config, section.name).model_rebuild(force=True)


_describe_fields()


def write_config_documents(repository: Path = REPOSITORY) -> None:
    """Write config/config.yaml, its JSON schema and its table in config/README.md."""
    (repository / "config/config.yaml").write_text(config_yaml())
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}  # for editors
    schema = json.dumps(draft | Config.model_json_schema(), indent=2, ensure_ascii=False)
    (repository / "workflow/schemas/config.schema.json").write_text(schema + "\n")
    readme = repository / "config/README.md"
    before, _, rest = readme.read_text().partition(_BEGIN)
    readme.write_text(f"{before}{_BEGIN}\n{config_table()}\n{_END}{rest.partition(_END)[2]}")


def config_yaml() -> str:
    """Return a configuration file of all defaults, each below its description."""
    return "\n".join([_HEADER, *_yaml_lines(Config(), "")]) + "\n"


def _yaml_lines(section: Section, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        nested = isinstance(value, Section)
        if not indent and name != next(iter(Config.model_fields)):
            yield ""
        text = inspect.getdoc(value) if nested else field.description
        yield _comment(text or "", f"{indent}# ")
        if nested:
            yield f"{indent}{name}:"
            yield from _yaml_lines(value, indent + "  ")
        else:
            default = section.model_dump(mode="json", include={name})[name]
            if name == "experiments":
                default = {experiment: {} for experiment in default}
            flow = yaml.safe_dump(default, default_flow_style=True, width=1000)
            yield f"{indent}{name}: {flow.partition(_YAML_END)[0].rstrip()}"


def _comment(text: str, start: str) -> str:
    """Return a text as lines of 100 columns; what is in backticks stays on one line."""
    words = re.sub("`[^`]+`", lambda code: code[0].replace(" ", "\0"), " ".join(text.split()))
    lines = textwrap.wrap(words, width=100 - len(start), break_on_hyphens=False)
    return "\n".join(start + line for line in lines).replace("\0", " ")


def config_table() -> str:
    """Return a Markdown table of all keys with the first sentence of each description."""
    lines = ["| key | type | default | what it is |", "|---|---|---|---|"]
    for key, properties in _keys(Config, ""):
        default = properties.get("default")
        if key == "experiments":
            default = {name: {} for name in default or {}}
        text = " ".join(properties["description"].split()).partition(". ")[0].rstrip(".")
        lines.append(f"| `{key}` | {_type_name(properties)} | `{json.dumps(default)}` | {text} |")
    return "\n".join(lines)


def _keys(model: type[Section], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every key with its JSON-schema properties (type, default, limits, description)."""
    properties = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", properties[name]


def _type_name(properties: Mapping[str, Any]) -> str:
    if "enum" in properties:
        return " / ".join(f"`{value}`" for value in properties["enum"])
    if "const" in properties:
        return f"`{properties['const']}`"
    if "anyOf" in properties:
        return " or ".join(_type_name(option) for option in properties["anyOf"])
    low = properties.get("minimum", properties.get("exclusiveMinimum"))
    high = properties.get("maximum", properties.get("exclusiveMaximum"))
    limits = f" {low} … {high}" if high is not None else f" ≥ {low}" if low is not None else ""
    return f"{properties.get('type', 'mapping')}{limits}"
