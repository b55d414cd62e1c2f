"""Multiple choice by likelihood. Llama 2 section 2.3 follows Llama 1: the likeliest completion, length-normalised.

Shapes: B rows, T tokens, N predictions, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from llama2_core.cache import KVCache, TreeCache
from llama2_core.evaluation.prefixes import Row, Tree, batches, groups, tree
from llama2_core.generate import pad_right
from llama2_core.model import Transformer
from llama2_core.rlhf.rollout import token_logprobs

Pair = tuple[Sequence[int], Sequence[int]]
"""Context and completion, as tokens."""
LOGITS_BYTES = 1 << 26
"""Of logits in memory at once."""


class Scored(NamedTuple):
    """What a model makes of one pair."""

    pair: int
    """Its index."""
    logprob: float
    """Of the completion after its context, summed, in nats."""
    greedy: bool
    """Whether each of its tokens is the likeliest."""


@torch.inference_mode()
def completion_logprobs(model: Transformer, pairs: Sequence[Pair], batch_rows: int = 128) -> list[float]:
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


@torch.inference_mode()
def score_completions(
    model: Transformer, pairs: Sequence[Pair], batch_tokens: int = 8192, row_tokens: int = 256
) -> Iterator[Scored]:
    """Yield what `completion_logprobs` sums, batch by batch in no fixed order; what pairs begin with is read once.

    Choices of one question lie in one row, where each token sees its ancestors only; a longer context that many
    questions share is read once into a cache. Differs from `completion_logprobs` by rounding; under NTK it scores as
    sampling does, with the base of the longest sequence. Raises ValueError for an empty context or completion.
    """
    if not all(context and completion for context, completion in pairs):
        raise ValueError("a context or a completion has no tokens")
    sequences = [(*context, *completion[:-1]) for context, completion in pairs]
    for group in groups(sequences, [len(context) - 1 for context, _ in pairs], row_tokens):
        stem = _read(model, group.stem)
        for rows in batches(group, batch_tokens):
            trees = [tree([sequences[index] for index in row.sequences], len(group.stem)) for row in rows]
            yield from _score(model, pairs, rows, trees, stem, len(group.stem))


def _read(model: Transformer, stem: Sequence[int]) -> KVCache | None:
    """Return the keys and values of a stem, one row."""
    if not stem:
        return None
    weight = model.tok_embeddings.weight
    cache = KVCache(model.config, 1, len(stem), weight)
    places = torch.arange(len(stem), device=weight.device).unsqueeze(0)
    model.hidden(torch.tensor([stem], device=weight.device), cache, places)
    return cache


def _score(
    model: Transformer,
    pairs: Sequence[Pair],
    rows: Sequence[Row],
    trees: Sequence[Tree],
    stem: KVCache | None,
    stem_tokens: int,
) -> Iterator[Scored]:
    width = max(len(row.tokens) for row in trees)
    asked: list[tuple[int, slice]] = []
    nodes: list[int] = []
    targets: list[int] = []
    for number, (row, nodes_of) in enumerate(zip(rows, trees, strict=True)):
        for index, path in zip(row.sequences, nodes_of.paths, strict=True):
            context, completion = pairs[index]
            first = len(context) - 1 - stem_tokens
            asked.append((index, slice(len(nodes), len(nodes) + len(completion))))
            nodes += [number * width + node for node in path[first:]]
            targets += completion
    device = model.tok_embeddings.weight.device
    tokens = pad_right([row.tokens for row in trees]).to(device)
    depths = pad_right([row.depths for row in trees]).to(device)
    branching = stem is not None or not all(row.is_chain for row in trees)
    cache = TreeCache(_visible(trees, width).to(device), stem) if branching else None
    hidden = model.hidden(tokens, cache, depths + stem_tokens)
    logprobs, likeliest = _predictions(model, hidden.flatten(0, 1), nodes, targets)
    for index, place in asked:
        yield Scored(index, float(logprobs[place].sum()), bool((likeliest[place] == targets[place]).all()))


def _visible(trees: Sequence[Tree], width: int) -> Tensor:
    """Return what each token of padded rows sees, bool [B, T, T]."""
    visible = np.zeros((len(trees), width, width), dtype=bool)
    visible[:, range(width), range(width)] = True  # padding sees itself
    for number, row in enumerate(trees):
        size = len(row.tokens)
        visible[number, :size, :size] = row.visible()
    return torch.from_numpy(visible)


def _predictions(
    model: Transformer, hidden: Tensor, nodes: Sequence[int], targets: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return for N places of states [places, D] the log-probability of a token, float64 [N], and the likeliest [N].

    A place that several completions go on from is predicted from once.
    """
    places, of_place = np.unique(nodes, return_inverse=True)
    order = np.argsort(of_place, kind="stable")
    bounds = np.searchsorted(of_place[order], np.arange(len(places) + 1))
    step = max(1, LOGITS_BYTES // (4 * model.config.vocab_size))
    logprobs, likeliest = np.empty(len(nodes)), np.empty(len(nodes), dtype=np.int64)
    wanted = np.asarray(targets)
    for start in range(0, len(places), step):
        chunk = torch.from_numpy(places[start : start + step]).to(hidden.device)
        logits = model.output(hidden[chunk]).float()
        mine = order[bounds[start] : bounds[min(start + step, len(places))]]
        rows = torch.from_numpy(of_place[mine] - start).to(hidden.device)
        tokens = torch.from_numpy(wanted[mine]).to(hidden.device)
        logprobs[mine] = (logits[rows, tokens] - logits.logsumexp(-1)[rows]).cpu().numpy()
        likeliest[mine] = logits.argmax(-1)[rows].cpu().numpy()
    return logprobs, likeliest


def best_choice(logprobs: Sequence[float], lengths: Sequence[int]) -> int:
    """Return the index of the highest log-probability a unit of length."""
    normalised = [value / length for value, length in zip(logprobs, lengths, strict=True)]
    return max(range(len(normalised)), key=normalised.__getitem__)
