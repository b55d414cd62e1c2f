"""Completion of texts and of dialogs, with the semantics of the reference code's generation.py.

Without a config, temperature and top-p are its defaults too, and an answer may fill the model's context. Where it
replies with an error text, or asserts, we raise DataError: for turns that do not alternate, tags of the template in
a message, a prompt that leaves no room for a token (it scores one that fills the context exactly).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from llama2_core.cache import KVCache
from llama2_core.chat import Message, Template, encode_prompt
from llama2_core.config import SamplingConfig
from llama2_core.generate import Finish, Request, generate, stream
from llama2_core.model import Transformer
from llama2_core.seeding import derive_seed
from llama2_core.tokenizer import Tokenizer


@dataclass(frozen=True)
class Generation:
    """A continuation: its text up to EOS or a stop text, its tokens, and their log-probabilities in nats."""

    text: str
    tokens: list[int]
    logprobs: list[float]
    """Of each token, untempered; with echo the first is 0, for nothing precedes it."""
    finish: Finish
    pieces: list[str]
    """Each token decoded alone, as the reference does: without the space before a word."""


class Said(NamedTuple):
    """What one more token adds to the text of a request."""

    request: int
    """Its index."""
    text: str
    finish: Finish | None
    """Why the text ends here; None while it goes on."""


def text_completion(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    config: SamplingConfig | None = None,
    seed: int = 1,
    echo: bool = False,
) -> list[Generation]:
    """Continue each text; with echo the prompt (and BOS, which has no text) comes first.

    What a text is given depends on the seed and its place in the list, not on the other texts.
    """
    encoded = [tokenizer.encode(prompt, bos=True) for prompt in prompts]
    found = _complete(model, tokenizer, encoded, config, seed)
    if not echo:
        return found
    return [_echoed(model, tokenizer, prompt, after) for prompt, after in zip(encoded, found, strict=True)]


def chat_completion(
    model: Transformer,
    tokenizer: Tokenizer,
    dialogs: Sequence[Sequence[Message]],
    config: SamplingConfig | None = None,
    seed: int = 1,
    template: Template = "llama2",
) -> list[Generation]:
    """Answer each dialog, which must end with a user's turn. Seeds as of `text_completion`."""
    prompts = [encode_prompt(dialog, tokenizer, template) for dialog in dialogs]
    return _complete(model, tokenizer, prompts, config, seed)


def stream_completion(model: Transformer, tokenizer: Tokenizer, request: Request) -> Iterator[str]:
    """Yield the continuation's text piece by piece; a stop text, even in parts, is never shown."""
    return (said.text for said in stream_said(model, tokenizer, [request]))


def stream_said(model: Transformer, tokenizer: Tokenizer, requests: Sequence[Request]) -> Iterator[Said]:
    """Yield what `stream_completion` does, of several requests at once, and with the last piece why a text ends."""
    tokens: list[list[int]] = [[] for _ in requests]
    shown = [0] * len(requests)
    for index, token, _, finish in stream(model, requests, tokenizer.eos_id, decode=tokenizer.decode):
        tokens[index].append(token)
        stops = requests[index].config.stop
        text = until_stop(tokenizer.decode(tokens[index]), stops)
        if not finish:
            text = text.rstrip("\ufffd")  # a character whose other bytes are still to come
            text = text[: len(text) - _begun(text, stops)]
        yield Said(index, text[shown[index] :], finish)
        shown[index] = max(shown[index], len(text))


def until_stop(text: str, stops: Sequence[str]) -> str:
    """Return what comes before the first of the stop texts."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def _begun(text: str, stops: Sequence[str]) -> int:
    """Return how many of the last characters may be the beginning of a stop text."""
    lengths = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return max(lengths, default=0)


def _complete(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    config: SamplingConfig | None,
    seed: int,
) -> list[Generation]:
    config = config or SamplingConfig(max_new_tokens=model.config.max_seq_len)
    requests = [Request(tokens, derive_seed(seed, i), config) for i, tokens in enumerate(prompts)]
    done = dict(generate(model, requests, tokenizer.eos_id, decode=tokenizer.decode))
    return [
        Generation(
            until_stop(tokenizer.decode(done[i].tokens), config.stop),
            done[i].tokens,
            done[i].logprobs[: len(done[i].tokens)],
            done[i].finish,
            _pieces(tokenizer, done[i].tokens),
        )
        for i in range(len(prompts))
    ]


def _pieces(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    return [tokenizer.decode([token]) for token in tokens]


def _echoed(model: Transformer, tokenizer: Tokenizer, prompt: list[int], after: Generation) -> Generation:
    weight = model.tok_embeddings.weight
    ids = torch.tensor([prompt], device=weight.device)
    places = torch.arange(len(prompt), device=weight.device).unsqueeze(0)
    with torch.inference_mode():  # through a cache, as the answer was drawn: NTK's base is the same
        logits = model(ids, KVCache(model.config, 1, len(prompt), weight), places)
    before = (-F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none")).tolist()
    tokens = [*prompt, *after.tokens]
    text = tokenizer.decode(tokens)
    cut = len(tokenizer.decode(after.tokens)) - len(after.text)
    return Generation(
        text[: len(text) - cut],
        tokens,
        [0.0, *before, *after.logprobs],
        after.finish,
        _pieces(tokenizer, tokens),
    )
