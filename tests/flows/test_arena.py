"""Models beside each other, for real: a file of prompts, small models, Prefect, workers, MLflow, the log of people."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.artifacts import Artifact as PrefectArtifact
from prefect.testing.utilities import prefect_test_harness

from deployments.services.annotation.orders import freeze_if_complete, next_order
from deployments.services.annotation.panel import Panel
from deployments.services.annotation.ratings import read_questions
from flows.arena import arena, diversity, safety_ratings
from llama2_core.errors import ConfigError
from llama2_core.model import ScalarModel, Transformer
from storage.arena_tables import VERDICTS
from storage.artifacts import Store
from storage.preference_events import BatchOpened
from storage.preference_log import PreferenceLog
from storage.preference_orders import RatingOrder
from storage.preferences import query
from storage.schemas import read_table
from tasks.arena_recipe import ArenaRecipe, DiversityRecipe, RatersRecipe, RepliesRecipe, SafetyRatingsRecipe
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.people import AwaitingPeople
from tasks.reward_recipe import RewardRecipe
from tasks.runtime import Runtime
from tasks.sampling_recipe import SamplingRecipe
from tasks.stage_run import tracker
from tests.tasks.conftest import look as look

pytestmark = pytest.mark.slow
SHORT = SamplingRecipe(max_new_tokens=6)
REPLIES = RepliesRecipe(temperatures=(1.0,), sampling=SHORT)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with prefect_test_harness(server_startup_timeout=180):
        yield Runtime(home=tmp_path_factory.mktemp("arena") / "var", threads=1, least_free_bytes=0)


@pytest.fixture(scope="module")
def given(runtime: Runtime, drawn: Callable[..., dict]) -> dict[str, str]:
    """Return two chat models by path, both reward models, and a file of prompts, of one turn and of two."""
    folder = runtime.home.parent
    for seed, name in enumerate(("one", "two")):
        drawn(seed, Transformer, folder / name)
    rewards = {
        domain: build(Job(domain, "reward", RewardRecipe(domain=domain), seed), runtime,
                      lambda where, seed=seed: drawn(seed + 7, ScalarModel, where))
        for seed, domain in enumerate(("helpfulness", "safety"))
    }  # fmt: skip
    lines = []
    for n in range(12):
        said = [{"role": "user", "content": f"the cat {n} <b>sat</b>"}]
        if n % 3 == 0:
            said += [{"role": "assistant", "content": "on a mat"}, {"role": "user", "content": "and the dog"}]
        kind, domain = ("factual", "creative")[n % 2], "safety" if n > 8 else "helpfulness"
        lines.append(
            {"messages": said, "kind": kind, "domain": domain, "risk_category": "theft" if n > 8 else ""}
        )
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    names = {name: str(folder / name) for name in ("one", "two")}
    return {**names, **rewards, "prompts": str(folder / "prompts.jsonl")}


def compared(given: dict[str, str], runtime: Runtime, second: str = "two", **known: Any) -> str:
    recipe = ArenaRecipe(replies=REPLIES, **known)
    judges = given["helpfulness"], given["safety"]
    return arena(given["one"], given[second], given["prompts"], *judges, recipe, runtime=runtime)


def people_rate(runtime: Runtime, value: int) -> None:
    """Have three people say the same of everything that was ordered, for the answer that is shown as A."""
    store = Store(runtime.store_root)
    with PreferenceLog(runtime.home / "preferences") as log:
        order = next_order(log)
        assert isinstance(order, RatingOrder)
        log.append(BatchOpened(id=order.batch, target=order.target, time=datetime.now(UTC)))
        panel = Panel(log, order, read_questions(order, store))
        for name in ("alice", "bob", "carol"):
            while shown := panel.open(name):
                panel.rate(name, shown.id, -value if panel.turned(name, shown) else value)
        assert freeze_if_complete(log, order)


def test_reward_models_judge_two_models(given: dict[str, str], runtime: Runtime) -> None:
    report = find(compared(given, runtime), runtime)
    rows = json.loads(report.file("table.json").read_text())
    assert [row["prompts"] for row in rows] == ["all", "creative", "factual", "theft", "turns: 1", "turns: 2"]
    assert [row["n"] for row in rows] == ["12", "6", "6", "3", "8", "4"]
    rate = report.summary["rate"]
    assert rate["low"] <= rate["value"] <= rate["high"] and rate["n"] == 12
    verdicts = find(report.manifest.parents["verdicts"], runtime)
    assert len(read_table(verdicts.file("verdicts.parquet"), VERDICTS)) == 12
    assert query(Store(runtime.store_root), "SELECT count(*) FROM verdicts")[1] == [(12,)]
    assert json.loads(PrefectArtifact.get("comparison").data) == rows
    tracking = tracker(runtime)
    assert tracking.last_step(tracking.newest(report.digest), "rate/value") is not None
    page = report.file("report.html").read_text()
    assert page.count("<svg") == 3 and "&lt;b&gt;sat&lt;/b&gt;" in page
    before = len(Store(runtime.store_root).artifacts())
    assert find(compared(given, runtime), runtime) == report, "found, not made again"
    assert len(Store(runtime.store_root).artifacts()) == before
    with pytest.raises(ConfigError, match="each once"):
        compared(given, runtime, second="one")


def test_people_compare_and_the_flow_goes_on(given: dict[str, str], runtime: Runtime) -> None:
    for _ in range(2):
        with pytest.raises(AwaitingPeople, match=r"3 ratings of each of 1. questions"):
            compared(given, runtime, judge=RatersRecipe())
    people_rate(runtime, 2)
    report = find(compared(given, runtime, judge=RatersRecipe()), runtime)
    equal = find(report.manifest.parents["verdicts"], runtime).summary["details"].get("equal answers", 0)
    assert equal < 3 and report.summary["loss"] == 0
    assert report.summary["win"] == pytest.approx((12 - equal) / 12)
    assert "Gwet&#39;s AC2" in report.file("report.html").read_text()


def test_people_rate_safety(given: dict[str, str], runtime: Runtime) -> None:
    asked = ([given["one"], given["two"]], given["prompts"], SafetyRatingsRecipe(replies=REPLIES))
    with pytest.raises(AwaitingPeople, match="3 ratings of each of 24 questions"):
        safety_ratings(*asked, runtime=runtime)
    people_rate(runtime, 2)
    report = find(safety_ratings(*asked, runtime=runtime), runtime)
    assert {model: of["value"] for model, of in report.summary.items()} == {"one": 1.0, "two": 1.0}
    rows = json.loads(report.file("table.json").read_text())
    assert [row["prompts"] for row in rows[:6]] == [
        "all",
        "creative",
        "factual",
        "theft",
        "turns: 1",
        "turns: 2",
    ]
    assert {row["mean rating"] for row in rows} == {"2.00 (2.00 to 2.00)"}


def test_samples_grow_unlike_with_temperature(given: dict[str, str], runtime: Runtime) -> None:
    recipe = DiversityRecipe(replies=RepliesRecipe(temperatures=(0.0, 0.02, 1.5), samples=4, sampling=SHORT))
    report = find(diversity([given["one"], given["two"]], given["prompts"], recipe, runtime=runtime), runtime)
    for curves in report.summary.values():
        assert curves.keys() == {"factual", "creative"}
        for curve in curves.values():
            assert list(curve) == ["0", "0.02", "1.5"]
            assert curve["0"]["value"] == 1 >= curve["0.02"]["value"] > curve["1.5"]["value"]
    assert report.file("report.html").read_text().count("<svg") == 2


def test_the_command(given: dict[str, str], runtime: Runtime, tmp_path: Path) -> None:
    def llama2(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return subprocess.run(
            [sys.executable, "-m", "deployments.cli", *words, "--home", str(runtime.home)],
            capture_output=True,
            text=True,
            env=environment | {"COLUMNS": "200"},
            timeout=300,
        )

    models, prompts = (given["one"], given["two"]), ("--prompts", given["prompts"])
    changes = ("--set", "compare.replies.sampling.max_new_tokens=6", "--set", "runtime.least_free_bytes=0")
    done = llama2("compare", *models, *prompts, *changes, "--json")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert json.loads(done.stdout[done.stdout.index("{\n") :])["rows"][0]["n"] == "12"
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}')
    done = llama2("compare", *models, "--prompts", str(tmp_path / "bad.jsonl"), *changes)
    assert done.returncode == 1 and "bad.jsonl:2: text: Extra inputs" in done.stderr


def test_the_pages_fit(runtime: Runtime, look: Any) -> None:
    pages = [a.file("report.html") for a in Store(runtime.store_root).artifacts() if a.kind == "arena-report"]
    assert pages
    for page in pages:
        for width in (1400, 420):
            seen = look(page.read_text(), width)
            assert (seen.overflow_pixels, seen.requests, seen.said) == (0, [], [])
