"""The Prefect and MLflow servers, on the loopback address, until Ctrl-C."""

import os
import subprocess
import sys
import time
from pathlib import Path

from deployments.doctor import port_free
from deployments.services.prefect_server import HOST, wait_until_healthy
from llama2_core.errors import ConfigError

START_SECONDS = 90


def serve(home: Path, prefect_port: int, mlflow_port: int) -> None:
    """Start both servers, wait until they answer, and stop them at Ctrl-C or when one ends.

    Raises ConfigError for a port in use, before anything starts, and for a server that does not come up.
    """
    for name, port in (("Prefect", prefect_port), ("MLflow", mlflow_port)):
        if not port_free(port):
            raise ConfigError(
                f"port {port} for {name} is in use: stop what listens there or choose another port"
            )
    logs = home / "log"
    logs.mkdir(parents=True, exist_ok=True)
    database, artifacts = (home / "mlflow.db").absolute(), (home / "mlflow").absolute()
    mlflow = ["mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
    mlflow += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(artifacts)]
    api = f"http://{HOST}:{prefect_port}/api"
    servers = {
        "prefect": _start(["prefect", "server", "start"], logs / "prefect.log", _prefect(api, prefect_port)),
        "mlflow": _start(mlflow, logs / "mlflow.log", {}),
    }
    try:
        wait_until_healthy(servers["prefect"], f"{api}/health", logs / "prefect.log", START_SECONDS)
        wait_until_healthy(
            servers["mlflow"], f"http://{HOST}:{mlflow_port}/health", logs / "mlflow.log", START_SECONDS
        )
        print(
            f"Prefect  http://{HOST}:{prefect_port}\nMLflow   http://{HOST}:{mlflow_port}\nCtrl-C stops both.",
            flush=True,
        )
        while all(server.poll() is None for server in servers.values()):
            time.sleep(1)
    finally:
        for server in servers.values():
            server.terminate()
        for server in servers.values():
            server.wait()


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
        )
