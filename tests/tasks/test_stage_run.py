"""Curves reach a real MLflow server that goes away and comes back: none is lost, none is there twice."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.services.prefect_server import free_port, wait_until_healthy
from storage.metrics import MetricLog
from storage.tracking import Tracker
from tasks.stage_run import Curves

pytestmark = pytest.mark.slow


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """An address, and what starts and what kills MLflow there."""
    port, running = free_port(), []
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]

    def start() -> None:
        log = tmp_path / "log"
        with log.open("wb") as output:
            running.append(
                subprocess.Popen(command, stdout=output, stderr=output, cwd=tmp_path, start_new_session=True)
            )
        wait_until_healthy(running[-1], f"http://127.0.0.1:{port}/health", log, 180)

    def kill() -> None:
        subprocess.run(["pkill", "-9", "-s", str(running[-1].pid)], check=False)
        running.pop().wait()

    yield f"http://127.0.0.1:{port}", start, kill
    if running:
        kill()


def test_a_server_that_was_away_is_told_later(
    served: tuple[str, Callable[[], None], Callable[[], None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tasks.stage_run.TELL_SECONDS", 0.0)
    address, start, kill = served
    start()
    tracking = Tracker(address, "away", tmp_path / "artifacts")
    run = tracking.start("base", "base", {})
    log = MetricLog(tmp_path / "metrics.jsonl")
    curves = Curves(tmp_path / "metrics.jsonl", tracking, run)
    for step in range(1, 7):
        if step == 3:
            kill()
        if step == 5:
            start()
        log.append({"step": step, "of": 6, "loss": 1 / step})
        row = curves.follow(0 if step == 6 else None)
        assert row and row["step"] == step
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("cannot be told of curves") == 1 and said.count("MLflow answers again") == 1
    history = tracking._client.get_metric_history(run, "loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / step) for step in range(1, 7)]
    assert tracking._client.get_metric_history(run, "system/cpu_utilization_percentage")
