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
from deployments.services.stack import servers_of
from storage.artifacts import Store, digest_of
from storage.errors import ArtifactNotFound
from tasks.stage_models import model_artifact

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


def test_the_annotation_page_comes_once_there_is_a_model(tmp_path: Path) -> None:
    assert [server.name for server in servers_of(tmp_path, 1, 2, 3)] == ["Prefect", "MLflow"]
    committed(Store(tmp_path / "artifacts"), "ppo", {"chat": "chat/1"})
    page = servers_of(tmp_path, 1, 2, 3)[-1]
    assert (page.name, page.port, page.command[-2:]) == ("Annotate", 3, ["--port", "3"])


def test_stages_that_make_chat_models_name_them(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    with pytest.raises(ArtifactNotFound, match="No artifact 'sft'"):
        model_artifact("sft", store)
    made = {role: committed(store, "chat", {role: "x/1"}) for role in ("dialogs", "samples")}
    assert model_artifact("sft", store).digest == made["dialogs"]
    assert model_artifact("rejection", store).digest == made["samples"]
    assert model_artifact(made["samples"][:8], store).digest == made["samples"]


def committed(store: Store, kind: str, parents: dict[str, str]) -> str:
    digest = digest_of(kind, 1, {}, parents)
    with store.building(kind, digest):
        measured = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1}
        store.commit(kind, digest, version=1, recipe={}, parents=parents, summary={}, **measured)
    return digest


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
