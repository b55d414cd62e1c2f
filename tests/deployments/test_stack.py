"""`llama2 up` as a user types it: ports in use, and ends of every kind."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from deployments.services.prefect_server import free_port

ROOT = Path(__file__).parents[2]


def up(home: Path, prefect: int, mlflow: int) -> subprocess.Popen[str]:
    ports = ["--prefect-port", str(prefect), "--mlflow-port", str(mlflow)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", "up", "--home", str(home), *ports],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
    )


@pytest.mark.parametrize("server", ["Prefect", "MLflow"])
def test_a_port_in_use_is_refused_before_anything_starts(server: str, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        ports = (port, free_port()) if server == "Prefect" else (free_port(), port)
        said, _ = (process := up(tmp_path, *ports)).communicate(timeout=170)
    assert process.returncode == 1
    told = f"port {port} for {server} is in use: stop what listens there or choose another with --{server.lower()}-port"
    assert told in " ".join(said.split())
    assert not (tmp_path / "log").exists()


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_servers_and_what_they_started_end_with_the_stack(end: signal.Signals, tmp_path: Path) -> None:
    ports = free_port(), free_port()
    stack = up(tmp_path, *ports)
    deadline = time.monotonic() + 200
    for address in (f"http://127.0.0.1:{ports[0]}/api/health", f"http://127.0.0.1:{ports[1]}/health"):
        while not healthy(address):
            assert stack.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
    started = psutil.Process(stack.pid).children(recursive=True)
    assert len(started) >= 3  # two servers and what kills them
    stack.send_signal(end)
    stack.communicate(timeout=60)
    assert stack.returncode == (-end if end == signal.SIGKILL else 0)
    _, alive = psutil.wait_procs(started, timeout=15)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert not any(healthy(f"http://127.0.0.1:{port}/health") for port in ports)


def healthy(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
