"""What parent and worker both do to a process: tie it to its parent, and measure it."""

import ctypes
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (Linux)."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was asked
            os.kill(os.getpid(), signal.SIGKILL)


def reuse_freed_memory() -> None:
    """Have large tensors lie where earlier ones lay; given back to the system, as by default, they cost page faults."""
    if sys.platform == "linux":
        with suppress(AttributeError):
            ctypes.CDLL(None).mallopt(M_MMAP_MAX, 0)
            ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Give the system back what was freed but lies between what is still held (glibc only)."""
    if sys.platform == "linux":
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


class Meter:
    """What this process uses from now on."""

    def __init__(self) -> None:
        self._started = time.process_time()
        with suppress(OSError):  # so that a worker's second stage does not inherit the peak of its first
            Path("/proc/self/clear_refs").write_text("5")

    def cpu_seconds(self) -> float:
        return time.process_time() - self._started

    def peak_memory_bytes(self) -> int:
        """Largest resident size since the start; of the whole process's life where the kernel cannot say."""
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        except (OSError, StopIteration):
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
