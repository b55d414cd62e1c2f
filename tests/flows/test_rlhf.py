"""Rounds of RLHF end to end: real command, real workers, killed in a round, and equal to rounds that were not."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from storage.artifacts import Store
from tests.stack import COMMAND, environment, run

pytestmark = pytest.mark.drill

KILLS = int(os.environ.get("RLHF_KILLS", "3"))


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
            break  # it came to its end
        except subprocess.TimeoutExpired:
            os.kill(flow.pid, draw.choice((signal.SIGKILL, signal.SIGTERM)))
            flow.wait()
            killed += 1
    run(command("rlhf", "rlhf/ci", home))
    assert killed
    assert weights(home) == weights(whole)
