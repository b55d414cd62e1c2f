"""Training speed of our Transformer beside transformers' Llama, same shapes, same optimizer, in turns.

`python -m benchmarks.training` prints the median tokens a second of each and their ratio. Run it on an idle machine.
"""

import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llama2_core.config import OptimizerConfig
from llama2_core.interop.huggingface import llama_config
from llama2_core.model import Transformer, initialise
from llama2_core.presets import TINY_0_9M
from llama2_core.training.loop import TrainState, optimizer_step
from llama2_core.training.objectives import TokenBatch, next_token_objective
from llama2_core.training.optim import adamw

ROWS, STEPS, ROUNDS, THREADS = 16, 20, 5, 2


def ours() -> TrainState:
    model = Transformer(TINY_0_9M)
    initialise(model, TINY_0_9M, torch.Generator().manual_seed(0))
    return TrainState(model, adamw(model, OptimizerConfig()))


def theirs() -> tuple[LlamaForCausalLM, torch.optim.Optimizer]:
    model = LlamaForCausalLM(LlamaConfig(**llama_config(TINY_0_9M)))
    return model, adamw(model, OptimizerConfig())


def main() -> None:
    torch.set_num_threads(THREADS)
    tokens = torch.randint(TINY_0_9M.vocab_size, (ROWS, TINY_0_9M.max_seq_len + 1))
    batch = TokenBatch(tokens, torch.ones_like(tokens[:, 1:], dtype=torch.bool))
    state, (model, optimizer) = ours(), theirs()

    def our_step() -> None:
        optimizer_step(state, next_token_objective, [batch], OptimizerConfig(), 1000)

    def their_step() -> None:
        inputs = tokens[:, :-1]
        model(input_ids=inputs, labels=inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    speeds: dict[str, list[float]] = {"llama2-pipeline": [], "transformers": []}
    for step in (our_step, their_step):
        for _ in range(5):
            step()
    for _ in range(ROUNDS):
        for name, step in zip(speeds, (our_step, their_step), strict=True):
            started = time.perf_counter()
            for _ in range(STEPS):
                step()
            speeds[name].append(STEPS * ROWS * TINY_0_9M.max_seq_len / (time.perf_counter() - started))
    for name, values in speeds.items():
        print(
            f"{name:16} {statistics.median(values):8.0f} tokens/s  ({min(values):.0f} to {max(values):.0f})"
        )
    ratios = [a / b for a, b in zip(*speeds.values(), strict=True)]
    print(f"ratio {statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
