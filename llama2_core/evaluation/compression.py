"""How well a model and its tokenizer know a language: figures that vocabularies of any size share."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llama2_core.evaluation.likelihood import completion_logprobs
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer

BATCH_TOKENS = 2048
"""Scored at once."""


@dataclass(frozen=True)
class Compression:
    """Of a text, by a model."""

    characters: int
    tokens: int
    nats: float
    """Its negative log-probability."""

    @property
    def characters_per_token(self) -> float:
        return self.characters / self.tokens

    @property
    def bits_per_character(self) -> float:
        return self.nats / math.log(2) / self.characters


def compress(
    model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], window_tokens: int
) -> Compression:
    """Return what texts take: each begins with BOS, and longer ones are read in windows without what came before.

    The first token of a later window is predicted from the last of the one before alone.
    """
    encoded = tokenizer.encode_many(texts)
    pairs = [pair for ids in encoded for pair in windows([tokenizer.bos_id, *ids], window_tokens)]
    nats = -math.fsum(completion_logprobs(model, pairs, max(1, BATCH_TOKENS // window_tokens)))
    return Compression(sum(map(len, texts)), sum(map(len, encoded)), nats)


def windows(tokens: Sequence[int], window_tokens: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Cut tokens into (context, completion) pairs such that each but the first is a completion once."""
    for start in range(0, len(tokens) - 1, window_tokens):
        yield tokens[start : start + 1], tokens[start + 1 : start + 1 + window_tokens]
