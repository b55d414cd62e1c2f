"""What the supervisor says of the stack: a file that `llama2 status`, `down` and `deploy` read."""

import os
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
from pydantic import ValidationError

from llama2_core.config import Record
from storage.disk import atomic_write

STATE = Path("run/stack.json")


class PartState(Record):
    """One part, as the supervisor last saw it."""

    name: str
    """For people."""
    pid: int
    """0 while it waits to be started again."""
    port: int
    """Of the loopback address."""
    health_address: str
    """Answers 200 when it is well."""
    address: str
    """Where a person opens it; nothing when it is not for people."""
    log: str
    """What it prints."""
    started: float
    """Seconds since 1970."""
    restarts: int
    """Since the stack is up."""

    def healthy(self) -> bool:
        """Tell whether it answers now."""
        with suppress(httpx.HTTPError):
            return self.pid > 0 and httpx.get(self.health_address, timeout=5).status_code == 200
        return False


class StackState(Record):
    """The supervisor and its parts."""

    pid: int
    """Of the supervisor."""
    created: float
    """When its process began: a pid alone may be another's."""
    parts: list[PartState]
    """In the order in which they were started."""

    def alive(self) -> bool:
        """Tell whether the supervisor still runs."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and abs(process.create_time() - self.created) < 1
        return False

    def part(self, name: str) -> PartState:
        return next(part for part in self.parts if part.name == name)


def running_stack(home: Path) -> StackState | None:
    """Return the state of the stack below `home`, if it is up."""
    try:
        state = StackState.model_validate_json((home / STATE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return state if state.alive() else None


def write_state(home: Path, parts: list[PartState]) -> None:
    (home / STATE).parent.mkdir(parents=True, exist_ok=True)
    state = StackState(pid=os.getpid(), created=psutil.Process().create_time(), parts=parts)
    atomic_write(home / STATE, state.model_dump_json(indent=2).encode())


def forget_state(home: Path) -> None:
    (home / STATE).unlink(missing_ok=True)


def uptime(started: float) -> str:
    """Return for how long something has run: "1:02:03"."""
    seconds = round(time.time() - started)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
