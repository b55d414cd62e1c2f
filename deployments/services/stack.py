"""The Prefect and MLflow servers, on the loopback address, until Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from deployments.doctor import port_free
from deployments.services.prefect_server import HOST, wait_until_healthy
from llama2_core.errors import ConfigError
from tasks.process import die_with_parent

START_SECONDS, STOP_SECONDS = 90, 10
GUARD = ("sh", "-c", 'read _; kill -9 "$@"', "guard")
"""Kills process groups when its input ends, that is, when we do: the servers have children of their own."""


def serve(home: Path, prefect_port: int, mlflow_port: int) -> None:
    """Start both servers, wait until they answer, and stop them at Ctrl-C, SIGTERM or SIGHUP.

    Raises ConfigError for a port in use, before anything starts, for a server that does not come up and for one
    that ends by itself.
    """
    for name, option, port in (
        ("Prefect", "--prefect-port", prefect_port),
        ("MLflow", "--mlflow-port", mlflow_port),
    ):
        if not port_free(port):
            raise ConfigError(
                f"port {port} for {name} is in use: stop what listens there or choose another with {option}"
            )
    logs = home / "log"
    logs.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    database, artifacts = (home / "mlflow.db").absolute(), (home / "mlflow").absolute()
    mlflow = ["mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
    mlflow += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(artifacts)]
    no_jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # a dozen idle processes
    api = f"http://{HOST}:{prefect_port}/api"
    health = {"prefect": f"{api}/health", "mlflow": f"http://{HOST}:{mlflow_port}/health"}
    servers: dict[str, subprocess.Popen] = {}
    guard = None
    try:
        servers["prefect"] = _start(
            ["prefect", "server", "start"], logs / "prefect.log", _prefect(api, prefect_port)
        )
        servers["mlflow"] = _start(mlflow, logs / "mlflow.log", no_jobs)
        groups = [f"-{server.pid}" for server in servers.values()]
        guard = subprocess.Popen([*GUARD, *groups], stdin=subprocess.PIPE, start_new_session=True)
        for name, server in servers.items():
            wait_until_healthy(server, health[name], logs / f"{name}.log", START_SECONDS)
        print(
            f"Prefect  http://{HOST}:{prefect_port}\nMLflow   http://{HOST}:{mlflow_port}\nCtrl-C stops both.",
            flush=True,
        )
        while all(server.poll() is None for server in servers.values()):
            time.sleep(1)
        ended = next(name for name, server in servers.items() if server.poll() is not None)
        raise ConfigError(f"the {ended} server has ended: see {logs / f'{ended}.log'}")
    except KeyboardInterrupt:
        print("Stopped.")
    finally:
        for server in servers.values():
            _signal_group(server, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for server in servers.values():
            with suppress(subprocess.TimeoutExpired):
                server.wait(max(0.0, deadline - time.monotonic()))
            _signal_group(server, signal.SIGKILL)
            server.wait()
        if guard:
            guard.kill()
            guard.wait()


def _signal_group(server: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(server.pid, number)


def _prefect(api: str, port: int) -> dict[str, str]:
    return {"PREFECT_API_URL": api, "PREFECT_SERVER_API_HOST": HOST, "PREFECT_SERVER_API_PORT": str(port)}


def _start(command: list[str], log: Path, extra: dict[str, str]) -> subprocess.Popen:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **extra},
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
