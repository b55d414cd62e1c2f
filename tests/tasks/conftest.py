"""A browser to look at pages with."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


class Seen(NamedTuple):
    """What a browser made of a page."""

    overflow_pixels: int
    requests: list[str]
    said: list[Any]


@pytest.fixture
def look(tmp_path: Path) -> Iterator[Callable[[str, int], Seen]]:
    """Return what opens a page so wide, unfolds all that is folded, and says what was seen."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)

        def look(page: str, width: int) -> Seen:
            path = tmp_path / "page.html"
            path.write_text(page, encoding="utf-8")
            requests: list[str] = []
            said: list[Any] = []
            view = browser.new_page(viewport={"width": width, "height": 900})
            view.on("request", lambda request: requests.append(request.url))
            view.on("console", lambda message: said.append(message.text))
            view.on("pageerror", lambda error: said.append(error))
            view.goto(path.as_uri())
            for summary in view.locator("summary").all():
                summary.click()
            overflow = view.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            return Seen(overflow, [url for url in requests if url != path.as_uri()], said)

        yield look
        browser.close()
