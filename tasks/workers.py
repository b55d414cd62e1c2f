"""The parent's side of worker processes.

One that has done its stage waits for the next: to import torch, and what AdamW wants of it, takes four seconds.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks.process import die_with_parent
from tasks.signs import forget

DONE, LOG = "DONE", "worker.log"
WORKER = "tasks.worker"
GRACE_SECONDS = 25.0
"""Between asking a worker to end and killing it; spot machines and Kubernetes leave 30 s."""
RANKS_SECONDS = 20
"""The same between torchrun and its ranks: it is killed itself, without a word, when it takes longer than we wait."""
LEAVING_SECONDS = 5.0
"""For torchrun to end by itself after its stage is done."""
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"

KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
"""oneDNN keeps the code that it makes for the last 1,024 shapes: a quarter of a gigabyte where lengths vary. One step
has about 20."""

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


def get_ready(processes: int, threads: int) -> None:
    """Have a worker wait for its first stage, while another is made without it; torchrun starts its own."""
    if processes == 1:
        _waiting.setdefault(threads, []).append(_idle(threads) or _start(["-m", WORKER], threads))


@contextmanager
def at_work(directory: Path, processes: int, threads: int) -> Iterator[Worker]:
    """Set a worker on a stage's directory; unless it is done on the way out, end it and what it started.

    It is asked first: a training loop saves its state then.
    """
    clear(directory)
    if processes == 1:
        with _serving(directory, threads) as worker:
            yield worker
        return
    # torchrun's own store would listen on all of the machine's addresses: agents and ranks meet in files instead
    with tempfile.TemporaryDirectory(prefix="ranks-") as meeting:
        endpoint = f"--rdzv-endpoint={meeting}/agents"
        arguments = ["--rdzv-backend=c10d", "--rdzv-conf=store_type=file", endpoint, "--rdzv-id=alone"]
        environment = {
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            "RENDEZVOUS_FILE": f"{meeting}/ranks",
            "GLOO_SOCKET_IFNAME": LOOPBACK,
        }
        with torchrun(directory, processes, threads, arguments, environment, directory / LOG) as worker:
            yield worker


@contextmanager
def torchrun(
    directory: Path,
    processes: int,
    threads: int,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
) -> Iterator[Worker]:
    """Run this machine's ranks of a stage; on the way out end them. What the user has set in the environment stays."""
    runner = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", *arguments]
    command = [*runner, f"--shutdown-timeout={RANKS_SECONDS}", "-m", WORKER, str(directory.absolute())]
    with log.open("ab") as output:
        process = _start(command, threads, output.fileno(), environment)
    worker = Worker(process, directory)
    try:
        yield worker
    finally:
        if worker.status() == 0:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LEAVING_SECONDS)
        _end(process)


def clear(directory: Path) -> None:
    """Remove what an earlier try said of its end."""
    (directory / DONE).unlink(missing_ok=True)
    forget(directory)


@contextmanager
def _serving(directory: Path, threads: int) -> Iterator[Worker]:
    """Give the stage to a process that waits for one, or to a new one."""
    process = _idle(threads) or _start(["-m", WORKER], threads)
    assert process.stdin
    process.stdin.write(f"{directory.absolute()}\n")
    process.stdin.flush()
    worker = Worker(process, directory)
    try:
        yield worker
    finally:
        if worker.status() == 0:
            _waiting.setdefault(threads, []).append(process)
        else:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and kill it with its group when it does not."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _idle(threads: int) -> subprocess.Popen[str] | None:
    waiting = _waiting.get(threads, [])
    while waiting:
        process = waiting.pop()
        if process.poll() is None:
            return process
    return None


def _start(
    arguments: Sequence[str],
    threads: int,
    output: int = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start Python in a process group that dies with this process."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        env={**KERNELS, **(environment or {}), **os.environ, "OMP_NUM_THREADS": str(threads)},
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
