"""A stack of one's own for drills: a real Prefect server, MLflow and worker, and what they say."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.services.prefect_server import free_port, wait_until_healthy
from deployments.services.stack_state import PartState, running_stack

ROOT = Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "deployments.cli")

# Without the annotation page, which would hold the log that tests write.
SUPERVISOR = """
import sys
from functools import partial
from pathlib import Path
from deployments.environment import prepare
from deployments.services.stack import servers_of, worker
from deployments.services.supervisor import Supervisor
home, port, mlflow = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
prepare(home)
Supervisor(home, partial(print, flush=True)).run(servers_of(home, port, mlflow), [partial(worker, port)])
"""


class Stack:
    """Prefect, MLflow and a worker below a home."""

    def __init__(self, home: Path) -> None:
        self.home, self.port, self.mlflow_port = home, free_port(), free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.environment = environment() | {"PREFECT_API_URL": self.api}
        self.up()

    def up(self) -> None:
        ports = [str(self.port), str(self.mlflow_port)]
        command = [sys.executable, "-c", SUPERVISOR, str(self.home), *ports]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
        wait_for(self.is_well, 300)

    def parts(self) -> dict[str, PartState]:
        state = running_stack(self.home)
        return {part.name: part for part in state.parts} if state else {}

    def is_well(self) -> bool:
        parts = self.parts().values()
        return len(parts) == 3 and all(part.healthy() for part in parts)

    def restart(self) -> None:
        """Kill everything, server and worker too, and start it again."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.up()

    def down(self) -> None:
        self.process.terminate()
        self.process.wait(120)

    @contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        with temporary_settings({PREFECT_API_URL: self.api}), get_client(sync_client=True) as client:
            yield client

    def python(self, code: str, *arguments: Any) -> None:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        subprocess.run(command, cwd=ROOT, env=self.environment, check=True, timeout=170)


class Mlflow:
    """An MLflow server of one's own below a folder, to be killed and started again at its address."""

    def __init__(self, folder: Path) -> None:
        self._folder, port = folder, free_port()
        self.address, self.database = f"http://127.0.0.1:{port}", f"sqlite:///{folder}/mlflow.db"
        self._command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        self._command += ["--workers", "1", "--backend-store-uri", self.database]
        self.start()

    def start(self) -> None:
        log = self._folder / "mlflow.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                start_new_session=True,
                env=environment(),
            )
        wait_until_healthy(self._process, f"{self.address}/health", log, 180)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=590)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError("it never came to that")
