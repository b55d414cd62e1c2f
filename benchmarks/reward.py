"""Training speed of our reward models beside TRL's RewardTrainer: same weights, pairs, AdamW and epoch, in one run.

`python -m benchmarks.reward [--size 5M] [--precisions float32 bfloat16] [--threads 2]`. The pairs are hh-rlhf's
harmless ones (../shared/data), tokenized as Llama 2's, at most 256 tokens. Both learn the same pairs, 32 an
update, each in the order and the batches of its own; TRL runs with its 8 pairs a forward pass and with all 32 (its
grouping by length refuses pairs). Contenders have processes of their own and take turns;
a ratio is of turns of one round.
"""

# ruff: noqa: PLC0415 (a contender's process imports what it needs, so that its peak is its own)

import argparse
import gzip
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.training import OPTIMIZER, WARM_UP, Result, Size, Turns, child, ratios, trainer_settings
from llama2_core.config import LoopConfig, MeshConfig, ModelConfig, Precision, RewardConfig
from llama2_core.presets import PRESETS
from llama2_core.rlhf.pairs import Pair

DATA = Path(__file__).parents[2] / "shared" / "data"
PAIRS = DATA / "hh_rlhf" / "harmless-base_test.jsonl.gz"
TOKENIZER = DATA / "llama2_tokenizer" / "tokenizer.model"
ROWS, STEPS, ROUNDS = 32, 8, 3
"""Pairs an update; updates a turn, as many as our batches are sorted by length over; turns."""
PASS_ROWS = 8
"""Pairs that go through the model together."""


@dataclass(frozen=True)
class Job:
    size: str
    precision: Precision
    threads: int

    @property
    def shape(self) -> Size:
        return Size(rows=ROWS, tokens=self.config.max_seq_len, steps=STEPS, rounds=ROUNDS)

    @property
    def config(self) -> ModelConfig:
        return PRESETS[self.size].model_copy(update={"vocab_size": 32000, "max_seq_len": 256})

    @property
    def steps(self) -> int:
        return WARM_UP + ROUNDS * STEPS


def pairs(job: Job) -> list[Pair]:
    """Return as many pairs as are learned from, none longer than the context."""
    from llama2_core.tokenizer import Tokenizer

    tokenizer, limit = Tokenizer.load(TOKENIZER), job.config.max_seq_len
    found = []
    with gzip.open(PAIRS, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            chosen, rejected = (
                tokenizer.encode(row[side], bos=True, eos=True) for side in ("chosen", "rejected")
            )
            if max(len(chosen), len(rejected)) <= limit:
                found.append(Pair(chosen, rejected, "better", True, True, 1))
    return found[: 40 * ROWS]


def ours(job: Job, turn: Callable[[], None]) -> None:
    import numpy as np
    import torch

    from llama2_core.data.sampler import bucketed_indices
    from llama2_core.model import ScalarModel, initialise
    from llama2_core.rlhf.reward import pair_batch, reward_objective
    from llama2_core.training.loop import TrainState, train
    from llama2_core.training.optim import adamw
    from llama2_core.training.parallel import arrange, autocasting
    from tasks.fit import split
    from tasks.process import reuse_freed_memory

    reuse_freed_memory()  # as a worker does
    model, learned = ScalarModel(job.config), pairs(job)
    initialise(model, job.config, torch.Generator().manual_seed(0))
    arrange(model, MeshConfig(), job.precision)
    lengths = np.array([max(len(pair.chosen), len(pair.rejected)) for pair in learned])
    config = LoopConfig(steps=job.steps, rows=ROWS, precision=job.precision, optimizer=OPTIMIZER)
    objective = autocasting(reward_objective(RewardConfig(margin="none")), job.precision)

    def batches(step: int) -> list[Any]:
        rows = bucketed_indices(lengths, ROWS, 0, step, job.steps)
        parts = split(np.array(rows), PASS_ROWS)
        return [pair_batch([learned[row] for row in part], "none") for part in parts]

    for _ in train(TrainState(model, adamw(model, OPTIMIZER)), objective, batches, config):
        turn()


def trl(job: Job, turn: Callable[[], None], pass_rows: int) -> None:
    from datasets import Dataset
    from transformers import (
        LlamaConfig,
        LlamaForSequenceClassification,
        PreTrainedTokenizerFast,
        TrainerCallback,
    )
    from trl import RewardConfig as Settings
    from trl import RewardTrainer

    from llama2_core.interop.huggingface import llama_config

    class Turn(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            turn()

    learned = pairs(job)
    arguments = Settings(
        max_steps=job.steps,
        per_device_train_batch_size=pass_rows,
        gradient_accumulation_steps=ROWS // pass_rows,
        max_length=job.config.max_seq_len,
        gradient_checkpointing=False,
        bf16=job.precision == "bfloat16",
        **trainer_settings(),
    )
    rows = [{"chosen_ids": list(pair.chosen), "rejected_ids": list(pair.rejected)} for pair in learned]
    from tokenizers import Tokenizer as Words
    from tokenizers.models import WordLevel

    words = PreTrainedTokenizerFast(  # the pairs are tokenized: it is asked for nothing but the padding
        tokenizer_object=Words(WordLevel({"<unk>": 0, "</s>": 2}, unk_token="<unk>")),
        pad_token="<unk>",
        eos_token="</s>",
    )
    config = LlamaConfig(**llama_config(job.config), use_cache=False, num_labels=1)
    config.pad_token_id = 0
    model = LlamaForSequenceClassification(config)
    RewardTrainer(
        model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=words,
        callbacks=[Turn()],
    ).train()


CONTENDERS: dict[str, Callable[[Job, Callable[[], None]], None]] = {
    "ours": ours,
    f"TRL, {PASS_ROWS}": partial(trl, pass_rows=PASS_ROWS),
    f"TRL, {ROWS}": partial(trl, pass_rows=ROWS),
}


def contend(name: str, job: Job, parent: Connection) -> None:
    import torch

    torch.set_num_threads(job.threads)
    CONTENDERS[name](job, Turns(job, parent))  # type: ignore[arg-type]


def compete(job: Job) -> list[Result]:
    """Let all take turns; speeds are pairs a second."""
    results, pipes = [], []
    for name in CONTENDERS:
        pipe = child(contend, name, job)
        results.append(Result(name, False, pipe.recv()[0], []))
        pipes.append(pipe)
    for _ in range(ROUNDS):
        for result, pipe in zip(results, pipes, strict=True):
            pipe.send("go")
            seconds, result.peak = pipe.recv()
            result.speeds.append(ROWS * STEPS / seconds)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("0.9M", "5M", "15M"), default="5M")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    if not PAIRS.exists():
        raise SystemExit(f"{PAIRS} is not there: the benchmark needs hh-rlhf's pairs")
    for precision in chosen.precisions:
        mine, *others = compete(Job(chosen.size, precision, chosen.threads))
        for result in (mine, *others):
            line = f"{precision:9} {result.name:13}{result.speed:8.1f} pairs/s ({min(result.speeds):.1f} to "
            line += f"{max(result.speeds):.1f}){result.peak / 2**20:7.0f} MiB"
            if result is not mine:
                found = ratios(mine, result)
                line += f", ours {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
            print(line, flush=True)


if __name__ == "__main__":
    main()
