"""A Prefect server for the length of one run: on the loopback address, in a session of its own.

Prefect would start one itself, but in the terminal's process group: Ctrl-C would kill the server first, and the run
would wait minutes for somebody to tell that it was stopped.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from deployments.services.stack_state import running_stack
from llama2_core.errors import ConfigError
from tasks.process import die_with_parent

HOST = "127.0.0.1"
START_SECONDS = 180
COMMAND = (sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app")

NEEDLESS = (
    "SCHEDULER",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "FOREMAN",
    "TRIGGERS",
    "REPOSSESSOR",
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
)
"""Services for deployments and their workers. Each writes now and then, and a run that finds SQLite's file locked asks
again after two seconds."""


@contextmanager
def prefect_server(home: Path, meanwhile: Callable[[], None]) -> Iterator[None]:
    """Serve Prefect's API while a run lasts, unless PREFECT_API_URL names a server or the stack of `home` has one.

    It takes seconds to start: `meanwhile` is what can be done without it. Two servers would lock each other's database.
    """
    if stack := running_stack(home):
        api = f"http://{HOST}:{stack.part('Prefect').port}/api"
        os.environ.setdefault("PREFECT_API_URL", api)
    if os.environ.get("PREFECT_API_URL"):
        meanwhile()
        yield
        return
    (home / "log").mkdir(parents=True, exist_ok=True)
    log = home / "log" / "prefect.log"
    port = free_port()
    idle = {f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false" for service in NEEDLESS}
    with log.open("ab") as output:
        server = subprocess.Popen(
            [*COMMAND, "--host", HOST, "--port", str(port), "--log-level", "error"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PREFECT_UI_ENABLED": "0", **idle},
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    try:
        meanwhile()
        wait_until_healthy(server, f"{os.environ['PREFECT_API_URL']}/health", log, START_SECONDS)
        yield
    finally:
        del os.environ["PREFECT_API_URL"]
        server.terminate()
        server.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]


def wait_until_healthy(server: subprocess.Popen, address: str, log: Path, seconds: float) -> None:
    """Return once the address answers. Raises ConfigError naming the log when the server does not come up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(address, timeout=2).status_code == 200:
                return
        time.sleep(0.1)
    raise ConfigError(f"{address} does not answer; see {log}")
