"""Multiple choice by likelihood. Llama 2 section 2.3 follows Llama 1: the likeliest completion, length-normalised."""

from collections.abc import Sequence

import torch

from llama2_core.generate import pad_right
from llama2_core.model import Transformer
from llama2_core.rlhf.rollout import token_logprobs


@torch.inference_mode()
def completion_logprobs(
    model: Transformer, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], batch_rows: int = 128
) -> list[float]:
    """Return the summed log-probability in nats of each completion after its context (both as tokens)."""
    order = sorted(range(len(pairs)), key=lambda index: sum(map(len, pairs[index])))
    sums = [0.0] * len(pairs)
    for start in range(0, len(order), batch_rows):
        chunk = order[start : start + batch_rows]
        tokens = pad_right([[*pairs[index][0], *pairs[index][1]] for index in chunk])
        logprobs = token_logprobs(model, tokens)
        for row, index in enumerate(chunk):
            context, completion = pairs[index]
            first = len(context) - 1
            sums[index] = float(logprobs[row, first : first + len(completion)].sum())
    return sums


def best_choice(logprobs: Sequence[float], lengths: Sequence[int]) -> int:
    """Return the index of the highest log-probability a unit of length."""
    normalised = [value / length for value, length in zip(logprobs, lengths, strict=True)]
    return max(range(len(normalised)), key=normalised.__getitem__)
