"""The parent's side of worker processes.

One that has done its stage waits for the next: to import torch, and what AdamW wants of it, takes four seconds.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.process import die_with_parent

DONE, LOG = "DONE", "worker.log"
WORKER = "tasks.worker"

_waiting: dict[int, list[subprocess.Popen[str]]] = {}
"""Threads -> processes that have nothing to do. They end when this process does: their input ends."""


class Worker:
    """A process at work on one stage."""

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self._process = process
        self._done = directory / DONE

    def status(self) -> int | None:
        """Return None while it works, 0 when the stage is done, else how the process ended."""
        ended = self._process.poll()
        return 0 if self._done.exists() else ended or (None if ended is None else 1)


@contextmanager
def at_work(directory: Path, processes: int, threads: int) -> Iterator[Worker]:
    """Set a worker on a stage's directory; unless it is done on the way out, kill it and what it started."""
    (directory / DONE).unlink(missing_ok=True)
    if processes == 1:
        process = _idle(threads) or _start(["-m", WORKER], threads)
        assert process.stdin
        process.stdin.write(f"{directory.absolute()}\n")
        process.stdin.flush()
    else:
        runner = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        with (directory / LOG).open("ab") as log:
            process = _start([*runner, "-m", WORKER, str(directory.absolute())], threads, log.fileno())
    worker = Worker(process, directory)
    try:
        yield worker
    finally:
        if processes == 1 and worker.status() == 0:
            _waiting.setdefault(threads, []).append(process)
        elif process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _idle(threads: int) -> subprocess.Popen[str] | None:
    waiting = _waiting.get(threads, [])
    while waiting:
        process = waiting.pop()
        if process.poll() is None:
            return process
    return None


def _start(arguments: list[str], threads: int, output: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """Start Python in a process group that dies with this process."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
