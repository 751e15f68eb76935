"""Pages: HTML from `templates/` with all pictures inside, so it needs no network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from unmask.files import atomic_path
from unmask.report.style import COLORS
from unmask.vocabulary import Label


@dataclass(frozen=True)
class Section:
    """A section of `sections.html.j2`: a heading, a sentence, and a table or a JPEG."""

    heading: str
    text: str
    content: pd.DataFrame | bytes


def write_page(path: Path, template: str, **content: object) -> None:
    """Render one of `report/templates` with the variables in `content` to an HTML file."""
    html = render_page(template, **content)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def render_page(template: str, **content: object) -> str:
    """Return one of `report/templates` as HTML, with the variables in `content`."""
    return _ENVIRONMENT.get_template(template).render(content)


def _number(value: float | None) -> str:
    if value is None or pd.isna(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _interval(ends: Sequence[float | None] | None) -> str:
    """Return an interval in brackets, or nothing if an end is unknown."""
    if ends is None or any(end is None or pd.isna(end) for end in ends):
        return ""
    return f"({_number(ends[0])} to {_number(ends[1])})"


def _cell(value: object) -> str:
    """Return a table's value as text, numbers with four significant digits."""
    if pd.isna(value):  # type: ignore[call-overload]
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{int(value):,}" if float(value).is_integer() else f"{value:,.4g}"
    return str(value)


def _cell_class(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return str(value) if value in tuple(Label) else ""


def _data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


_ENVIRONMENT = Environment(
    loader=PackageLoader("unmask.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_FILTERS = (_number, _interval, _cell, _cell_class, _data_uri)
_ENVIRONMENT.filters |= {function.__name__[1:]: function for function in _FILTERS}
_ENVIRONMENT.globals["colors"] = COLORS
