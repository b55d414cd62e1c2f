"""Training speed of our loop beside the transformers Trainer and litgpt: same shapes, rows and AdamW, in one run.

`python -m benchmarks.training [--sizes 0.9M 5M] [--precisions float32 bfloat16]`. Every contender runs in
a process of its own, eager and compiled, and they take turns, so that what else the machine does falls on all alike. A
round's ratio is our faster one to a peer's faster one. Last come the share of our steps that is spent outside forward,
backward and optimizer, and by how many steps a checkpoint delays the training.
"""

# ruff: noqa: PLC0415 (a contender's process imports what it needs, so that its peak is its own)

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama2_core.config import LoopConfig, MeshConfig, ModelConfig, OptimizerConfig, Precision
from llama2_core.presets import PRESETS

if TYPE_CHECKING:  # a child's peak begins with what its parent held, so the parent holds little
    from torch import Tensor

    from llama2_core.training.loop import Batches, Objective, TrainState

OPTIMIZER = OptimizerConfig(schedule="constant", warmup_steps=0)
WARM_UP = 3


@dataclass(frozen=True)
class Size:
    rows: int
    tokens: int
    steps: int
    """In a turn."""
    rounds: int


SIZES = {
    "0.9M": Size(rows=16, tokens=128, steps=20, rounds=7),
    "5M": Size(rows=16, tokens=256, steps=3, rounds=5),
    "15M": Size(rows=8, tokens=256, steps=2, rounds=5),
    "110M": Size(rows=2, tokens=512, steps=2, rounds=5),
}


@dataclass(frozen=True)
class Job:
    size: str
    precision: Precision
    compiled: bool
    threads: int

    @property
    def shape(self) -> Size:
        return SIZES[self.size]

    @property
    def config(self) -> ModelConfig:
        return PRESETS[self.size]

    @property
    def steps(self) -> int:
        return WARM_UP + self.shape.rounds * self.shape.steps


class Turns:
    """Called after every step of a contender: at the end of a turn it reports the seconds and waits for the next."""

    def __init__(self, job: Job, parent: Connection) -> None:
        self._steps, self._parent, self._left = job.shape.steps, parent, WARM_UP
        self._turns = job.shape.rounds + 1
        self._started = time.perf_counter()

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            self._parent.send((time.perf_counter() - self._started, peak))
            self._turns -= 1
            if self._turns:
                self._parent.recv()
            self._left, self._started = self._steps, time.perf_counter()


def rows(job: Job) -> "Tensor":
    """Return the tokens of every step, [steps, rows, tokens + 1]."""
    import torch

    shape = (job.steps, job.shape.rows, job.shape.tokens + 1)
    return torch.randint(job.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))


def run_of(job: Job) -> "tuple[TrainState, Objective, Batches, LoopConfig]":
    """Return what our loop takes."""
    import torch

    from llama2_core.model import Transformer, initialise
    from llama2_core.training.loop import TrainState
    from llama2_core.training.objectives import TokenBatch, next_token_objective
    from llama2_core.training.optim import adamw
    from llama2_core.training.parallel import arrange, autocasting
    from tasks.process import reuse_freed_memory

    reuse_freed_memory()  # as a worker does
    model = Transformer(job.config)
    initialise(model, job.config, torch.Generator().manual_seed(0))
    arrange(model, MeshConfig(), job.precision, compiled=job.compiled)
    tokens = rows(job)
    everything = torch.ones(job.shape.rows, job.shape.tokens, dtype=torch.bool)
    config = LoopConfig(steps=job.steps, rows=job.shape.rows, precision=job.precision, optimizer=OPTIMIZER)
    objective = autocasting(next_token_objective, job.precision)
    return (
        TrainState(model, adamw(model, OPTIMIZER)),
        objective,
        lambda step: [TokenBatch(tokens[step], everything)],
        config,
    )


