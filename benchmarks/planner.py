"""The planner beside what happens: memory and time of pretraining at four sizes on this machine.

`python -m benchmarks.planner` trains each for some updates in a process of its own. Memory is the peak above what
Python, torch and its kernels take; time is planned with the peak and the bandwidth measured beside it.
"""

import json
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from llama2_core.config import LoopConfig, OptimizerConfig
from llama2_core.footprint import Network, Setup
from llama2_core.planning import (
    MEASURED_UTILISATION,
    Cluster,
    PeakFlops,
    Plan,
    Workload,
    plan,
    training_flops,
)
from llama2_core.presets import PRESETS

THREADS, SETTLED, COUNTED = 2, 3, 7
"""Updates before measuring, and measured."""


class Size(NamedTuple):
    preset: str
    rows: int
    tokens: int
    micro_batches: int = 1


SIZES = [Size("0.9M", 64, 128), Size("5M", 32, 256), Size("15M", 16, 256), Size("110M", 4, 512)]
OTHERS = [Size("0.9M", 16, 128), Size("5M", 16, 128), Size("15M", 32, 128, 4), Size("110M", 2, 256, 2)]
"""Nothing of the planner was fitted to these."""


def train(size: Size) -> dict[str, float]:
    """Train one size; return bytes and seconds an update."""
    import torch  # noqa: PLC0415

    from llama2_core.model import Transformer, initialise  # noqa: PLC0415
    from llama2_core.training import telemetry  # noqa: PLC0415
    from llama2_core.training.loop import TrainState, train  # noqa: PLC0415
    from llama2_core.training.objectives import TokenBatch, next_token_objective  # noqa: PLC0415
    from llama2_core.training.optim import adamw  # noqa: PLC0415
    from tasks.process import Meter, release_freed_memory, reuse_freed_memory  # noqa: PLC0415

    torch.set_num_threads(THREADS)
    peak = telemetry.measured_peak_flops(torch.device("cpu"), "float32")
    bandwidth = telemetry.measured_bandwidth(torch.device("cpu"))
    reuse_freed_memory()  # as a worker does

    def state_of(config) -> TrainState:
        model = Transformer(config)
        initialise(model, config, torch.Generator().manual_seed(0))
        return TrainState(model, adamw(model, OptimizerConfig()))

    def batches(config, size: Size):
        tokens = torch.randint(config.vocab_size, (size.rows // size.micro_batches, size.tokens + 1))
        batch = TokenBatch(tokens, torch.ones_like(tokens[:, 1:], dtype=torch.bool))
        return lambda step: [batch] * size.micro_batches

    config = PRESETS[size.preset]
    loop = LoopConfig(steps=SETTLED + COUNTED, rows=size.rows, optimizer=OptimizerConfig())
    small = config.model_copy(
        update={"vocab_size": 64, "dim": 2 * config.n_heads, "n_layers": 1, "multiple_of": 8}
    )
    few = loop.model_copy(update={"steps": 2})
    for _ in train(state_of(small), next_token_objective, batches(small, Size("", 2, 8)), few):
        pass  # kernels are loaded and compiled
    release_freed_memory()
    before, meter = telemetry.memory_bytes(), Meter()
    seconds, last = [], time.perf_counter()
    for _ in train(state_of(config), next_token_objective, batches(config, size), loop):
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
    used = meter.peak_memory_bytes() - before
    seconds = statistics.median(seconds[SETTLED:])
    return {"bytes": used, "seconds": seconds, "peak_flops": peak, "bandwidth": bandwidth}


def planned(size: Size, found: dict[str, float]) -> Plan:
    network = Network(config=PRESETS[size.preset])
    setup = Setup(
        precision="float32",
        device="cpu",
        row_tokens=size.tokens,
        micro_rows=size.rows // size.micro_batches,
        micro_batches=size.micro_batches,
    )
    tokens = size.rows * size.tokens
    work = Workload(
        stage=size.preset,
        networks=(network,),
        setup=setup,
        tokens=tokens,
        updates=1,
        flops=tokens * training_flops(network, size.tokens),
    )
    cluster = Cluster(
        device="cpu",
        memory_bytes=1 << 40,
        memory_bytes_per_second=found["bandwidth"],
        peak_flops=PeakFlops(float32=found["peak_flops"], bfloat16=1),
        utilisation=MEASURED_UTILISATION,
        power_watts=30,
        price_per_hour=0,
    )
    return plan(work, cluster)


def main() -> None:
    for size in [*SIZES, *OTHERS]:
        said = subprocess.run(
            [sys.executable, "-m", "benchmarks.planner", json.dumps(size)],
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(said.stdout)
        made = planned(size, found)
        seconds, total = made.hours * 3600, made.memory.total
        print(
            f"{size.preset:5} {size.rows} x {size.tokens} in {size.micro_batches}: "
            f"memory {found['bytes'] / 1e6:.0f} MB, planned {total / found['bytes']:.2f} of it; "
            f"{found['seconds'] * 1e3:.0f} ms an update, planned {seconds / found['seconds']:.2f} of it "
            f"(of products {made.workload.flops / found['peak_flops'] / found['seconds']:.2f}); "
            f"peak {found['peak_flops'] / 1e9:.0f} GFLOP/s, {found['bandwidth'] / 1e9:.1f} GB/s",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(train(Size(*json.loads(sys.argv[1])))))
    else:
        main()
