"""Ghost Attention: an instruction said once holds for the whole dialog. Llama 2 section 3.3.

1. A constraint of each of some kinds, drawn at random, makes an instruction.
2. It is put on every turn of the user, and the newest chat model answers turn by turn.
3. For training it stays in the first turn only, shortened in half of the dialogs, and only the last answer is
   learned: `encode_dialog(..., learn="last")` in `llama2_core/chat.py`.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from typing import Literal, get_args

from llama2_core.chat import Dialog, Message
from llama2_core.config import Record
from llama2_core.errors import DataError

Kind = Literal["hobby", "language", "figure"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WORDINGS: dict[Kind, tuple[str, str]] = {
    "figure": ("Act as {}.", "Figure: {}."),
    "hobby": ("You enjoy {}.", "Hobby: {}."),
    "language": ("Speak in {}.", "Language: {}."),
}
"""Kind -> its full and its shortened wording, in the order of an instruction. The words are the paper's."""
DRAWS = 1000
BULLET = re.compile(r"^[\s\d.)*•-]+")


class Constraint(Record):
    """One thing that every answer must keep to."""

    kind: Kind
    """What is constrained."""
    value: str
    """Which hobby, language or figure."""
    signs: tuple[str, ...] = ()
    """Words one of which an answer has that keeps to it; none: the value itself."""
    language: str = ""
    """ISO 639 code of the answer's language, where that is the sign."""

    def shown_in(self, answer: str) -> bool:
        """Tell whether a sign stands in the answer, as a whole word in any case."""
        signs = "|".join(map(re.escape, self.signs or (self.value,)))
        return bool(re.search(rf"(?<!\w)(?:{signs})(?!\w)", answer, re.IGNORECASE))


def combine(
    constraints: Sequence[Constraint], random_: random.Random, held_out: bool
) -> tuple[Constraint, ...]:
    """Draw one to three constraints of different kinds, each number of them as likely, in the order of `WORDINGS`.

    One combination in six, by a hash of its words, is held out for tests. Raises DataError when there is none to draw.
    """
    by_kind = {kind: [c for c in constraints if c.kind == kind] for kind in WORDINGS}
    kinds = [kind for kind, found in by_kind.items() if found]
    for _ in range(DRAWS if kinds else 0):
        chosen = random_.sample(kinds, random_.randint(1, len(kinds)))
        drawn = tuple(random_.choice(by_kind[kind]) for kind in kinds if kind in chosen)
        if (hashlib.sha256(instruction(drawn).encode()).digest()[0] < 43) == held_out:
            return drawn
    raise DataError(
        f"{len(constraints)} constraints are too few: none is {'held out' if held_out else 'left'}"
    )


def instruction(constraints: Sequence[Constraint], shortened: bool = False) -> str:
    """Return constraints in words: "Act as Napoleon. You enjoy chess.", shortened "Figure: Napoleon. Hobby: chess."."""
    return " ".join(WORDINGS[c.kind][shortened].format(c.value) for c in constraints)


def on_every_turn(text: str, dialog: Sequence[Message]) -> Dialog:
    """Return the dialog with the instruction before what the user says in every turn: what is sampled from."""
    return tuple(_instructed(text, message) if message.role == "user" else message for message in dialog)


def on_first_turn(text: str, dialog: Sequence[Message]) -> Dialog:
    """Return the dialog with the instruction in its first turn, which is the user's, only: what is trained on."""
    return (_instructed(text, dialog[0]), *dialog[1:])


def _instructed(text: str, message: Message) -> Message:
    return message.model_copy(update={"content": f"{text} {message.content}"})


def listed(answer: str, longest_words: int = 4) -> list[str]:
    """Return what a chat model lists, a line each: without bullets and numbers, without repeats and long lines."""
    lines = (BULLET.sub("", line).strip(" .*") for line in answer.splitlines())
    return list(dict.fromkeys(line for line in lines if line and len(line.split()) <= longest_words))
