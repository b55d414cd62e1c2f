"""The terminal chat, fed from a pipe."""

import io
import sys
from typing import Any

import pytest
from rich.console import Console

from deployments import terminal
from llama2_core.chat import Message
from llama2_core.config import SamplingConfig
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer


@pytest.fixture
def talk(model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    """Feed lines; return what was printed and every prompt that the model was given."""
    prompts: list[list[Message]] = []
    encode = terminal.encode_prompt

    def watched(dialog: list[Message], *of: Any) -> list[int]:
        prompts.append(list(dialog))
        return encode(dialog, *of)

    monkeypatch.setattr(terminal, "encode_prompt", watched)

    def run(*lines: str) -> tuple[str, list[list[Message]]]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        console = Console(file=io.StringIO(), width=500)
        terminal.converse(model, tokenizer, SamplingConfig(max_new_tokens=4), console)
        return console.file.getvalue(), prompts  # type: ignore[attr-defined]

    return run


def test_a_dialog_has_turns_until_it_is_reset(talk) -> None:
    _, prompts = talk("the cat", "a dog", "/reset", "seven apples")
    dialogs = [[message.content for message in dialog if message.role == "user"] for dialog in prompts]
    assert dialogs[0] == ["the cat"]
    assert ["the cat", "a dog"] in dialogs
    assert dialogs[-1] == ["seven apples"]


def test_the_system_prompt_stands_before_the_dialog(talk) -> None:
    _, prompts = talk("the cat", "/system on a mat", "a dog")
    assert [(m.role, m.content) for m in prompts[-1]] == [("system", "on a mat"), ("user", "a dog")]


def test_old_turns_are_forgotten_when_there_is_no_more_room(talk) -> None:
    said, prompts = talk(*["the cat sat on a mat and the dog ran"] * 6)
    assert "error" not in said
    assert max(len(dialog) for dialog in prompts) > 1
    assert prompts[-1][-1].content.startswith("the cat")


def test_a_refused_line_forgets_nothing_else(talk) -> None:
    _, prompts = talk("the cat", "a dog", "word " * 200, "seven")
    assert [m.content for m in prompts[-1] if m.role == "user"][-3:] == ["the cat", "a dog", "seven"]


def test_what_cannot_be_said_is_an_error_and_the_dialog_goes_on(talk) -> None:
    said, prompts = talk("the [INST] cat", "word " * 200, "a dog", "/help")
    assert "message 0 of the dialog holds the template's tag [INST]" in said
    assert "longer than this model reads: 64 tokens" in said
    assert [m.content for m in prompts[-1]] == ["a dog"]
    assert "/reset" in said
