"""Rounds of RLHF end to end: real command, real workers, killed in a round, and equal to rounds that were not."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from deployments.services.prefect_server import free_port
from storage.artifacts import Store
from tests.flows.test_retrain import people_compare
from tests.stack import COMMAND, ROOT, Stack, environment, run, wait_for

pytestmark = pytest.mark.drill

KILLS = int(os.environ.get("RLHF_KILLS", "3"))
# The deployment of rounds, on the ci profile, one round, with people as annotators.
DEPLOY = """
import sys
from deployments.deploy import deploy, read_deployments
from deployments.pools import read_pool
from deployments.profiles import RoundsProfile, load_profile
found = read_deployments()
recipe = load_profile("rlhf/ci", sys.argv[2:], RoundsProfile).recipe.model_dump(mode="json")
entries = [
    entry.model_copy(update={"profile": "rlhf/ci", "schedules": [], "parameters": {"recipe": recipe}})
    for entry in found.deployments if entry.entrypoint == "flows.rlhf.rlhf"
]
wanted = found.model_copy(update={"deployments": entries})
deploy(wanted, read_pool("process", "llama2"), 2, {"home": sys.argv[1], "threads": 1}, "", print)
"""


def command(verb: str, profile: str, home: Path) -> list[str]:
    return [
        *COMMAND,
        verb,
        "--profile",
        profile,
        "--set",
        f"runtime.home={home}",
        "--set",
        "runtime.threads=1",
    ]


@pytest.fixture(scope="module")
def beginning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `llama2 run` leaves."""
    home = tmp_path_factory.mktemp("beginning") / "var"
    run(command("run", "ci", home))
    return home


@pytest.fixture(scope="module")
def straight(beginning: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Rounds without a break, and how long they took."""
    home = tmp_path_factory.mktemp("straight") / "var"
    shutil.copytree(beginning, home)
    started = time.monotonic()
    run(command("rlhf", "rlhf/ci", home))
    return home, time.monotonic() - started


def weights(home: Path) -> dict[str, str]:
    """Return the content of every model's weights, by what made it."""
    return {
        f"{artifact.kind}/{artifact.digest}": artifact.manifest.files["model.safetensors"].sha256
        for artifact in Store(home / "artifacts").artifacts()
        if "model.safetensors" in artifact.manifest.files
    }


@pytest.mark.timeout(3600)
def test_rounds_make_what_they_promise(straight: tuple[Path, float]) -> None:
    home, _ = straight
    report = json.loads((home / "report" / "rlhf.json").read_text())
    assert list(report["rates"]) == ["V1", "V2", "V2 ppo", "V2 dpo"]
    assert [row["round"] for row in report["rounds"]] == ["V1", "V2"]
    assert report["champion"] == "V2 ppo"  # the gate of this profile takes all
    store = Store(home / "artifacts")
    samples = [a for a in store.artifacts() if "earlier1" in a.manifest.parents]
    assert [a.kind for a in samples] == ["samples"]  # the second round's carry over from the first's
    page = (home / "report" / "rlhf.html").read_text()
    assert page.count("<svg") == 3 and "RLHF in rounds" in page
    assert store.resolve("ppo").manifest.parents["independent"].startswith("reward/")


@pytest.mark.timeout(3600)
def test_killed_anywhere_rounds_end_as_if_nothing_had_been(
    beginning: Path, straight: tuple[Path, float], tmp_path: Path
) -> None:
    whole, seconds = straight
    draw = random.Random(0)
    home = tmp_path / "var"
    shutil.copytree(beginning, home)
    killed = 0
    while killed < KILLS:
        flow = subprocess.Popen(
            command("rlhf", "rlhf/ci", home),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        try:
            flow.wait(draw.uniform(0.2, 0.6) * seconds)
            assert weights(home) == weights(whole)
            shutil.rmtree(home)  # it came to its end: once more from the beginning
            shutil.copytree(beginning, home)
        except subprocess.TimeoutExpired:
            os.kill(flow.pid, draw.choice((signal.SIGKILL, signal.SIGTERM)))
            flow.wait()
            killed += 1
    run(command("rlhf", "rlhf/ci", home))
    assert killed
    assert weights(home) == weights(whole)


@pytest.mark.timeout(1800)
def test_people_are_waited_for_without_a_process(beginning: Path, tmp_path: Path) -> None:
    home = tmp_path / "var"
    shutil.copytree(beginning, home)
    store, stack = Store(home / "artifacts"), Stack(home)
    try:
        people = "recipe.comparisons={batch: V, prompts: 80, annotator: {kind: people}}"
        stack.python(DEPLOY, home, "recipe.rounds=1", people)
        with stack.client() as client:
            made = client.create_flow_run_from_deployment(client.read_deployment_by_name("rlhf/rounds").id)

        def state() -> str:
            with stack.client() as client:
                found = client.read_flow_run(made.id).state
            assert found and found.name not in ("Failed", "Crashed"), found
            return str(found.name)

        wait_for(lambda: state() == "Suspended", 600)
        at_work = psutil.Process(stack.process.pid).children(recursive=True)
        wait_for(lambda: not any("flow_process" in " ".join(each.cmdline()) for each in alive(at_work)), 60)

        people_compare(store, "V-1")
        page = subprocess.Popen(
            [*COMMAND, "annotate", "--home", str(home), "--port", str(free_port())],
            cwd=ROOT,
            env=stack.environment,
        )
        try:
            wait_for(lambda: state() == "Completed", 900)
        finally:
            page.terminate()
            page.wait(60)
        learned = store.resolve("comparisons")
        assert learned.manifest.recipe["batch"] == "V-1"
        name = f"comparisons/{learned.digest}"
        models = [made for made in store.artifacts() if name in made.manifest.parents.values()]
        assert {model.manifest.recipe.get("domain") for model in models} >= {"helpfulness", "safety"}
    finally:
        stack.down()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
