"""The terminal chat: a dialog, line by line, answered as the words come."""

import random
import sys
from collections.abc import Callable, Iterator

from rich.console import Console

from llama2_core.chat import TAGS, Message, Template, assistant, encode_prompt, user
from llama2_core.completion import stream_completion
from llama2_core.config import SamplingConfig
from llama2_core.errors import DataError
from llama2_core.generate import Request
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer

HELP = "/system TEXT sets the system prompt, /reset starts a new dialog, Ctrl-D ends"
ROOM_TOKENS = 8
"""An answer needs at least so many; older turns are forgotten for it."""


def converse(
    model: Transformer,
    tokenizer: Tokenizer,
    config: SamplingConfig,
    console: Console,
    template: Template = "llama2",
) -> None:
    """Read lines until the end of the input and answer each."""

    def encode(dialog: list[Message]) -> list[int]:
        return encode_prompt(dialog, tokenizer, template)

    system: list[Message] = []
    turns: list[Message] = []
    for line in _lines():
        command, _, rest = line.partition(" ")
        if command == "/reset":
            turns = []
        elif command == "/system":
            system, turns = [Message(role="system", content=rest)] if rest else [], []
        elif line.startswith("/"):
            console.print(HELP, style="dim")
        elif line:
            turns = _answered(model, tokenizer, config, encode, system, [*turns, user(line)], console)


def _answered(
    model: Transformer,
    tokenizer: Tokenizer,
    config: SamplingConfig,
    encode: Callable[[list[Message]], list[int]],
    system: list[Message],
    turns: list[Message],
    console: Console,
) -> list[Message]:
    """Print the answer as it comes; return the dialog with it, without the turns that no longer fit.

    A refused line is forgotten, and nothing else.
    """
    before = turns[:-1]
    try:
        tokens = encode([*system, *turns])
        while len(tokens) > model.config.max_seq_len - ROOM_TOKENS:
            if len(turns) == 1:
                raise DataError(f"longer than this model reads: {model.config.max_seq_len} tokens")
            turns = turns[2:]
            tokens = encode([*system, *turns])
    except DataError as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False)
        return before
    request = Request(tokens, random.getrandbits(62), config.model_copy(update={"stop": TAGS}))
    answer = ""
    for piece in stream_completion(model, tokenizer, request):
        answer += piece
        console.print(piece, end="", style="cyan", highlight=False, markup=False)
    console.print()
    return [*turns, assistant(answer.strip())]


def _lines() -> Iterator[str]:
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line.strip()
