"""What every page of the annotation service needs: templates, forms found good, answers as events."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse

from deployments.services.annotation.access import Access, read_form
from deployments.services.speakers import Answer

HERE = Path(__file__).parent
POLL_SECONDS = 0.05
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
)


class Site:
    """Pages as this browser's annotator sees them; `pages` are those of the menu, name -> label."""

    def __init__(self, access: Access, pages: dict[str, str]) -> None:
        self.access, self.pages = access, pages

    def page(self, request: Request, name: str, status: int = 200, **values: Any) -> HTMLResponse:
        values = {
            "annotator": "",
            "page": "",
            "error": "",
            "pages": self.pages,
            **values,
            "form_secret": self.access.form_secret(request),
        }
        return HTMLResponse(_TEMPLATES.get_template(name).render(values), status)

    async def posted(self, request: Request) -> tuple[str, dict[str, str]]:
        """Return who sent a form, and its fields, once all of it is found good."""
        annotator = self.access.annotator(request)
        self.access.limit("post", annotator)
        form = await read_form(request)
        self.access.check_form(request, form)
        return annotator, form


async def events(answers: Callable[[], Sequence[Answer]]) -> AsyncIterator[str]:
    """Yield what several answers say, as server-sent events, until all are done."""
    before: list[str] | None = None
    while True:
        now = answers()
        done = all(answer.done for answer in now)
        texts = [answer.text.strip() for answer in now]
        if texts != before or done:
            yield f"data: {json.dumps({'texts': texts, 'done': done})}\n\n"
            before = texts
        if done:
            return
        await asyncio.sleep(POLL_SECONDS)
