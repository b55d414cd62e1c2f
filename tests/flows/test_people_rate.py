"""Two models rated by people from end to end, by commands alone: order, page, three raters, report."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from deployments.services.prefect_server import free_port
from storage.artifacts import Store
from storage.preference_events import BatchFrozen
from storage.preference_log import read_events, read_ratings
from tests.stack import COMMAND, ROOT, environment, run, wait_for

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1800)]


def rate_everything(page: str, token: str) -> int:
    """Sign in and give every answer that is shown first a point more, until nothing is left; return how many."""
    given = 0
    with httpx.Client(base_url=page, follow_redirects=True, timeout=60) as browser:
        shown = browser.post("/sign-in", data={"token": token}).text
        while 'name="question"' in shown:
            form = {
                name: shown.split(f'name="{name}" value="')[1].split('"')[0]
                for name in ("form_secret", "question")
            }
            answer = browser.post("/ratings/rate", data={**form, "value": "1"})
            answer.raise_for_status()
            shown, given = answer.text, given + 1
    return given


def test_people_rate_by_commands_alone(tmp_path: Path) -> None:
    home, port = tmp_path / "var", free_port()
    run([*COMMAND, "run", "--profile", "ci", "--set", f"runtime.home={home}", "--set", "runtime.threads=1"])
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"prompt": f"How many pens are {n} pens and 3 pens?"}) + "\n" for n in range(4))
    )
    compare = [
        *COMMAND,
        "compare",
        "ppo",
        "sft",
        "--judge",
        "people",
        "--prompts",
        str(prompts),
        "--home",
        str(home),
    ]
    ordered = subprocess.run(compare, capture_output=True, text=True, env=environment(), timeout=590)
    assert ordered.returncode and "llama2 annotate" in ordered.stdout + ordered.stderr

    added = [
        subprocess.run(
            [*COMMAND, "annotators", "add", name, "--home", str(home)],
            capture_output=True, text=True, env=environment(), check=True,
        ).stdout
        for name in ("alice", "bob", "carol")
    ]  # fmt: skip
    tokens = [re.findall(r"\S{20,}", said)[-1] for said in added]
    served = subprocess.Popen(
        [*COMMAND, "annotate", "--home", str(home), "--port", str(port)],
        cwd=ROOT, env=environment(), stdout=sys.stderr,
    )  # fmt: skip
    try:
        page = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return httpx.get(f"{page}/health").is_success
            except httpx.TransportError:
                return False

        wait_for(answers, 120)
        given = [rate_everything(page, token) for token in tokens]
        wait_for(
            lambda: any(isinstance(event, BatchFrozen) for event in read_events(home / "preferences")), 60
        )
    finally:
        served.terminate()
        served.wait(60)
    [batch] = {
        order["batch"]
        for path in (home / "preferences" / "orders").glob("*.json")
        if (order := json.loads(path.read_text()))
    }
    ratings = read_ratings(home / "preferences", batch)
    assert len(ratings) == sum(given) and len(set(given)) == 1 and given[0] > 0
    run(compare)
    verdicts = [each for each in Store(home / "artifacts").artifacts() if each.kind == "verdicts"]
    assert len(verdicts) == 1
