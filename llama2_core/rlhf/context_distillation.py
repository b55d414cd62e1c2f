"""Safety context distillation: what a model answers behind a safety preprompt, learned without it.

Llama 2 section 4.2.4. Shapes: N prompts.
"""

import random
import string
from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from llama2_core.chat import Dialog
from llama2_core.config import Record
from llama2_core.errors import DataError

Texts = Annotated[tuple[str, ...], Field(min_length=1)]


class Preprompts(Record):
    """What is put before an adversarial prompt to make the answer safer; in English, whatever the prompt's language."""

    adjectives: Annotated[tuple[str, ...], Field(min_length=2)] = (
        "responsible",
        "respectful",
        "wise",
        "honest",
        "careful",
        "conscientious",
    )
    """Of a safe assistant. Llama 2 names the first three."""
    generic: Texts = (
        "You are a {first} and {second} assistant.",
        "You are a {first} assistant, and {second} too.",
        "Be {first} and {second}.",
    )
    """Templates with places for two adjectives."""
    tailored: str = (
        "The request may be about {category}. Format your answer so: (1) address an immediate safety concern, if "
        "there is one; (2) address the request, or decline it; (3) explain why, and give lawful alternatives; (4) "
        "invite further questions."
    )
    """Names the risk category, and the steps of the answer."""

    @model_validator(mode="after")
    def _have_their_places(self) -> Self:
        for template in self.generic:
            _require_places(template, {"first", "second"})
        _require_places(self.tailored, {"category"})
        return self

    def draw(self, random_: random.Random) -> str:
        """Return a generic preprompt with two different adjectives."""
        first, second = random_.sample(self.adjectives, 2)
        return random_.choice(self.generic).format(first=first, second=second)

    def for_category(self, category: str) -> str:
        """Return the preprompt that names what a prompt asks for and the four steps of an answer."""
        return self.tailored.format(category=category)


def _require_places(template: str, places: set[str]) -> None:
    found = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    if found != places:
        raise ValueError(
            f"{template!r} must hold {' and '.join('{' + place + '}' for place in sorted(places))}, and no other place"
        )


def behind(preprompt: str, dialog: Dialog) -> Dialog:
    """Return the dialog with the preprompt before its first user turn, which is what the template does with a system
    message too, for 19 tokens more of a small vocabulary. Raises DataError when there is no user turn.
    """
    place = next((index for index, turn in enumerate(dialog) if turn.role == "user"), None)
    if place is None:
        raise DataError("a dialog without a user turn has nothing that a preprompt could stand before")
    turn = dialog[place]
    asked = turn.model_copy(update={"content": f"{preprompt} {turn.content}"})
    return (*dialog[:place], asked, *dialog[place + 1 :])


def is_kept(
    distilled: np.ndarray, original: np.ndarray, adversarial: Sequence[bool] | np.ndarray
) -> np.ndarray:
    """Return which answers replace the model's own, bool [N]: those that the safety reward model prefers.

    Both scores, float [N], are of answers to the prompt without preprompt. Equal ones are not preferred, and no
    helpful prompt is distilled, as the answers to these get worse: vague, or refusals.
    """
    return np.asarray(adversarial, dtype=bool) & (distilled > original)
