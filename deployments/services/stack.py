"""Prefect, MLflow and the annotation page, on the loopback address, until Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deployments.doctor import port_free
from deployments.services.prefect_server import HOST, wait_until_healthy
from llama2_core.errors import ConfigError
from storage.artifacts import Store
from tasks.process import die_with_parent

START_SECONDS, STOP_SECONDS = 90, 10
GUARD = ("sh", "-c", 'read _; kill -9 "$@"', "guard")
"""Kills process groups when its input ends, that is, when we do: the servers have children of their own."""


@dataclass(frozen=True)
class Server:
    """One of the stack: its command below `python -m`, and where it says that it is well."""

    name: str
    port: int
    command: list[str]
    health: str
    environment: dict[str, str]


def servers_of(home: Path, prefect_port: int, mlflow_port: int, annotate_port: int) -> list[Server]:
    """Return Prefect, MLflow, and the annotation page where there is a chat model to answer."""
    database, artifacts = (home / "mlflow.db").absolute(), (home / "mlflow").absolute()
    mlflow = ["mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
    mlflow += ["--artifacts-destination", str(artifacts)]
    settings = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a dozen idle processes
        "MLFLOW_BACKEND_STORE_URI": os.environ.get("MLFLOW_BACKEND_STORE_URI", f"sqlite:///{database}"),
    }
    found = [
        Server("Prefect", prefect_port, ["prefect", "server", "start"], "api/health", _prefect(prefect_port)),
        Server("MLflow", mlflow_port, mlflow, "health", settings),
    ]
    if any(artifact.kind == "ppo" for artifact in Store(home / "artifacts").artifacts()):
        annotate = ["deployments.cli", "annotate", "--newest", "ppo", "--home", str(home)]
        annotate += ["--port", str(annotate_port)]
        found.append(Server("Annotate", annotate_port, annotate, "health", _prefect(prefect_port)))
    return found


def serve(home: Path, servers: list[Server]) -> None:
    """Start the servers, wait until they answer, and stop them at Ctrl-C, SIGTERM or SIGHUP.

    Raises ConfigError for a port in use, before anything starts, for a server that does not come up and for one
    that ends by itself.
    """
    for server in servers:
        if not port_free(server.port):
            raise ConfigError(
                f"port {server.port} for {server.name} is in use: stop what listens there or choose another with "
                f"--{server.name.lower()}-port"
            )
    logs = {server.name: home / "log" / f"{server.name.lower()}.log" for server in servers}
    (home / "log").mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    running: dict[str, subprocess.Popen] = {}
    guard = None
    try:
        for server in servers:
            running[server.name] = _start(server, logs[server.name])
        groups = [f"-{process.pid}" for process in running.values()]
        guard = subprocess.Popen([*GUARD, *groups], stdin=subprocess.PIPE, start_new_session=True)
        for server in servers:
            address = f"http://{HOST}:{server.port}/{server.health}"
            wait_until_healthy(running[server.name], address, logs[server.name], START_SECONDS)
        for server in servers:
            print(f"{server.name:9}http://{HOST}:{server.port}")
        print("Ctrl-C stops them.", flush=True)
        while all(process.poll() is None for process in running.values()):
            time.sleep(1)
        ended = next(name for name, process in running.items() if process.poll() is not None)
        raise ConfigError(f"the {ended} server has ended: see {logs[ended]}")
    except KeyboardInterrupt:
        print("Stopped.")
    finally:
        for process in running.values():
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            _signal_group(process, signal.SIGKILL)
            process.wait()
        if guard:
            guard.kill()
            guard.wait()


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _prefect(port: int) -> dict[str, str]:
    api = f"http://{HOST}:{port}/api"
    return {"PREFECT_API_URL": api, "PREFECT_SERVER_API_HOST": HOST, "PREFECT_SERVER_API_PORT": str(port)}


def _start(server: Server, log: Path) -> subprocess.Popen:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *server.command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **server.environment},
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
