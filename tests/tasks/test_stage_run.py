"""Curves reach a real MLflow server that goes away and comes back: none is lost, none is there twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.metrics import MetricLog
from storage.tracking import Tracker
from tasks.stage_run import Curves
from tests.stack import Mlflow

pytestmark = pytest.mark.slow


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[Mlflow]:
    server = Mlflow(tmp_path)
    yield server
    server.kill()


def test_a_server_that_was_away_is_told_later(
    mlflow: Mlflow,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tasks.stage_run.TELL_SECONDS", 0.0)
    tracking = Tracker(mlflow.address, "away", tmp_path / "artifacts")
    run = tracking.start("base", "base", {})
    log = MetricLog(tmp_path / "metrics.jsonl")
    curves = Curves(tmp_path / "metrics.jsonl", tracking, run)
    for step in range(1, 7):
        if step == 3:
            mlflow.kill()
        if step == 5:
            mlflow.start()
        log.append({"step": step, "of": 6, "loss": 1 / step})
        row = curves.follow(0 if step == 6 else None)
        assert row and row["step"] == step
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("cannot be told of curves") == 1 and said.count("MLflow answers again") == 1
    history = tracking._client.get_metric_history(run, "loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / step) for step in range(1, 7)]
    assert tracking._client.get_metric_history(run, "system/cpu_utilization_percentage")
