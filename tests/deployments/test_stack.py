"""`llama2 up` as a user types it: ports in use, and ends of every kind."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deployments.services.prefect_server import free_port
from deployments.services.stack import annotation_page
from deployments.services.stack_state import STATE, PartState, running_stack, write_state
from deployments.stack_commands import down, status
from llama2_core.errors import Llama2Error
from storage.artifacts import Store, digest_of
from storage.errors import ArtifactNotFound
from storage.preference_orders import place
from tasks.stage_models import model_artifact
from tests.deployments.services.annotation.test_orders import order

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


def test_the_annotation_page_comes_once_there_is_a_model_or_an_order(tmp_path: Path) -> None:
    assert annotation_page(tmp_path, 1, 3) is None
    place(tmp_path / "preferences", order("V-1", 1.0))
    page = annotation_page(tmp_path, 1, 3)
    assert page and (page.name, page.port, page.command[-1]) == ("Annotate", 3, "3")
    assert "sft" in page.command
    committed(Store(tmp_path / "artifacts"), "ppo", {"chat": "chat/1"})
    page = annotation_page(tmp_path, 1, 3)
    assert page and "ppo" in page.command


def test_a_stack_that_was_killed_is_not_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_state(tmp_path, [])
    state = running_stack(tmp_path)
    assert state and state.pid == os.getpid()
    other = state.model_copy(update={"created": state.created - 60})  # the pid of another process now
    (tmp_path / STATE).write_text(other.model_dump_json())
    assert running_stack(tmp_path) is None
    down(tmp_path)
    assert "Nothing is up" in capsys.readouterr().out
    with pytest.raises(Llama2Error, match="nothing is up"):
        status(tmp_path)


def test_stages_that_make_chat_models_name_them(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    with pytest.raises(ArtifactNotFound, match="No artifact 'sft'"):
        model_artifact("sft", store)
    made = {role: committed(store, "chat", {role: "x/1"}) for role in ("dialogs", "samples")}
    assert model_artifact("sft", store).digest == made["dialogs"]
    assert model_artifact("rejection", store).digest == made["samples"]
    assert model_artifact(made["samples"][:8], store).digest == made["samples"]
    assert model_artifact("", store).digest == made["samples"], "no gate yet: the newest"


def committed(store: Store, kind: str, parents: dict[str, str]) -> str:
    digest = digest_of(kind, 1, {}, parents)
    with store.building(kind, digest):
        measured = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1}
        store.commit(kind, digest, version=1, recipe={}, parents=parents, summary={}, **measured)
    return digest


@pytest.mark.drill
@pytest.mark.parametrize("end", ["killed", "down"])
def test_what_is_killed_is_started_again_and_nothing_outlives_the_stack(end: str, tmp_path: Path) -> None:
    stack = up(tmp_path, free_port(), free_port())
    parts = wait_until_well(tmp_path, stack)
    assert [part.name for part in parts] == ["Prefect", "MLflow", "Worker"]
    assert listens_at(stack) == {"127.0.0.1"}
    if end == "killed":
        stack.kill()
    else:
        again, _ = up(tmp_path, parts[0].port, parts[1].port).communicate(timeout=60)
        assert f"It is up already, process {stack.pid}" in again and parts[1].address in again
        os.kill(parts[1].pid, signal.SIGKILL)
        os.kill(parts[2].pid, signal.SIGKILL)
        parts = wait_until_well(tmp_path, stack, restarts=[0, 1, 1])
        down(tmp_path)
    started = [psutil.Process(part.pid) for part in parts if psutil.pid_exists(part.pid)]
    stack.communicate(timeout=90)
    assert stack.returncode == (-signal.SIGKILL if end == "killed" else 0)
    _, alive = psutil.wait_procs(started, timeout=15)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert not any(part.healthy() for part in parts)


def listens_at(stack: subprocess.Popen[str]) -> set[str]:
    """Return the addresses at which the stack and all that it started listen."""
    started = [psutil.Process(stack.pid), *psutil.Process(stack.pid).children(recursive=True)]
    open_ = [connection for process in started for connection in process.net_connections("inet")]
    return {connection.laddr.ip for connection in open_ if connection.status == psutil.CONN_LISTEN}


def wait_until_well(
    home: Path, stack: subprocess.Popen[str], restarts: list[int] | None = None
) -> list[PartState]:
    """Return the parts once the three of them answer."""
    deadline = time.monotonic() + 500
    while stack.poll() is None and time.monotonic() < deadline:
        state = running_stack(home)
        parts = state.parts if state else []
        counted = [part.restarts for part in parts] == (restarts or [0, 0, 0])
        if counted and all(part.healthy() for part in parts):
            return parts
        time.sleep(0.2)
    state = running_stack(home)
    stack.terminate()
    raise AssertionError(f"the stack is not well: {state}; it said {stack.communicate(timeout=90)[0]}")
