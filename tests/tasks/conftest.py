"""A browser to look at pages with; a chat model, its judges and its prompts; a server of any function's replies."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest
import torch

from llama2_core.chat import user
from llama2_core.config import ModelConfig
from llama2_core.model import ScalarModel, Transformer, initialise
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from storage.schemas import PROMPTS, write_table
from tasks.tables import dialog_to_json

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


@pytest.fixture
def parents(model: Transformer, config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path) -> dict[str, Path]:
    """Directories of what sampling stages start from: 40 prompts, every fourth tagged as a safety prompt."""
    save_model(tmp_path / "chat", model, tokenizer)
    for seed, role in enumerate(("helpfulness", "safety", "independent")):
        judge = ScalarModel(config)
        initialise(judge, config, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            judge.score.weight.mul_(100)
        save_model(tmp_path / role, judge, tokenizer)
    (tmp_path / "dialogs").mkdir()
    rows = [
        {
            "id": str(i),
            "kind": "open",
            "safety": i % 4 == 0,
            "split": "train",
            "dialog": dialog_to_json((user(f"the cat {i}"),)),
            "facts": "{}",
            "risk_category": "",
            "attack_vector": "",
        }
        for i in range(40)
    ]
    write_table(tmp_path / "dialogs" / "prompts.parquet", rows, PROMPTS)
    return {role: tmp_path / role for role in ("chat", "helpfulness", "safety", "dialogs")}


class Chat(BaseHTTPRequestHandler):
    """Answers what its server's `say` makes of the last message."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = self.server.say(asked["messages"][-1]["content"])  # type: ignore[attr-defined]
        reply = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *words: object) -> None: ...


@pytest.fixture
def served() -> Iterator[Callable[[Callable[[str], str]], str]]:
    """Return what serves a function from text to text, and says where."""
    servers = []

    def serve(say: Callable[[str], str]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
        server.say = say  # type: ignore[attr-defined]
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/v1#m"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