def ours(job: Job, turn: Callable[[], None]) -> None:
    from llama2_core.training.loop import train

    for _ in train(*run_of(job)):
        turn()


def trainer_settings() -> dict[str, Any]:
    """Return what every trainer of the transformers family is told: our AdamW on a CPU, and nothing but training."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": True,
        "optim": "adamw_torch_fused",
        "learning_rate": OPTIMIZER.peak_learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta1": OPTIMIZER.beta1,
        "adam_beta2": OPTIMIZER.beta2,
        "adam_epsilon": OPTIMIZER.eps,
        "weight_decay": OPTIMIZER.weight_decay,
        "max_grad_norm": OPTIMIZER.clip_norm,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def trainer(job: Job, turn: Callable[[], None]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from llama2_core.interop.huggingface import llama_config

    class Turn(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            turn()

    arguments = TrainingArguments(
        max_steps=job.steps,
        per_device_train_batch_size=job.shape.rows,
        bf16=job.precision == "bfloat16",
        torch_compile=job.compiled,
        **trainer_settings(),
    )
    data = [{"input_ids": row, "labels": row} for row in rows(job)[..., :-1].flatten(0, 1)]
    model = LlamaForCausalLM(LlamaConfig(**llama_config(job.config), use_cache=False))
    Trainer(model, arguments, train_dataset=data, callbacks=[Turn()]).train()  # type: ignore


def litgpt(job: Job, turn: Callable[[], None]) -> None:
    """Its model and loss in the plainest of loops: its own adds Lightning's."""
    import torch
    from litgpt import GPT, Config  # type: ignore
    from litgpt.utils import chunked_cross_entropy  # type: ignore

    from llama2_core.training.optim import adamw

    shape = job.config
    model = GPT(
        Config(
            block_size=shape.max_seq_len,
            vocab_size=shape.vocab_size,
            padded_vocab_size=shape.vocab_size,
            n_layer=shape.n_layers,
            n_head=shape.n_heads,
            n_query_groups=shape.n_kv_heads,
            n_embd=shape.dim,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            norm_eps=shape.norm_eps,
            mlp_class_name="LLaMAMLP",
            intermediate_size=shape.ffn_dim,
        )
    )
    if shape.tied_embeddings:
        model.lm_head.weight = model.transformer.wte.weight
    optimizer = adamw(model, OPTIMIZER)
    run = torch.compile(model) if job.compiled else model
    cast = torch.autocast("cpu", torch.bfloat16) if job.precision == "bfloat16" else nullcontext()
    for tokens in rows(job):
        with cast:
            loss = chunked_cross_entropy(run(tokens[:, :-1]), tokens[:, 1:], chunk_size=0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        turn()


CONTENDERS = {"ours": ours, "Trainer": trainer, "litgpt": litgpt}


def contend(name: str, job: Job, parent: Connection) -> None:
    import torch

    torch.set_num_threads(job.threads)
    CONTENDERS[name](job, Turns(job, parent))


def spend_outside(job: Job, parent: Connection) -> None:
    """Send the share of our steps that is spent outside forward, backward and optimizer: batches, clipping, sums."""
    import torch

    from llama2_core.training.loop import train

    torch.set_num_threads(job.threads)
    seconds = 0.0

    def timed(function: Callable) -> Callable:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal seconds
            started = time.perf_counter()
            result = function(*arguments, **named)
            seconds += time.perf_counter() - started
            return result

        return call

    state, objective, batches, config = run_of(job)
    torch.Tensor.backward = timed(torch.Tensor.backward)
    state.optimizer.step = timed(state.optimizer.step)
    reports = train(state, timed(objective), batches, config)
    for _ in range(WARM_UP):
        next(reports)
    started, seconds = time.perf_counter(), 0.0
    for _ in reports:
        pass
    parent.send(1 - seconds / (time.perf_counter() - started))


def stall(job: Job, parent: Connection) -> None:
    """Send by how many of our steps a checkpoint delays training, all that is written beside it included."""
    import torch

    from llama2_core.training.loop import train
    from llama2_core.training.snapshots import Snapshots

    torch.set_num_threads(job.threads)
    state, objective, batches, config = run_of(job)
    reports, delays = train(state, objective, batches, config), []
    for _ in range(WARM_UP):
        next(reports)
    with tempfile.TemporaryDirectory() as folder:
        snapshots = Snapshots(Path(folder))
        snapshots.save(state, {})  # imports what it needs
        snapshots.wait()

        def seconds(saving: bool) -> float:
            started = time.perf_counter()
            if saving:
                snapshots.save(state, {})
            for _ in range(job.shape.steps):
                next(reports)
            snapshots.wait()
            return time.perf_counter() - started

        for _ in range(job.shape.rounds // 2):
            plain = seconds(saving=False)
            delays.append((seconds(saving=True) - plain) / plain * job.shape.steps)
    parent.send(statistics.median(delays))


@dataclass
class Result:
    name: str
    compiled: bool
    warm_up: float
    """Seconds of the first steps, compilation included."""
    speeds: list[float]
    """Tokens a second of each turn."""
    peak: int = 0
    """Bytes of the process."""

    @property
    def speed(self) -> float:
        return statistics.median(self.speeds)


def child(target: Callable, *arguments: Any) -> Connection:
    """Start a process that is told its end of a pipe as the last argument; return ours."""
    spawn = multiprocessing.get_context("spawn")
    ours, its = spawn.Pipe()
    spawn.Process(target=target, args=(*arguments, its), daemon=True).start()
    its.close()  # so that a dead child is noticed
    return ours


def compete(names: list[str], job: Job) -> list[Result]:
    """Let the contenders take turns, each eager and compiled, in processes that live as long as the contest."""
    results, pipes = [], []
    for name in names:
        for compiled in (False, True):
            pipe = child(contend, name, replace(job, compiled=compiled))
            results.append(Result(name, compiled, pipe.recv()[0], []))
            pipes.append(pipe)
    tokens = job.shape.rows * job.shape.tokens * job.shape.steps
    for _ in range(job.shape.rounds):
        for result, pipe in zip(results, pipes, strict=True):
            pipe.send("go")
            seconds, result.peak = pipe.recv()
            result.speeds.append(tokens / seconds)
    return results


def ratios(a: Result, b: Result) -> list[float]:
    return [one / other for one, other in zip(a.speeds, b.speeds, strict=True)]


def report(job: Job, results: list[Result]) -> None:
    best = {r.name: r for r in sorted(results, key=lambda r: r.speed)}  # the last of a name stays
    for result in results:
        kind = "compiled" if result.compiled else "eager"
        line = f"{job.size:5} {job.precision:9} {result.name:8} {kind:9}{result.speed:9.0f} tokens/s"
        line += f" ({min(result.speeds):.0f} to {max(result.speeds):.0f}){result.peak / 2**20:7.0f} MiB"
        line += f", first {WARM_UP} steps {result.warm_up:.1f} s"
        if result is best[result.name] and result.name != "ours":
            found = ratios(best["ours"], result)
            line += f", ours {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    names = [name for name in chosen.contenders if name != "litgpt" or find_spec(name)]
    if names != chosen.contenders:
        print("litgpt: not installed")
    for size in chosen.sizes:
        for precision in chosen.precisions:
            job = Job(size, precision, False, chosen.threads)
            report(job, compete(names, job))
            share = child(spend_outside, job).recv()
            print(
                f"{size:5} {precision:9} ours outside forward, backward and optimizer: {share:.1%}",
                flush=True,
            )
            delay = child(stall, job).recv()
            print(f"{size:5} {precision:9} ours delayed {delay:.1f} steps by a checkpoint", flush=True)


if __name__ == "__main__":
    main()
