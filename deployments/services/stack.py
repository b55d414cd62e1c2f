"""The parts of the stack on the loopback address: Prefect, MLflow, the annotation page, a worker for flow runs."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from deployments.doctor import port_free
from deployments.services.prefect_server import HOST, free_port
from llama2_core.errors import ConfigError
from storage.artifacts import Store
from storage.preference_orders import ORDERS
from storage.preferences import preferences_folder

POOL = "llama2"
"""Work pool of the worker, and of every deployment unless another is named."""


@dataclass(frozen=True)
class Part:
    """One process of the stack: its command below `python -m`, and where it says that it is well."""

    name: str
    port: int
    command: list[str]
    health: str
    environment: dict[str, str] = field(default_factory=dict)
    stop_seconds: float = 10.0
    """Between asking it to end and killing it."""
    killed_when_silent: bool = True
    """Whether one that runs but does not answer is started again; not where training would end with it."""
    address: str = ""
    """Where a person opens it; nothing when it is not for people."""

    @property
    def health_address(self) -> str:
        return f"http://{HOST}:{self.port}/{self.health}"


def servers_of(home: Path, prefect_port: int, mlflow_port: int) -> list[Part]:
    """Return Prefect and MLflow: the others need them."""
    database, artifacts = (home / "mlflow.db").absolute(), (home / "mlflow").absolute()
    mlflow = ["mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
    mlflow += ["--artifacts-destination", str(artifacts)]
    settings = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a dozen idle processes
        "MLFLOW_BACKEND_STORE_URI": os.environ.get("MLFLOW_BACKEND_STORE_URI", f"sqlite:///{database}"),
    }
    return [
        Part("Prefect", prefect_port, ["prefect", "server", "start"], "api/health", prefect_at(prefect_port),
             address=_page(prefect_port)),
        Part("MLflow", mlflow_port, mlflow, "health", settings, address=_page(mlflow_port)),
    ]  # fmt: skip


def annotation_page(home: Path, prefect_port: int, port: int) -> Part | None:
    """Return the annotation page, once there is a chat model to answer or a batch that a flow has ordered."""
    store = Store(home / "artifacts")
    kinds = {artifact.kind for artifact in store.artifacts()}
    ordered = any((preferences_folder(store) / ORDERS).glob("*.json"))
    if "ppo" not in kinds and not ordered:
        return None
    newest = "ppo" if "ppo" in kinds else "sft"
    command = ["deployments.cli", "annotate", "--newest", newest, "--home", str(home), "--port", str(port)]
    return Part("Annotate", port, command, "health", prefect_at(prefect_port), address=_page(port))


def worker(prefect_port: int, pool: str = POOL) -> Part:
    """Return the worker: it starts flow runs in its own process group, so that none outlives it."""
    port = free_port()
    environment = {
        **prefect_at(prefect_port),
        "PREFECT_WORKER_WEBSERVER_HOST": HOST,
        "PREFECT_WORKER_WEBSERVER_PORT": str(port),
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
    }
    command = ["deployments.services.flow_worker", pool]
    return Part("Worker", port, command, "health", environment, WORKER_STOP_SECONDS, killed_when_silent=False)


WORKER_STOP_SECONDS = 45.0
"""A flow run has that long to have its training saved and to say how it ended."""


def require_free_ports(parts: list[Part]) -> None:
    """Raise ConfigError for a port in use, before anything starts."""
    for part in parts:
        if not port_free(part.port):
            raise ConfigError(
                f"port {part.port} for {part.name} is in use: stop what listens there or choose another with "
                f"--{part.name.lower()}-port"
            )


def prefect_at(port: int) -> dict[str, str]:
    """Return the environment that leads to the server at this port."""
    api = f"http://{HOST}:{port}/api"
    return {"PREFECT_API_URL": api, "PREFECT_SERVER_API_HOST": HOST, "PREFECT_SERVER_API_PORT": str(port)}


def _page(port: int) -> str:
    return f"http://{HOST}:{port}"
