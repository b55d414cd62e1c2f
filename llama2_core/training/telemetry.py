"""What a run uses: tokens a second, share of the machine's measured peak (MFU), waiting for data, memory."""

import resource
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from llama2_core.config import Precision
from llama2_core.training import distributed

SIDE, TRIAL_SECONDS = 1024, 0.1
"""Of the square matrices whose product measures the peak, eight times that on a GPU; the best trial counts."""


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
    _seconds(a, b)  # threads and libraries start
    best, until = _seconds(a, b), time.perf_counter() + TRIAL_SECONDS
    while time.perf_counter() < until:
        best = min(best, _seconds(a, b))
    return 2 * side**3 / best


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return how long a product takes."""
    started = time.perf_counter()
    torch.mm(a, b)
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - started


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
