"""Preprompts, and the gate that keeps an answer, by hand."""

import random
import re

import numpy as np
import pytest
from pydantic import ValidationError

from llama2_core.chat import Message, assistant, encode_prompt, user
from llama2_core.errors import DataError
from llama2_core.rlhf.context_distillation import Preprompts, behind, is_kept
from llama2_core.tokenizer import Tokenizer

PREPROMPTS = Preprompts(
    adjectives=("wise", "kind", "fair"),
    generic=("Be {first} and {second}.", "A {first}, {second} answer:"),
    tailored="This is {category}: decline, say why.",
)


def test_generic_preprompts_draw_two_different_adjectives_and_every_template() -> None:
    random_ = random.Random(0)
    drawn = [PREPROMPTS.draw(random_) for _ in range(400)]
    for text in drawn:
        first, second = re.findall("wise|kind|fair", text)
        assert first != second
    assert len(set(drawn)) == 2 * 3 * 2, "templates x ordered pairs of adjectives"
    assert "Be wise and kind." in drawn


def test_a_tailored_preprompt_names_the_category() -> None:
    assert PREPROMPTS.for_category("theft") == "This is theft: decline, say why."
    assert [step for step in "1234" if f"({step})" in Preprompts().for_category("theft")] == list("1234")


@pytest.mark.parametrize("field", [{"generic": ("Be {first}.",)}, {"tailored": "Decline."}, {"generic": ()}])
def test_a_template_without_its_places_is_refused(field: dict) -> None:
    with pytest.raises(ValidationError, match=r"must hold \{|at least 1 item"):
        Preprompts(**field)


def test_a_preprompt_stands_before_the_first_user_turn_and_leaves_the_rest(tokenizer: Tokenizer) -> None:
    dialog = (Message(role="system", content="Sit."), user("the cat"), assistant("sat"), user("the dog"))
    told = behind("Be wise.", dialog)
    assert told == (dialog[0], user("Be wise. the cat"), *dialog[2:])
    assert "Be wise. the cat" in tokenizer.decode(encode_prompt(told, tokenizer))
    with pytest.raises(DataError, match="without a user turn"):
        behind("Be wise.", (Message(role="system", content="Sit."),))


def test_the_gate_keeps_what_scores_higher_and_only_on_adversarial_prompts() -> None:
    """Better, worse, equal, better on a helpful prompt."""
    distilled, original = np.array([0.9, 0.4, 0.5, 0.9]), np.array([0.6, 0.8, 0.5, 0.1])
    kept = is_kept(distilled, original, [True, True, True, False])
    assert kept.tolist() == [True, False, False, False]
