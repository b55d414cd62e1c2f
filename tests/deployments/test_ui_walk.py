"""What a user does in a browser: the form of RLHF in rounds, a value that is refused, a run, its report in MLflow."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ElementHandle, Page, sync_playwright
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort

from tests.stack import COMMAND, Stack, run, wait_for
from tests.tasks.conftest import CHROMIUM, FLAGS

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1800)]

DEPLOY = """
import sys
from deployments.deploy import deploy, read_deployments
from deployments.pools import read_pool
found = read_deployments()
entries = [
    entry.model_copy(update={"profile": "rlhf/ci"})
    for entry in found.deployments if entry.entrypoint == "flows.rlhf.rlhf"
]
runtime = {"home": sys.argv[1], "threads": 1, "log_every": 1, "mlflow_address": f"http://127.0.0.1:{sys.argv[2]}"}
deploy(found.model_copy(update={"deployments": entries}), read_pool("process", "llama2"), 1, runtime, "", print)
"""
FIELD = """label => {
    const words = [...document.querySelectorAll("*")].filter(e => !e.children.length && e.textContent.trim() == label);
    let node = words.pop();
    while (node && !node.querySelector("input")) node = node.parentElement;
    return node && node.querySelector("input");
}"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    home = tmp_path / "var"
    run([*COMMAND, "run", "--profile", "ci", "--set", f"runtime.home={home}"])
    stack = Stack(home)
    stack.python(DEPLOY, home, stack.mlflow_port)
    yield stack
    stack.down()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A browser's page that may ask this machine alone."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(120_000)
        page.on("request", lambda request: asked.append(request.url))
        yield page
        browser.close()
    assert not [url for url in asked if not re.match(r"(https?://127\.0\.0\.1[:/]|data:|blob:)", url)]


def field(page: Page, label: str) -> ElementHandle:
    found = page.evaluate_handle(FIELD, f"{label} (Optional)").as_element()
    assert found, label
    return found


def newest(stack: Stack) -> FlowRun | None:
    with stack.client() as client:
        found = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["rlhf"])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=1,
        )
    return found[0] if found else None


def artifacts(stack: Stack, key: str) -> list[Any]:
    with stack.client() as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


def test_from_the_form_to_the_report(stack: Stack, page: Page) -> None:
    prefect = f"http://127.0.0.1:{stack.port}"
    page.goto(f"{prefect}/deployments")
    page.click("a:has-text('rounds')")
    page.click("button:has-text('Run')")
    page.click("text=Custom run")
    page.wait_for_selector("text=Whose best samples a round is fine-tuned on")
    time.sleep(2)  # the form fills itself in

    field(page, "Rounds").fill("0")
    page.keyboard.press("Tab")
    page.click("button:has-text('Submit')")
    page.wait_for_selector("text=Validation failed for field 'recipe.rounds'")
    assert newest(stack) is None

    field(page, "Rounds").fill("1")
    page.keyboard.press("Tab")
    page.click("button:has-text('Submit')")
    wait_for(lambda: newest(stack) is not None, 60)
    made = newest(stack)
    assert made and made.parameters["recipe"]["rounds"] == 1

    wait_for(lambda: any(0 < found.data < 100 for found in artifacts(stack, "chat-progress")), 300)
    page.goto(f"{prefect}/runs/flow-run/{made.id}")
    wait_for(lambda: bool((now := newest(stack)) and now.state and now.state.is_final()), 600)
    page.wait_for_selector("text=Completed")  # the page follows by itself
    page.click("text=Subflow Runs")
    page.wait_for_selector("text=V1")
    assert "data:image/svg+xml" in artifacts(stack, "chat")[-1].data

    [report] = [each for each in artifacts(stack, "report") if each.flow_run_id == made.id]
    page.goto(re.search(r"\((http\S+)\)", report.data)[1])  # type: ignore
    page.frame_locator("iframe").locator("h1", has_text="RLHF in rounds").wait_for()
    runs = f"http://127.0.0.1:{stack.mlflow_port}/#/experiments/1/runs"
    page.goto(f"{runs}?viewStateShareKey=llama2-curves&compareRunsMode=CHART")
    page.wait_for_selector("text=validation_loss")
    page.wait_for_selector("text=safety reward model 1")
