"""Two pages that MkDocs takes from elsewhere: the configuration, and the list of decisions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_DOCS = Path(__file__).parent
_LINK = re.compile(r"\[([^]]+)\]\((?!https?:)[^)]+\)")


def on_config(config: Any) -> Any:
    """List the decisions in the navigation, in the order of their numbers."""
    pages = sorted((_DOCS / "decisions").glob("*.md"), key=lambda page: page.name != "index.md")
    numbered = [pages[0], *sorted(pages[1:])]
    config.nav[-1] = {"Decisions": [f"decisions/{page.name}" for page in numbered]}
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Show `config/README.md`, without its links into the repository, and the list of decisions."""
    if page.file.src_uri == "configuration.md":
        return _LINK.sub(r"\1", (_DOCS.parent / "config" / "README.md").read_text("utf-8"))
    if page.file.src_uri == "decisions/index.md":
        others = sorted(set((_DOCS / "decisions").glob("*.md")) - {_DOCS / "decisions/index.md"})
        titles = [path.read_text("utf-8").splitlines()[0].removeprefix("# ") for path in others]
        rows = [f"- [{one}]({path.name})" for one, path in zip(titles, others, strict=True)]
        return "\n".join([markdown, "", *rows])
    return markdown
