"""Every server that we start listens on the loopback address, unless told otherwise."""

import inspect
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deployments.annotation_commands import annotate
from deployments.services.prefect_server import prefect_server
from deployments.services.stack import servers_of, worker

ROOT = Path(__file__).parents[2]


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


SERVERS: dict[str, Callable[[], str | None]] = {
    "Prefect, of the stack": lambda: servers_of(Path("var"), 1, 2)[0].environment["PREFECT_SERVER_API_HOST"],
    "MLflow": lambda: option(servers_of(Path("var"), 1, 2)[1].command, "--host"),
    "worker": lambda: worker(1).environment["PREFECT_WORKER_WEBSERVER_HOST"],
    "annotation page": lambda: inspect.signature(annotate).parameters["host"].default,
}


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_is_told_the_loopback_address(server: str) -> None:
    assert SERVERS[server]() == "127.0.0.1"


def test_no_code_names_every_address() -> None:
    """But compose.yaml does, inside containers, whose ports are open on 127.0.0.1 (see test_compose_files.py)."""
    command = ["git", "grep", "-lE", r"0\.0\.0\.0|\[::\]", "--", "*.py", "*.yaml", "*.sbatch", ":!tests"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert found == ["deployments/docker/compose.yaml"]


def test_the_server_of_a_run_listens_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    with prefect_server(tmp_path, lambda: None):
        started = psutil.Process().children(recursive=True)
        open_ = [found for process in started for found in process.net_connections("inet")]
        assert {c.laddr.ip for c in open_ if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
