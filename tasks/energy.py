"""Electricity and carbon of a stage: from the machine's counters by codecarbon, else by Llama 2's formula.

Of codecarbon only the readers of counters are used: its trackers also guess what no counter measures, ask the
network where they are, and write files.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from llama2_core.config import NaturalFloat, Record
from llama2_core.planning import kwh
from tasks.runtime import Runtime

POWERCAP = Path("/sys/class/powercap/intel-rapl/subsystem")
READ_SECONDS = 5.0
"""Between two readings: RAPL's counters overflow within minutes on a large processor."""
PROCESSOR, ACCELERATORS = "RAPL", "NVML"


class Energy(Record):
    """What a stage took, under the names that its manifest has."""

    energy_kwh: NaturalFloat
    kg_co2: NaturalFloat
    energy_method: str
    """What of it was measured, and what estimated."""


class Counters:
    """Counts, while it is entered, the electricity of all that runs on the machine; kWh by counter."""

    def __init__(self, gpus: int, powercap: Path = POWERCAP) -> None:
        self._hardware = dict(readable(gpus, powercap))
        self._left, self._reader = threading.Event(), threading.Thread(target=self._follow, daemon=True)
        self.kwh = dict.fromkeys(self._hardware, 0.0)

    def __enter__(self) -> Self:
        for hardware in self._hardware.values():
            hardware.start()
        self._read_at = time.perf_counter()
        if self._hardware:
            self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        if self._hardware:
            self._reader.join()
            self._read()

    def _follow(self) -> None:
        while not self._left.wait(READ_SECONDS):
            self._read()

    def _read(self) -> None:
        now = time.perf_counter()
        for name, hardware in self._hardware.items():
            self.kwh[name] += hardware.measure_power_and_energy(now - self._read_at)[1].kWh
        self._read_at = now


def readable(gpus: int, powercap: Path) -> Iterator[tuple[str, Any]]:
    """Yield the counters that can be read here: of the processor, and of as many GPUs as a stage has processes."""
    if not find_spec("codecarbon"):
        return
    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    from codecarbon.core.cpu import is_rapl_available  # noqa: PLC0415  (an extra)
    from codecarbon.core.gpu import PYNVML_AVAILABLE  # noqa: PLC0415
    from codecarbon.external.hardware import CPU, GPU  # noqa: PLC0415

    if is_rapl_available(str(powercap)):
        yield PROCESSOR, CPU("", "intel_rapl", "", 0, str(powercap))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
    if visible and PYNVML_AVAILABLE:
        found = GPU.from_utils(visible.split(",")[:gpus])
        if len(found.gpu_ids or ()) == gpus:
            yield ACCELERATORS, found


def account(
    counted: Mapping[str, float], wall_seconds: float, cpu_seconds: float, accelerators: int, runtime: Runtime
) -> Energy:
    """Return what a stage took: what was counted and, for what it ran on if that was not, hours x power.

    The formula is Llama 2's (section 2.2.1): hours of accelerators, or of a processor's cores, at an assumed power.
    Several machines are estimated: one's counters do not know of the others.
    """
    known = {name: value for name, value in counted.items() if value > 0 and runtime.nodes == 1}
    if not accelerators:
        known.pop(ACCELERATORS, None)
    parts = {f"{name} by codecarbon": value * runtime.pue for name, value in known.items()}
    if accelerators and ACCELERATORS not in known:
        hours, watts = accelerators * wall_seconds / 3600, runtime.watts_per_accelerator
        parts[f"hours of accelerators x {watts:g} W"] = kwh(hours, watts, runtime.pue)
    if not accelerators and PROCESSOR not in known:
        watts = runtime.watts_per_core
        parts[f"hours of cores x {watts:g} W"] = kwh(cpu_seconds / 3600, watts, runtime.pue)
    total = sum(parts.values())
    return Energy(
        energy_kwh=total, kg_co2=total * runtime.kg_co2_per_kwh, energy_method=" + ".join(sorted(parts))
    )
