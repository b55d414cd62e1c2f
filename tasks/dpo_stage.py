"""What the worker does in direct preference optimization (arXiv 2305.18290)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llama2_core.data.sampler import bucketed_indices, rank_share
from llama2_core.errors import DataError
from llama2_core.model import Transformer
from llama2_core.rlhf.dpo import AnswerBatch, answer_batch, answer_logprobs, dpo_objective
from llama2_core.rlhf.pairs import Pair
from llama2_core.tokenizer import Tokenizer
from llama2_core.training import checkpoint, distributed, parallel
from llama2_core.training.loop import moved
from tasks.dpo_recipe import DPORecipe
from tasks.fit import Examples, Training, fit
from tasks.stage import Fill, Stage, empty, training_summary
from tasks.tables import read_comparisons
from tasks.training_stages import adapted, digest_of_rows, epochs_loop, save_policy


class Comparisons:
    """Pairs, and what the reference says of their answers once it was asked."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs
        self.lengths = np.array([max(len(pair.chosen), len(pair.rejected)) for pair in pairs], dtype=int)
        self.reference = torch.zeros(len(pairs), 2)

    def collate(self, rows: np.ndarray) -> AnswerBatch:
        return answer_batch([self.pairs[row] for row in rows], self.reference[rows])

    def examples(self) -> Examples:
        return Examples(len(self.pairs), self.collate)

    @torch.no_grad()
    def ask(self, reference: Any, logprobs: Callable[[Any, Any], Tensor], stage: Stage) -> None:
        """Have a model, whole or sharded, say each answer's log-probability; all ranks call, and know all of them."""
        rank, ranks = parallel.data_share(stage.execution.mesh)
        order, found = np.argsort(self.lengths, kind="stable"), torch.zeros_like(self.reference)
        step = stage.execution.micro_rows * ranks
        for start in range(0, len(order), step):
            rows = order[start : start + step]
            own = rank_share(rows, rank, ranks)
            batch = self.collate(own if len(own) else rows[:1])  # sharded, all must bring a batch
            said = logprobs(reference, moved(batch, distributed.device())).view(2, -1).t().cpu()
            found[own] = said[: len(own)]
        distributed.reshard(reference)
        self.reference = distributed.sum_across_ranks(found) / stage.execution.mesh.tensor


def dpo(stage: Stage) -> dict:
    """Move the chat model towards chosen and away from rejected answers, and test it on held-out comparisons."""
    recipe, chat = DPORecipe.model_validate(stage.recipe), stage.parents["chat"]
    config, tokenizer = checkpoint.load_config(chat), Tokenizer.load(chat / "tokenizer.model")
    sources = [path for role, path in sorted(stage.parents.items()) if role.startswith("comparisons")]
    learned, held_out = (
        Comparisons([*rows["helpfulness"], *rows["safety"]])
        for rows in read_comparisons(sources, tokenizer, config.max_seq_len)
    )
    if not learned.pairs:
        raise DataError("there is no comparison to train on")
    loop = epochs_loop(len(learned.pairs), recipe)
    logprobs = parallel.autocasting(answer_logprobs, recipe.precision)

    def begin(reference: Transformer) -> None:
        for comparisons in (learned, held_out):
            comparisons.ask(reference.eval(), logprobs, stage)

    training = Training(
        objective=dpo_objective(recipe.beta),
        examples=learned.examples(),
        order=lambda step: bucketed_indices(learned.lengths, loop.rows, stage.seed, step, loop.steps),
        loop=loop,
        row_tokens=config.max_seq_len,
        held_out=held_out.examples() if held_out.pairs else None,
        learned_from={
            "tokenizer": tokenizer.digest,
            "comparisons": digest_of_rows((pair.chosen, pair.rejected) for pair in learned.pairs),
        },
        begin=begin,
    )
    fill: Fill = partial(checkpoint.fill_policy, directory=chat)
    model = empty(Transformer, config)
    if recipe.lora:
        fill = adapted(model, recipe.lora, fill, stage.seed)
    state = fit(stage, model, fill, training)
    save_policy(stage.directory, chat, model, tokenizer, recipe.lora)
    counts = {"pairs": len(learned.pairs), "held_out_pairs": len(held_out.pairs), "steps": state.step}
    return training_summary(stage) | counts
