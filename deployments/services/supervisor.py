"""Keeps the stack up: starts parts in order, starts again what ends or does not answer, stops the worker first."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from deployments.services.prefect_server import wait_until_healthy
from deployments.services.stack import Part
from deployments.services.stack_state import PartState, forget_state, write_state
from tasks.process import die_with_parent

START_SECONDS = 600.0
TICK_SECONDS = 0.5
LOOK_SECONDS = 10.0
"""Between two looks at whether a part answers, and at whether another one is wanted."""
SILENT_SECONDS = 600.0
"""A part that runs but has not answered for so long is killed and started again: long, for a slow one must live."""
BACK_OFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Before a part is started again, by how often it has ended within `STEADY_SECONDS` of its start."""
STEADY_SECONDS = 60.0
GUARD = ("sh", "-c", "while read -r groups; do now=$groups; done; kill -9 $now", "guard")
"""Kills the process groups of the last line it read when its input ends, that is, when we do."""

Wanted = Callable[[], Part | None]


class Process:
    """A part's process, and how often it had to be started."""

    def __init__(self, part: Part, log: Path) -> None:
        self.part, self.log = part, log
        self.restarts = self._failures = 0
        self.due: float | None = None
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.part.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.part.environment},
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.started = self.answered = time.time()
        self.due = None

    def wait(self) -> None:
        """Return once it answers. Raises ConfigError naming its log when it does not."""
        wait_until_healthy(self.process, self.part.health_address, self.log, START_SECONDS)

    def state(self) -> PartState:
        part = self.part
        return PartState(
            name=part.name,
            pid=0 if self.due else self.process.pid,
            port=part.port,
            health_address=part.health_address,
            address=part.address,
            log=str(self.log),
            started=self.started,
            restarts=self.restarts,
        )

    def look(self) -> None:
        """Kill it when it has long been silent."""
        if not self.part.killed_when_silent or self.due is not None:
            return
        if self.state().healthy():
            self.answered = time.time()
        elif time.time() - self.answered > SILENT_SECONDS:
            self.signal(signal.SIGKILL)

    def revive(self) -> str:
        """Start it again when it has ended and its pause is over; return what happened, if anything did."""
        if self.due is not None:
            if time.time() < self.due:
                return ""
            self.restarts += 1
            self.start()
            return f"{self.part.name} is started again."
        status = self.process.poll()
        if status is None:
            return ""
        self.signal(signal.SIGKILL)  # what it had started
        self._failures = 0 if time.time() - self.started > STEADY_SECONDS else self._failures + 1
        pause = BACK_OFF_SECONDS[min(self._failures, len(BACK_OFF_SECONDS) - 1)]
        self.due = time.time() + pause
        return f"{self.part.name} has ended ({status}); again in {pause:.0f} s. Its log: {self.log}"

    def stop(self) -> None:
        """Ask it and what it has started to end, and kill what does not."""
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(self.part.stop_seconds)
        self.signal(signal.SIGKILL)
        self.process.wait()

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Supervisor:
    """The processes of one stack."""

    def __init__(self, home: Path, say: Callable[[str], None]) -> None:
        self._home, self._say = home, say
        self._processes: list[Process] = []
        self._guard: subprocess.Popen[bytes] | None = None

    def run(self, servers: Sequence[Part], then: Sequence[Wanted]) -> None:
        """Start `servers`, then each of `then` as soon as it is wanted; keep them up until Ctrl-C, SIGTERM or SIGHUP.

        Raises ConfigError when one does not come up the first time.
        """
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        (self._home / "log").mkdir(parents=True, exist_ok=True)
        try:
            for part in servers:
                self._add(part)
            for process in self._processes:
                process.wait()
                self._introduce(process.part)
            missing = list(then)
            while True:
                missing = [wanted for wanted in missing if not self._begin(wanted)]
                self._watch(LOOK_SECONDS)
        except KeyboardInterrupt:
            self._say("Stopping.")
        finally:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)  # asked twice is asked once
            self._stop()
        self._say("Stopped.")

    def _begin(self, wanted: Wanted) -> bool:
        part = wanted()
        if part:
            self._add(part)
            self._introduce(part)
        return part is not None

    def _add(self, part: Part) -> None:
        self._processes.append(Process(part, self._home / "log" / f"{part.name.lower()}.log"))
        self._tell()

    def _introduce(self, part: Part) -> None:
        self._say(f"{part.name:9}{part.address or 'waits for flow runs'}")

    def _watch(self, seconds: float) -> None:
        for process in self._processes:
            process.look()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            said = [line for process in self._processes if (line := process.revive())]
            if said:
                self._tell()
            for line in said:
                self._say(line)
            time.sleep(TICK_SECONDS)

    def _tell(self) -> None:
        """Write the state, and tell the guard whom to kill should we be killed."""
        write_state(self._home, [process.state() for process in self._processes])
        if self._guard is None or self._guard.poll() is not None:
            self._guard = subprocess.Popen(GUARD, stdin=subprocess.PIPE, start_new_session=True)
        groups = " ".join(f"-{process.process.pid}" for process in self._processes if not process.due)
        with suppress(BrokenPipeError):  # it is started again the next time
            os.write(self._guard.stdin.fileno(), f"{groups}\n".encode())  # type: ignore

    def _stop(self) -> None:
        """End the processes, who needs longest first: the worker before the server that it reports to."""
        last_first = reversed(self._processes)
        for process in sorted(last_first, key=lambda process: -process.part.stop_seconds):
            process.stop()
        forget_state(self._home)
        if self._guard:
            self._guard.kill()
            self._guard.wait()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
