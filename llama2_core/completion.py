"""Completion of texts and of dialogs, with the semantics of the reference code's generation.py.

Its default temperature and top-p are SamplingConfig's. Where it replies with an error text, or asserts, we raise
DataError: for turns that do not alternate, tags of the template in a message, a prompt that leaves no room.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from llama2_core.chat import Message, encode_prompt
from llama2_core.config import SamplingConfig
from llama2_core.generate import Finish, Request, generate, stream
from llama2_core.model import Transformer
from llama2_core.rlhf.rollout import token_logprobs
from llama2_core.seeding import derive_seed
from llama2_core.tokenizer import Tokenizer

REFERENCE = SamplingConfig()
"""The reference code's temperature and top-p."""


@dataclass(frozen=True)
class Generation:
    """A continuation: its text up to EOS or a stop text, its tokens, and their log-probabilities in nats."""

    text: str
    tokens: list[int]
    logprobs: list[float]
    """Of each token, untempered; with echo the first is 0, for nothing precedes it."""
    finish: Finish


def text_completion(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    config: SamplingConfig = REFERENCE,
    seed: int = 1,
    echo: bool = False,
) -> list[Generation]:
    """Continue each text; with echo the prompt (and BOS, which has no text) comes first."""
    encoded = [tokenizer.encode(prompt, bos=True) for prompt in prompts]
    found = _complete(model, tokenizer, encoded, config, seed)
    if not echo:
        return found
    return [_echoed(model, tokenizer, prompt, after) for prompt, after in zip(encoded, found, strict=True)]


def chat_completion(
    model: Transformer,
    tokenizer: Tokenizer,
    dialogs: Sequence[Sequence[Message]],
    config: SamplingConfig = REFERENCE,
    seed: int = 1,
) -> list[Generation]:
    """Answer each dialog, which must end with a user's turn."""
    return _complete(model, tokenizer, [encode_prompt(d, tokenizer) for d in dialogs], config, seed)


def stream_completion(model: Transformer, tokenizer: Tokenizer, request: Request) -> Iterator[str]:
    """Yield the continuation's text piece by piece; a stop text, even in parts, is never shown."""
    tokens: list[int] = []
    shown = 0
    for _, token, _, finish in stream(model, [request], tokenizer.eos_id, decode=tokenizer.decode):
        tokens.append(token)
        text = until_stop(tokenizer.decode(tokens), request.config.stop)
        if not finish:
            text = text.rstrip("\ufffd")  # a character whose other bytes are still to come
            text = text[: len(text) - _begun(text, request.config.stop)]
        yield text[shown:]
        shown = max(shown, len(text))


def until_stop(text: str, stops: Sequence[str]) -> str:
    """Return what comes before the first of the stop texts."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def _begun(text: str, stops: Sequence[str]) -> int:
    """Return how many of the last characters may be the beginning of a stop text."""
    lengths = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return max(lengths, default=0)


def _complete(
    model: Transformer, tokenizer: Tokenizer, prompts: list[list[int]], config: SamplingConfig, seed: int
) -> list[Generation]:
    requests = [Request(tokens, derive_seed(seed, i), config) for i, tokens in enumerate(prompts)]
    done = dict(generate(model, requests, tokenizer.eos_id, decode=tokenizer.decode))
    return [
        Generation(
            until_stop(tokenizer.decode(done[i].tokens), config.stop),
            done[i].tokens,
            done[i].logprobs[: len(done[i].tokens)],
            done[i].finish,
        )
        for i in range(len(prompts))
    ]


def _echoed(model: Transformer, tokenizer: Tokenizer, prompt: list[int], after: Generation) -> Generation:
    device = model.tok_embeddings.weight.device
    with torch.inference_mode():
        before = token_logprobs(model, torch.tensor([prompt], device=device))[0].tolist()
    tokens = [*prompt, *after.tokens]
    text = tokenizer.decode(prompt) + after.text
    return Generation(text, tokens, [0.0, *before, *after.logprobs], after.finish)
