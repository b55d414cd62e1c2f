"""Model FLOPs utilisation on one GPU: our loop beside the plain transformers model, both compiled, bfloat16.

`python -m benchmarks.gpu_training [110M 1.1B]` trains on rows of 4,096 tokens and prints tokens a second, memory, and
FLOPs (6 N + 12 L D T a token) as a share of the data sheet's peak and of a large matrix product's, measured here. It
needs llama2_core, and transformers for the peer.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from llama2_core.config import LoopConfig, MeshConfig, ModelConfig, OptimizerConfig
from llama2_core.footprint import Network
from llama2_core.model import Transformer, initialise
from llama2_core.planning import training_flops
from llama2_core.presets import PRESETS
from llama2_core.training import parallel
from llama2_core.training.loop import TrainState, train
from llama2_core.training.objectives import TokenBatch, next_token_objective
from llama2_core.training.optim import adamw
from llama2_core.training.telemetry import measured_peak_flops

TOKENS, SETTLED, COUNTED = 4096, 8, 20
ROWS = {"110M": 16, "1.1B": 8}
DATA_SHEET = {"H100": 989.5e12, "H200": 989.5e12, "A100": 312e12}
"""bfloat16 FLOPs a second, dense."""
DEVICE = torch.device("cuda")
OPTIMIZER = OptimizerConfig(peak_learning_rate=1e-4, warmup_steps=10)
Run = Callable[[ModelConfig, torch.Tensor], list[float]]


def ours(config: ModelConfig, tokens: torch.Tensor) -> list[float]:
    """Return the seconds of each update."""
    model = Transformer(config).to(DEVICE)
    initialise(model, config, torch.Generator().manual_seed(0))
    parallel.arrange(model, MeshConfig(), "bfloat16", compiled=True)
    state = TrainState(model, adamw(model, OPTIMIZER))
    batch = TokenBatch(tokens, torch.ones_like(tokens[:, 1:], dtype=torch.bool))
    loop = LoopConfig(steps=SETTLED + COUNTED, rows=len(tokens), precision="bfloat16", optimizer=OPTIMIZER)
    objective = parallel.autocasting(next_token_objective, "bfloat16")
    seconds, last = [], time.perf_counter()
    for _ in train(state, objective, lambda step: [batch], loop):
        seconds.append(time.perf_counter() - last)
        last += seconds[-1]
    return seconds


def transformers_model(config: ModelConfig, tokens: torch.Tensor) -> list[float]:
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    from llama2_core.interop.huggingface import llama_config  # noqa: PLC0415

    theirs = LlamaForCausalLM(LlamaConfig(**llama_config(config), attn_implementation="sdpa")).to(DEVICE)
    optimizer, compiled = adamw(theirs, OPTIMIZER), torch.compile(theirs)
    seconds, last = [], time.perf_counter()
    for _ in range(SETTLED + COUNTED):
        with torch.autocast("cuda", torch.bfloat16):
            loss = compiled(input_ids=tokens[:, :-1], labels=tokens[:, :-1]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), OPTIMIZER.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        seconds.append(time.perf_counter() - last)
        last += seconds[-1]
    return seconds


def measure(name: str, size: str, run: Run) -> None:
    config = PRESETS[size].model_copy(update={"max_seq_len": TOKENS})
    draws = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (ROWS[size], TOKENS + 1), generator=draws).to(DEVICE)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(run(config, tokens)[SETTLED:])
    speed = ROWS[size] * TOKENS / seconds
    flops = speed * training_flops(Network(config=config), TOKENS)
    card = torch.cuda.get_device_name()
    sheet = next((peak for key, peak in DATA_SHEET.items() if key in card), None)
    print(
        f"{size:5} {name:16} {speed:10,.0f} tokens/s, {torch.cuda.max_memory_allocated() / 1e9:5.1f} GB; MFU "
        + (f"{flops / sheet:.1%} of the data sheet, " if sheet else "")
        + f"{flops / measured_peak_flops(DEVICE, 'bfloat16'):.1%} of the measured peak ({card})",
        flush=True,
    )


def main(sizes: list[str]) -> None:
    for size in sizes or ROWS:
        measure("llama2-pipeline", size, ours)
        measure("transformers", size, transformers_model)


if __name__ == "__main__":
    main(sys.argv[1:])
