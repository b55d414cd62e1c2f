"""What watches a run: losses that are not finite or leap, steps that never end, and being told to stop."""

import faulthandler
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from llama2_core.errors import Llama2Error
from llama2_core.training.loop import Report

BROKEN_IN_A_ROW = 3
"""Updates in a row without a finite loss and gradient after which the weights themselves are suspected."""
ROLLBACKS = 2
"""Returns to a checkpoint in one run; data that breaks it a third time is not to blame."""
DECAY, SEEN_BEFORE, DEVIATIONS = 0.98, 50, 6.0
"""A spike is a loss so many deviations above the moving mean, once that has seen some."""
REARMED_SECONDS = 1.0


class TrainingDiverged(Llama2Error):
    """Loss or gradient stays infinite or undefined, whatever batches are left out."""


class Stopped(Llama2Error):
    """SIGTERM came; the state is saved."""


@dataclass
class LossGuard:
    """Counts updates that were not applied and losses that leap. Part of a checkpoint."""

    mean: float = 0.0
    variance: float = 0.0
    seen: int = 0
    not_applied: int = 0
    in_a_row: int = 0
    spikes: int = 0
    rollbacks: int = 0

    def observe(self, report: Report) -> str:
        """Return what is wrong with an update, in words; nothing when all is well."""
        if not report.applied:
            self.not_applied += 1
            self.in_a_row += 1
            found = f"loss {report.loss:g}, gradient norm {report.gradient_norm:g}"
            return f"step {report.step} is not applied: {found}"
        self.in_a_row = 0
        leap = report.loss - self.mean
        spike = self.seen >= SEEN_BEFORE and leap > DEVIATIONS * math.sqrt(self.variance)
        self.seen += 1
        weight = max(1 - DECAY, 1 / self.seen)
        self.mean += weight * leap
        self.variance = (1 - weight) * (self.variance + weight * leap**2)
        self.spikes += spike
        return (
            f"step {report.step}: loss {report.loss:.4g} leaps from {self.mean - weight * leap:.4g}"
            if spike
            else ""
        )

    @property
    def broken(self) -> bool:
        return self.in_a_row >= BROKEN_IN_A_ROW

    def counts(self) -> dict[str, int]:
        return {
            "updates_not_applied": self.not_applied,
            "loss_spikes": self.spikes,
            "rollbacks": self.rollbacks,
        }

    def facts(self) -> dict[str, float]:
        return asdict(self)


class Watchdog:
    """Ends this process, with the stacks of all its threads in a file, when it makes no step for so long.

    A collective that another rank never joins is such a step. The dump comes from a thread below Python, so it comes
    whatever holds the interpreter.
    """

    def __init__(self, folder: Path, rank: int, silence_seconds: float) -> None:
        self._silence_seconds = silence_seconds
        self._path = folder / f"stack-rank-{rank}.txt"
        self._file = self._path.open("w")
        self._file.write(
            f"Rank {rank}, process {os.getpid()} on {socket.gethostname()}, made no step for {silence_seconds:g} s.\n"
        )
        self._file.flush()
        self._armed = -math.inf
        self.alive()

    def alive(self) -> None:
        """Say that a step was made."""
        if time.monotonic() - self._armed > REARMED_SECONDS:
            faulthandler.dump_traceback_later(self._silence_seconds, file=self._file, exit=True)
            self._armed = time.monotonic()

    def close(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        self._path.unlink(missing_ok=True)


@contextmanager
def noticing_sigterm() -> Iterator[Callable[[], bool]]:
    """Yield what tells whether SIGTERM has come, which does not end the process meanwhile."""
    came = False

    def notice(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    before = signal.signal(signal.SIGTERM, notice)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, before)
