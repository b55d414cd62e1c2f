"""What a run uses: tokens a second, share of the machine's measured peak (MFU), waiting for data, memory."""

import math
import resource
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from llama2_core.config import Precision
from llama2_core.linear import product
from llama2_core.training import distributed

SIDE, VECTOR, TRIAL_SECONDS = 1024, 2**24, 0.25
"""Of the square matrices whose product measures the peak, and of the vectors whose sum measures the bandwidth; more on
a GPU. The best trial counts."""


class Speedometer:
    """Measures between two metric rows."""

    def __init__(
        self, flops_per_token: float, precision: Precision, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._flops_per_token, self._clock = flops_per_token, clock
        self._peak = measured_peak_flops(distributed.device(), precision) * distributed.world_size()
        memory_bytes()  # without what the measuring of the peak took
        self._reset()

    def _reset(self) -> None:
        self._started, self._tokens, self._waited = self._clock(), 0, 0.0

    def add(self, tokens: int, data_seconds: float) -> None:
        """Count one update: tokens of all ranks, and how long this one waited for them."""
        self._tokens += tokens
        self._waited += data_seconds

    def row(self) -> dict[str, float]:
        """Return what was measured since the last call."""
        seconds = self._clock() - self._started
        speed = self._tokens / seconds
        flops = speed * self._flops_per_token
        self._peak = max(self._peak, flops)  # it was measured while something else ran
        row = {
            "tokens_per_second": speed,
            "model_flops_utilisation": flops / self._peak,
            "data_wait_share": self._waited / seconds,
            "memory_bytes": float(memory_bytes()),
        }
        self._reset()
        return row


@lru_cache
def measured_peak_flops(device: torch.device, precision: Precision) -> float:
    """Return the FLOPs a second of a large matrix product, with as many threads as are set now."""
    side = SIDE * (8 if device.type == "cuda" else 1)
    own = torch.Generator(device)  # the run's own generator is not to be moved on
    a, b = torch.rand(2, side, side, generator=own, device=device, dtype=getattr(torch, precision))
    product(a, b)  # threads and libraries start
    return 2 * side**3 / _best_seconds(lambda: product(a, b), device)


@lru_cache
def measured_bandwidth(device: torch.device) -> float:
    """Return the bytes a second that adding two vectors moves, their sum into new memory, as most of training does."""
    count = VECTOR * (16 if device.type == "cuda" else 1)
    own = torch.Generator(device)
    a, b = torch.rand(2, count, generator=own, device=device)
    return 3 * 4 * count / _best_seconds(lambda: a + b, device)


def _best_seconds(work: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Return how long the best of some trials took."""
    best, until = math.inf, time.perf_counter() + TRIAL_SECONDS
    while time.perf_counter() < until or math.isinf(best):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


def memory_bytes() -> int:
    """Return the most GPU memory that this process held since the last call; without a GPU its resident size now."""
    if torch.cuda.is_available():
        most = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return most
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
