"""Batched sampling with a KV cache. A row that ends gives its slot to the next prompt.

Every row draws from its own stream of random numbers, so what it says depends neither on its neighbours nor on
the number of slots. Shapes: B slots, T time, V vocabulary.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from llama2_core.cache import KVCache
from llama2_core.config import SamplingConfig
from llama2_core.errors import ConfigError, DataError
from llama2_core.model import Transformer
from llama2_core.sampling import discourage, sample_tokens

LARGEST_UNIFORM = 1 - 2**-24
"""Below 1 in float32, to which larger draws are rounded."""

Finish = Literal["eos", "stop", "length"]
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Request:
    """A prompt to be continued: token ids, the seed of its random stream, and how to sample."""

    tokens: Sequence[int]
    seed: int
    config: SamplingConfig


class Sampled(NamedTuple):
    """One token of one row, as soon as it is drawn."""

    request: int
    """Its index."""
    token: int
    logprob: float
    """Natural logarithm of the token's probability before penalty, temperature, top-k and top-p."""
    finish: Finish | None
    """Why the row ends here; None while it goes on."""


@dataclass
class Completion:
    """What was sampled: ids without EOS, their log-probabilities (EOS's last, if it came), and why it ended."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish = "length"

    @property
    def ended(self) -> bool:
        """Whether EOS ended it."""
        return self.finish == "eos"


def pad_right(rows: Sequence[Sequence[int]], fill: int = 0) -> Tensor:
    """Stack ragged rows of ids into int64 [B, longest], filled on the right."""
    out = torch.full((len(rows), max(map(len, rows))), fill, dtype=torch.long)
    for index, row in enumerate(rows):
        out[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return out


def generate(
    model: Transformer,
    requests: Sequence[Request],
    eos_id: int,
    slots: int = 128,
    decode: Decode | None = None,
    shared: int = 0,
) -> Iterator[tuple[int, Completion]]:
    """Yield (index of the request, completion) as rows finish, in no fixed order. Arguments as of `stream`."""
    open_rows: dict[int, Completion] = {}
    for index, token, logprob, finish in stream(model, requests, eos_id, slots, decode, shared):
        completion = open_rows.setdefault(index, Completion())
        completion.logprobs.append(logprob)
        if finish != "eos":
            completion.tokens.append(token)
        if finish:
            completion.finish = finish
            yield index, open_rows.pop(index)


@torch.inference_mode()
def stream(
    model: Transformer,
    requests: Sequence[Request],
    eos_id: int,
    slots: int = 128,
    decode: Decode | None = None,
    shared: int = 0,
) -> Iterator[Sampled]:
    """Yield every token as it is drawn, the rows of at most `slots` requests in turn.

    A row ends at EOS, at one of its stop texts (found in what `decode` makes of its last tokens), after its
    `max_new_tokens`, or at the model's longest sequence. So many tokens as all prompts share, at their beginning and
    without the last, are read once; it changes nothing but rounding. Raises DataError for a prompt that leaves no room
    for an answer, ConfigError for stop texts without `decode`.
    """
    limit = model.config.max_seq_len
    for index, request in enumerate(requests):
        if not 0 < len(request.tokens) < limit:
            raise DataError(
                f"prompt {index} has {len(request.tokens)} tokens; 1 to {limit - 1} fit this model"
            )
        if request.config.stop and decode is None:
            raise ConfigError(f"request {index} has stop texts: pass the tokenizer's decode to find them")
    waiting = iter([_Row(index, request, limit) for index, request in enumerate(requests)])
    batch = _Slots(model, requests, slots, shared)
    batch.refill(waiting)
    while any(batch.rows):
        for slot, row, token, logprob in batch.draw():
            finish = row.take(token, eos_id, decode)
            if finish:
                batch.rows[slot] = None
            yield Sampled(row.index, token, logprob, finish)
        batch.read()
        batch.refill(waiting)


def _longest(request: Request, limit: int) -> int:
    """Places of the cache that a request can fill."""
    return min(limit, len(request.tokens) + request.config.max_new_tokens)


class _Row:
    """A request and what was drawn for it."""

    def __init__(self, index: int, request: Request, limit: int) -> None:
        self.index, self.request = index, request
        self.tokens: list[int] = []
        self.audible: list[int] = []
        self.random = random.Random(request.seed)
        self.room = _longest(request, limit) - len(request.tokens)
        self.tail = max((len(text.encode()) for text in request.config.stop), default=0)

    @property
    def position(self) -> int:
        """Of the newest token."""
        return len(self.request.tokens) + len(self.tokens) - 1

    def take(self, token: int, eos_id: int, decode: Decode | None) -> Finish | None:
        if token == eos_id:
            return "eos"
        self.tokens.append(token)
        if self.tail and decode and self._found(token, decode):
            return "stop"
        return "length" if len(self.tokens) >= self.room else None

    def _found(self, token: int, decode: Decode) -> bool:
        """Tell whether a stop text ends in this token, the newest."""
        if decode([token, token]):  # a control token has no text; twice, for a single space is dropped
            self.audible.append(token)
        text = decode(
            self.audible[-self.tail - 1 :]
        )  # each is at least a byte: the stop text lies in so many
        return any(stop in text for stop in self.request.config.stop)


class _Slots:
    """The rows being sampled: cache, next logits, and whose turn each slot serves."""

    def __init__(self, model: Transformer, requests: Sequence[Request], slots: int, shared: int) -> None:
        self.model = model
        count = min(slots, len(requests))
        capacity = max((_longest(request, model.config.max_seq_len) for request in requests), default=0)
        self.device = model.tok_embeddings.weight.device
        self.shared = shared
        self.stem = self._read(requests[0].tokens[:shared]) if shared else None
        self.cache = KVCache(model.config, count, capacity - shared, model.tok_embeddings.weight, self.stem)
        self.logits = torch.zeros(count, model.config.vocab_size, device=self.device)
        self.rows: list[_Row | None] = [None] * count
        self.settings = torch.zeros(4, count, device=self.device)
        """Temperature, top-p, top-k and repetition penalty of each slot."""
        penalised = any(request.config.repetition_penalty != 1 for request in requests)
        self.seen = torch.zeros_like(self.logits, dtype=torch.bool) if penalised else None

    def _read(self, begin: Sequence[int]) -> KVCache:
        """Return the cache of what all prompts begin with."""
        cache = KVCache(self.model.config, 1, len(begin), self.model.tok_embeddings.weight)
        places = torch.arange(len(begin), device=self.device).unsqueeze(0)
        self.model.hidden(torch.tensor([list(begin)], device=self.device), cache, places)
        return cache

    def refill(self, waiting: Iterator[_Row]) -> None:
        """Give free slots to waiting prompts once a quarter is free; without any waiting, drop free slots."""
        free = [slot for slot, row in enumerate(self.rows) if not row]
        if not free or 4 * len(free) < len(self.rows):
            return
        taken = list(islice(waiting, len(free)))
        if taken:
            self._prefill(free[: len(taken)], taken)
        elif 2 * len(free) >= len(self.rows) > len(free):
            self._keep([slot for slot, row in enumerate(self.rows) if row])

    def _keep(self, slots: list[int]) -> None:
        index = torch.tensor(slots, device=self.device)
        self.cache.keep_rows(index)
        self.logits, self.settings = self.logits[index], self.settings[:, index]
        self.seen = None if self.seen is None else self.seen[index]
        self.rows = [self.rows[slot] for slot in slots]

    def _prefill(self, free: list[int], taken: list[_Row]) -> None:
        slots = torch.tensor(free, device=self.device)
        prompts = [tuple(row.request.tokens) for row in taken]
        unique = list(dict.fromkeys(prompts))  # K samples of a prompt are neighbours: it is read once
        place = {prompt: number for number, prompt in enumerate(unique)}
        rows = torch.tensor([place[prompt] for prompt in prompts], device=self.device)
        begin = self.shared
        lengths = torch.tensor([len(prompt) - begin for prompt in unique], device=self.device)
        tokens = pad_right([prompt[begin:] for prompt in unique]).to(self.device)
        cache = KVCache(self.model.config, len(unique), tokens.shape[1], self.cache.keys, self.stem)
        positions = torch.arange(begin, begin + tokens.shape[1], device=self.device).expand_as(tokens)
        hidden = self.model.hidden(tokens, cache, positions)
        last = hidden[torch.arange(len(unique), device=self.device), lengths - 1]
        self.logits[slots] = self.model.output(last).float()[rows]
        self.cache.replace_rows(slots, cache, rows)
        for slot, row in zip(free, taken, strict=True):
            self.rows[slot] = row
        configs = [row.request.config for row in taken]
        size = self.logits.shape[-1]
        settings = [(c.temperature, c.top_p, c.top_k or size, c.repetition_penalty) for c in configs]
        self.settings[:, slots] = torch.tensor(settings, device=self.device).T
        if self.seen is not None:
            self.seen[slots] = False
            for slot, prompt in zip(free, prompts, strict=False):
                self.seen[slot, list(prompt)] = True

    def draw(self) -> list[tuple[int, _Row, int, float]]:
        """Draw a token for every busy slot; return (slot, row, token, log-probability) of each."""
        draws = [min(row.random.random(), LARGEST_UNIFORM) if row else 0.0 for row in self.rows]
        temperature, top_p, top_k, penalty = self.settings
        logits = self.logits if self.seen is None else discourage(self.logits, self.seen, penalty)
        uniform = torch.tensor(draws, device=self.device)
        tokens = sample_tokens(logits, temperature, top_p, top_k.long(), uniform)
        if self.seen is not None:
            self.seen.scatter_(1, tokens.unsqueeze(-1), True)
        logprobs = self.logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        drawn = zip(self.rows, tokens.tolist(), logprobs.tolist(), strict=True)
        return [(slot, row, *of) for slot, (row, *of) in enumerate(drawn) if row]

    def read(self) -> None:
        """Feed the newest token of every busy slot; a free one reads nonsense at its first place."""
        if not any(self.rows):
            return
        nowhere = 0, self.shared
        newest = [(row.tokens[-1], row.position) if row else nowhere for row in self.rows]
        tokens, positions = torch.tensor(newest, device=self.device).unsqueeze(-1).unbind(1)
        self.logits = self.model.output(self.model.hidden(tokens, self.cache, positions).squeeze(1)).float()
