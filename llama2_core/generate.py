"""Batched sampling with a KV cache. A row that ends gives its slot to the next prompt.

Every row draws from its own stream of random numbers, so what it says depends neither on its neighbours nor on
the number of slots. Shapes: B slots, T time, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llama2_core.config import SamplingConfig
from llama2_core.errors import DataError
from llama2_core.model import KVCache, Transformer


@dataclass(frozen=True)
class Request:
    """A prompt to be continued: token ids, and the seed of its random stream."""

    tokens: Sequence[int]
    seed: int
    temperature: float


@dataclass
class Completion:
    """What was sampled: ids without EOS, and whether EOS ended it."""

    tokens: list[int] = field(default_factory=list)
    ended: bool = False


def sample_tokens(logits: Tensor, temperature: Tensor, top_p: float, uniform: Tensor) -> Tensor:
    """Draw a token [B] from logits [B, V] by inverting the nucleus's distribution at uniform [B].

    Temperature [B] divides the logits; 0 takes the arg-max. The nucleus drops tokens before which the cumulated
    probability already exceeds top_p, so the first is always kept.
    """
    greedy = logits.argmax(-1)
    scaled = logits / temperature.clamp(min=1e-6).unsqueeze(-1)
    probabilities, order = scaled.softmax(-1), None
    if top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before > top_p, 0.0)
    cumulated = probabilities.cumsum(-1)
    target = uniform.unsqueeze(-1) * cumulated[:, -1:]
    choice = torch.searchsorted(cumulated, target, right=True).clamp(max=logits.shape[-1] - 1)
    drawn = choice if order is None else order.gather(-1, choice)
    return torch.where(temperature > 0, drawn.squeeze(-1), greedy)


def pad_right(rows: Sequence[Sequence[int]], fill: int = 0) -> Tensor:
    """Stack ragged rows of ids into int64 [B, longest], filled on the right."""
    out = torch.full((len(rows), max(map(len, rows))), fill, dtype=torch.long)
    for index, row in enumerate(rows):
        out[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return out


@torch.inference_mode()
def generate(
    model: Transformer,
    requests: Sequence[Request],
    config: SamplingConfig,
    eos_id: int,
    slots: int = 128,
) -> Iterator[tuple[int, Completion]]:
    """Yield (index of the request, completion) as rows finish, in no fixed order.

    A row ends at EOS, after `max_new_tokens`, or at the model's longest sequence. Raises DataError for a prompt
    that leaves no room for an answer. `config.temperature` is overruled by each request's own.
    """
    limit = model.config.max_seq_len
    for index, request in enumerate(requests):
        if not 0 < len(request.tokens) < limit:
            raise DataError(
                f"prompt {index} has {len(request.tokens)} tokens; 1 to {limit - 1} fit this model"
            )
    device = model.tok_embeddings.weight.device
    batch = _Slots(model, min(slots, len(requests)), config, device)
    waiting = iter(enumerate(requests))
    remaining = len(requests)
    while remaining:
        batch.refill(waiting)
        for slot, token in batch.step():
            completion = batch.completions[slot]
            completion.ended = token == eos_id
            if not completion.ended:
                completion.tokens.append(token)
            length = len(completion.tokens)
            full = batch.prompt_lengths[slot] + length >= limit or length >= config.max_new_tokens
            if completion.ended or full:
                yield batch.owners[slot], completion
                batch.release(slot)
                remaining -= 1


class _Slots:
    """The rows being sampled: cache, next logits, and whose turn each slot serves."""

    def __init__(self, model: Transformer, count: int, config: SamplingConfig, device: torch.device) -> None:
        self.model, self.config = model, config
        self.cache = KVCache(model.config, count, model.config.max_seq_len, model.tok_embeddings.weight)
        self.logits = torch.zeros(count, model.config.vocab_size, device=device)
        self.positions = torch.zeros(count, dtype=torch.long, device=device)
        self.temperature = torch.zeros(count, device=device)
        self.uniforms = torch.zeros(count, config.max_new_tokens, device=device)
        self.completions = [Completion() for _ in range(count)]
        self.owners = [-1] * count
        self.prompt_lengths = [0] * count

    def refill(self, waiting: Iterator[tuple[int, Request]]) -> None:
        """Prefill free slots from the waiting prompts, once a quarter of them is free."""
        free = [slot for slot, owner in enumerate(self.owners) if owner < 0]
        if 4 * len(free) < len(self.owners):
            return
        taken = [(slot, *item) for slot, item in zip(free, waiting, strict=False)]
        if not taken:
            return
        slots = torch.tensor([slot for slot, _, _ in taken], device=self.positions.device)
        prompts = [tuple(request.tokens) for _, _, request in taken]
        unique = list(dict.fromkeys(prompts))  # K samples of a prompt are neighbours: it is read once
        rows = torch.tensor([unique.index(prompt) for prompt in prompts], device=slots.device)
        lengths = torch.tensor([len(prompt) for prompt in unique], device=slots.device)
        tokens = pad_right(unique).to(slots.device)
        cache = KVCache(self.model.config, len(unique), tokens.shape[1], self.cache.keys)
        positions = torch.arange(tokens.shape[1], device=slots.device).expand_as(tokens)
        hidden = self.model.hidden(tokens, cache, positions)
        last = hidden[torch.arange(len(unique), device=slots.device), lengths - 1]
        self.logits[slots] = self.model.output(last).float()[rows]
        self.cache.replace_rows(slots, cache, rows)
        self.positions[slots] = lengths[rows]
        for slot, owner, request in taken:
            stream = torch.Generator().manual_seed(request.seed)
            self.uniforms[slot] = torch.rand(self.config.max_new_tokens, generator=stream)
            self.temperature[slot] = request.temperature
            self.completions[slot] = Completion()
            self.owners[slot] = owner
            self.prompt_lengths[slot] = len(request.tokens)

    def release(self, slot: int) -> None:
        self.owners[slot] = -1

    def step(self) -> list[tuple[int, int]]:
        """Sample one token for every busy slot, feed it, and return (slot, token) pairs."""
        busy = [slot for slot, owner in enumerate(self.owners) if owner >= 0]
        slots = torch.tensor(busy, device=self.positions.device)
        drawn = torch.tensor([len(self.completions[slot].tokens) for slot in busy], device=slots.device)
        tokens = sample_tokens(
            self.logits[slots], self.temperature[slots], self.config.top_p, self.uniforms[slots, drawn]
        )
        feed = torch.zeros_like(self.positions)
        feed[slots] = tokens
        positions = self.positions.clamp(max=self.model.config.max_seq_len - 1).unsqueeze(1)
        self.logits = self.model(feed.unsqueeze(1), self.cache, positions).squeeze(1)
        self.positions[slots] += 1
        return list(zip(busy, tokens.tolist(), strict=True))
