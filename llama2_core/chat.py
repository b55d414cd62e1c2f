"""Dialogs to tokens: the one home of the Llama 2 chat template. Llama 2 section 3.3 and its reference code.

Llama-Chinese's Atom models speak another: `<s>Human: ...\\n</s><s>Assistant: ...\\n</s>`.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Literal

from llama2_core.config import Record
from llama2_core.errors import DataError
from llama2_core.tokenizer import Tokenizer

B_INST, E_INST = "[INST]", "[/INST]"
B_SYS, E_SYS = "<<SYS>>\n", "\n<</SYS>>\n\n"
TAGS = (B_INST, E_INST, "<<SYS>>", "<</SYS>>")


class Message(Record):
    """One turn of a dialog."""

    role: Literal["system", "user", "assistant"]
    """Who speaks."""
    content: str
    """What is said."""


Dialog = tuple[Message, ...]
Template = Literal["llama2", "atom"]
Learn = Literal["all", "last"]
"""Which answers of a dialog are learned."""
SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}
"""Atom's names of the roles."""


def user(content: str) -> Message:
    return Message(role="user", content=content)


def assistant(content: str) -> Message:
    return Message(role="assistant", content=content)


def fold_system(dialog: Sequence[Message]) -> list[Message]:
    """Return the dialog with its system message folded into the first user turn; check that turns alternate."""
    turns = list(dialog)
    if len(turns) > 1 and turns[0].role == "system":
        folded = B_SYS + turns[0].content + E_SYS + turns[1].content
        turns[:2] = [turns[1].model_copy(update={"content": folded})]
    _check_alternate(turns)
    return turns


def _check_alternate(turns: Sequence[Message]) -> None:
    for index, turn in enumerate(turns):
        expected = "assistant" if index % 2 else "user"
        if turn.role != expected:
            raise DataError(f"turn {index} of the dialog is by {turn.role!r}; expected {expected!r}")


def _check_last(turns: Sequence[Message], role: str) -> None:
    if not turns or turns[-1].role != role:
        raise DataError(f"the dialog must end with a turn by {role!r}")


def encode_prompt(
    dialog: Sequence[Message], tokenizer: Tokenizer, template: Template = "llama2"
) -> list[int]:
    """Encode a dialog that ends with a user turn, ready for the model to answer.

    Raises DataError when turns do not alternate, or a message holds one of the template's own tags.
    """
    if template == "atom":
        return _encode_atom(dialog, tokenizer)
    tokens, _ = _encode(dialog, tokenizer, "user", "all")
    return tokens


def _encode_atom(dialog: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    turns = dialog[1:] if dialog and dialog[0].role == "system" else dialog
    _check_alternate(turns)
    _check_last(turns, "user")
    said = [
        tokenizer.encode(f"{SPEAKERS[m.role]}: {m.content.strip()}\n", bos=True, eos=True) for m in dialog
    ]
    return [*chain(*said), *tokenizer.encode("Assistant: ", bos=True)]


def encode_dialog(
    dialog: Sequence[Message], tokenizer: Tokenizer, learn: Learn = "all"
) -> tuple[list[int], list[bool]]:
    """Encode a dialog that ends with an assistant turn; also tell which tokens are to be learned.

    Learned are the answers and their EOS; prompts, tags and BOS are not (Llama 2 section 3.1). Of `learn` "last" only
    the last answer is, as in Ghost Attention (section 3.3).
    """
    return _encode(dialog, tokenizer, "assistant", learn)


def _encode(
    dialog: Sequence[Message], tokenizer: Tokenizer, last: Literal["user", "assistant"], learn: Learn
) -> tuple[list[int], list[bool]]:
    for index, message in enumerate(dialog):
        found = next((tag for tag in TAGS if tag in message.content), None)
        if found:
            raise DataError(f"message {index} of the dialog holds the template's tag {found}")
    turns = fold_system(dialog)
    _check_last(turns, last)
    tokens: list[int] = []
    learned: list[bool] = []
    for index, turn in enumerate(turns):
        text = turn.content.strip()
        if turn.role == "user":
            piece = tokenizer.encode(f"{B_INST} {text} {E_INST}", bos=True)
        else:
            piece = tokenizer.encode(f"{text} ", eos=True)
        tokens += piece
        answer = turn.role == "assistant" and (learn == "all" or index == len(turns) - 1)
        learned += [answer] * len(piece)
    return tokens, learned
