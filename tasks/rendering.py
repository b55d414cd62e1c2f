"""Pages from the templates beside this file, where HTML escapes what a variable holds, and tables in Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=jinja2.select_autoescape(["html"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_template(name: str, **facts: Any) -> str:
    return _ENVIRONMENT.get_template(name).render(facts)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first of them titles, as a table; all but the first column are numbers."""
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))
