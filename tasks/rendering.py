"""Pages from the templates beside this file: in HTML what a variable holds is escaped, elsewhere not."""

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
