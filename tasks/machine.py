"""This machine as a cluster, measured: what runs are planned for where no other is named.

`python -m tasks.machine THREADS` measures, in a process of its own: torch stays out of the one that runs flows.
"""

import os
import socket
import subprocess
import sys

from llama2_core.config import Positive, PositiveFloat, Record
from llama2_core.footprint import Device
from llama2_core.planning import MEASURED_UTILISATION, Cluster, PeakFlops
from storage.disk import atomic_write
from tasks.runtime import Runtime

CONTEXT = 0.05
"""Of a GPU's memory, what is never ours."""


class Speeds(Record):
    """Of one process: a GPU, or some cores."""

    device: Device
    memory_bytes: Positive
    memory_bytes_per_second: PositiveFloat
    peak_flops: PeakFlops


def this_machine(runtime: Runtime, anew: bool = False) -> Cluster:
    """Return it as it was measured below `home`, or is now."""
    path = runtime.home / "machines" / f"{socket.gethostname()}-{runtime.threads}-threads.json"
    if anew or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, _measured_apart(runtime.threads))
    speeds = Speeds.model_validate_json(path.read_bytes())
    on_gpu = speeds.device == "cuda"
    watts = runtime.watts_per_accelerator if on_gpu else runtime.watts_per_core * runtime.threads
    return Cluster(
        accelerators=runtime.processes * runtime.nodes,
        memory_shared_by=1 if on_gpu else runtime.processes,
        utilisation=MEASURED_UTILISATION,
        power_watts=watts or 1e-9,
        pue=runtime.pue,
        price_per_hour=0,
        kg_co2_per_kwh=runtime.kg_co2_per_kwh,
        **dict(speeds),
    )


def _measured_apart(threads: int) -> bytes:
    """Return what `measure` says in a process of its own, as JSON."""
    command = [sys.executable, "-m", "tasks.machine", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment).stdout


def measure(threads: int) -> Speeds:
    """Return what the GPU, or so many threads, reach; it takes a second."""
    import torch  # noqa: PLC0415

    from llama2_core.training import distributed  # noqa: PLC0415
    from llama2_core.training.telemetry import measured_bandwidth, measured_peak_flops  # noqa: PLC0415

    torch.set_num_threads(threads)
    device = distributed.device()
    on_gpu = device.type == "cuda"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if on_gpu:
        memory = round(torch.cuda.get_device_properties(device).total_memory * (1 - CONTEXT))
    return Speeds(
        device="cuda" if on_gpu else "cpu",
        memory_bytes=memory,
        memory_bytes_per_second=measured_bandwidth(device),
        peak_flops=PeakFlops(
            float32=measured_peak_flops(device, "float32"), bfloat16=measured_peak_flops(device, "bfloat16")
        ),
    )


if __name__ == "__main__":
    print(measure(int(sys.argv[1])).model_dump_json())
