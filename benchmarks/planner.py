"""The planner beside what happens: memory and time of pretraining at four sizes on this machine.

`python -m benchmarks.planner [SIZE ...]` trains each for some updates in a process of its own. Memory is the peak above
what Python, torch and its kernels take; time is planned with the peak measured here.
"""

import json
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from llama2_core.config import LoopConfig, OptimizerConfig
from llama2_core.footprint import Network, Setup, memory
from llama2_core.planning import Cluster, Workload, plan, training_flops
from llama2_core.presets import PRESETS

THREADS, SETTLED, COUNTED = 2, 3, 7
"""Updates before measuring, and measured."""


class Size(NamedTuple):
    rows: int
    tokens: int


SIZES = {"0.9M": Size(64, 128), "5M": Size(32, 256), "15M": Size(16, 256), "110M": Size(4, 512)}


def train(name: str) -> dict[str, float]:
    """Train one size; return bytes and seconds an update."""
    import torch  # noqa: PLC0415

    from llama2_core.model import Transformer, initialise  # noqa: PLC0415
    from llama2_core.training import telemetry  # noqa: PLC0415
    from llama2_core.training.loop import TrainState, train  # noqa: PLC0415
    from llama2_core.training.objectives import TokenBatch, next_token_objective  # noqa: PLC0415
    from llama2_core.training.optim import adamw  # noqa: PLC0415
    from tasks.process import Meter  # noqa: PLC0415

    torch.set_num_threads(THREADS)

    def state_of(config) -> TrainState:
        model = Transformer(config)
        initialise(model, config, torch.Generator().manual_seed(0))
        return TrainState(model, adamw(model, OptimizerConfig()))

    def batches(config, size: Size):
        tokens = torch.randint(config.vocab_size, (size.rows, size.tokens + 1))
        batch = TokenBatch(tokens, torch.ones_like(tokens[:, 1:], dtype=torch.bool))
        return lambda step: [batch]

    size, config = SIZES[name], PRESETS[name]
    loop = LoopConfig(steps=SETTLED + COUNTED, rows=size.rows, optimizer=OptimizerConfig())
    small = config.model_copy(
        update={"vocab_size": 64, "dim": 2 * config.n_heads, "n_layers": 1, "multiple_of": 8}
    )
    few = loop.model_copy(update={"steps": 2})
    for _ in train(state_of(small), next_token_objective, batches(small, Size(2, 8)), few):
        pass  # kernels are loaded and compiled
    peak = telemetry.measured_peak_flops(torch.device("cpu"), "float32")
    before, meter = telemetry.memory_bytes(), Meter()
    seconds, last = [], time.perf_counter()
    for _ in train(state_of(config), next_token_objective, batches(config, size), loop):
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
    used = meter.peak_memory_bytes() - before
    return {"bytes": used, "seconds": statistics.median(seconds[SETTLED:]), "peak_flops": peak}


def planned(name: str, peak_flops: float):
    size, network = SIZES[name], Network(config=PRESETS[name])
    setup = Setup(dtype="float32", row_tokens=size.tokens, micro_rows=size.rows)
    tokens = size.rows * size.tokens
    work = Workload(
        stage=name,
        networks=(network,),
        setup=setup,
        tokens=tokens,
        updates=1,
        flops=tokens * training_flops(network, size.tokens),
    )
    cluster = Cluster(
        memory_bytes=1 << 40,
        memory_bytes_per_second=2e10,
        dtype="float32",
        peak_flops=peak_flops,
        utilisation=0.5,
        power_watts=30,
        price_per_hour=0,
    )
    return plan(work, cluster), memory((network,), setup)


def main(names: list[str]) -> None:
    for name in names or SIZES:
        said = subprocess.run(
            [sys.executable, "-m", "benchmarks.planner", "--train", name],
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(said.stdout)
        plan_, parts = planned(name, found["peak_flops"])
        print(
            f"{name:5} memory {found['bytes'] / 1e6:8.1f} MB, planned {parts.total / 1e6:8.1f} "
            f"({parts.total / found['bytes']:.2f})   {found['seconds'] * 1e3:8.1f} ms an update, planned "
            f"{plan_.hours * 3.6e6:8.1f} ({plan_.hours * 3600 / found['seconds']:.2f}); "
            f"MFU {plan_.workload.flops / found['seconds'] / found['peak_flops']:.2f}",
            flush=True,
        )
        print("     ", {k: round(v / 1e6, 1) for k, v in parts.model_dump().items() if isinstance(v, int)})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        print(json.dumps(train(sys.argv[2])))
    else:
        main(sys.argv[1:])
