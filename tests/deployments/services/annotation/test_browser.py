"""From the page to a report, in a real browser: two annotators, thirty comparisons, keyboard only, a frozen batch,
both reward models and what is to be thought of them; no accessibility violation."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright
from prefect.testing.utilities import prefect_test_harness

from deployments.services.annotation.access import Access
from deployments.services.annotation.app import create_app
from deployments.services.annotation.desk import Desk
from deployments.services.annotation.panel import Panel, Question
from deployments.services.annotation.seat import Queued
from deployments.services.prefect_server import free_port
from flows.reward import reward, reward_report
from storage.artifacts import Store, digest_of
from storage.preference_events import Comparison, Turn
from storage.preference_log import PreferenceLog, read_events, read_ratings
from storage.preference_orders import RatingOrder
from tasks.reward_recipe import BARS, DOMAINS, FitnessRecipe, RewardRecipe, RewardReportRecipe
from tasks.runtime import Runtime

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
ROOT = Path(__file__).parents[4]
WORDS = ("the cat sat on?", "猫坐在哪里?", "أين جلست القطة؟", "<b>the dog</b> & the mat?")
WIDTHS = (1400, 420)


@contextmanager
def serving(work: Desk | Panel, access: Access) -> Iterator[str]:
    port = free_port()
    app = create_app(work, access, ["127.0.0.1"])
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def service(make_desk: Callable[..., Desk], access: Access) -> Iterator[tuple[str, Desk]]:
    prompts = [
        Queued(
            f"q{n}",
            "queued",
            "safety" if n % 3 == 0 else "helpfulness",
            (Turn(role="user", content=f"{WORDS[n % 4]} {n}"),),
        )
        for n in range(60)
    ]
    desk = make_desk(agreement_share=0.5, queue=prompts)
    with serving(desk, access) as address:
        yield address, desk


def test_two_annotators_and_thirty_comparisons(service: tuple[str, Desk], access: Access) -> None:
    address, desk = service
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for turn, name in enumerate(("alice", "bob")):
            page = browser.new_context(viewport={"width": WIDTHS[turn], "height": 900}).new_page()
            wrong: list[str] = []
            page.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
            page.goto(address)
            accessible(page)
            page.keyboard.type(access.add(name))
            page.keyboard.press("Enter")
            page.wait_for_selector("textarea")
            for number in range(15):
                compare(page, address, "safety" if number % 3 == 0 else "helpfulness", number)
            accessible(page)
            talk(page, address)
            assert not wrong
        browser.close()
    made = [event for event in read_events(desk.log.folder) if isinstance(event, Comparison)]
    assert len(made) == 30
    assert {len(comparison.dialog) for comparison in made} >= {1, 3}
    assert {comparison.annotator for comparison in made} == {"alice", "bob"}
    asked = [comparison.question for comparison in made]
    assert len(asked) > len(set(asked)), "nobody was asked what another had judged"
    assert sum(len(set(texts(comparison))) == 2 for comparison in made) == 30

    desk.log.close()
    report = learned_from(access.folder.parent, Path(desk.speakers.models["newest"]))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(report.as_uri())
            assert page.locator("h1").count() == 1 and page.locator("figure svg").count() > 0
            accessible(page)
        browser.close()


@pytest.mark.parametrize("answers", [2, 1])
def test_a_panel_rates_by_keyboard(answers: int, access: Access) -> None:
    asked = [
        Question(
            str(n),
            n % 2 == 1,
            (Turn(role="user", content=WORDS[n]),),
            (f"{n} <b>a</b>", f"{n} 猫" * 90)[:answers],
        )
        for n in range(4)
    ]
    order = RatingOrder(batch="r", sheet="sheet/1", target=8, raters=2, placed=1.0)
    with PreferenceLog(access.folder) as log, serving(Panel(log, order, asked), access) as address:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            for name, width in zip(("alice", "bob"), WIDTHS, strict=True):
                page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
                page.goto(address)
                page.keyboard.type(access.add(name))
                page.keyboard.press("Enter")
                for number in range(4):
                    page.wait_for_selector(f"text=yours {number}")
                    assert page.locator(".answer b, .turn > b:not([dir])").count() == 0
                    accessible(page)
                    page.keyboard.press(str(number + 1))
                    page.keyboard.press("Enter")
                page.wait_for_selector("text=Nothing waits for you")
                accessible(page)
                page.keyboard.press("u")
                page.wait_for_selector("text=yours 3")
            browser.close()
        made = read_ratings(log.folder, "r")
    values = {abs(rating.value) if answers == 2 else rating.value for rating in made}
    assert len(made) == 6 and values == ({3, 2, 1} if answers == 2 else {1, 2, 3})


def learned_from(home: Path, chat: Path) -> Path:
    """Freeze the batch, train both reward models on it, and return their report, whose bars are all overridden."""
    store = Store(home / "artifacts")
    digest = digest_of("chat", 1, {}, {})
    with store.building("chat", digest) as directory:
        shutil.copytree(chat, directory, dirs_exist_ok=True)
        measured = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1}
        store.commit("chat", digest, version=1, recipe={}, parents={}, summary={}, **measured)
    freeze = [sys.executable, "-m", "deployments.cli", "preferences", "freeze", "week-1", "--home", str(home)]
    subprocess.run([*freeze, "--held-out-share", "0.4"], cwd=ROOT, check=True)
    frozen = store.resolve("comparisons")
    assert frozen.summary["comparisons"] + frozen.summary["ties"] + frozen.summary["excluded"] <= 30
    assert frozen.summary["held_out"] > 0
    runtime, batches = Runtime(home=home, threads=1), [f"comparisons/{frozen.digest}"]
    bars = RewardReportRecipe(fitness=FitnessRecipe(overrides=dict.fromkeys(BARS, "thirty comparisons")))
    with prefect_test_harness(server_startup_timeout=180):
        models = {
            domain: reward(f"chat/{digest}", batches, RewardRecipe(domain=domain, rows=4), 0, runtime)
            for domain in DOMAINS
        }
        reward_report(models, batches, recipe=bars, runtime=runtime)
    return store.resolve("reward-report").file("report.html")


def texts(comparison: Comparison) -> list[str]:
    return [response.text for response in comparison.responses]


def compare(page: Page, address: str, kind: str, number: int) -> None:
    """Take or write a message, judge both answers, and go on with the better every other time; by keyboard."""
    before = page.locator(".turn").count() if number else 0
    if not before:
        page.goto(f"{address}/{kind}")
    page.wait_for_selector("textarea")
    if before or number % 5 == 4:
        page.fill("textarea", f"and {WORDS[number % 4]} then {number}")
        page.keyboard.press("Control+Enter")
    else:
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("n")
    page.wait_for_selector("[name=choice]", timeout=60_000)
    assert page.locator(".answer b, .turn > b:not([dir])").count() == 0  # markup of a message is text
    if number < 4:
        accessible(page)
    for key in f"{'ab'[number % 2]}{number % 4 + 1}":
        page.keyboard.press(key)
    if page.locator("[name=a_safe]").count():
        for key in "qr":
            page.keyboard.press(key)
    page.keyboard.press("s" if number % 2 else "Enter")
    page.wait_for_selector("textarea")


def talk(page: Page, address: str) -> None:
    """Ask two models in the playground."""
    page.goto(f"{address}/playground")
    page.select_option("[name=second]", "other")
    page.fill("textarea", "the cat")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".answer:not(.writing)", timeout=60_000)
    assert page.locator(".answer").count() == 2
    accessible(page)


def accessible(page: Page) -> None:
    found: dict[str, Any] = Axe().run(page).response
    serious = [v["id"] for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert not serious, serious
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
