"""Ghost Attention by hand: instructions, where they stand, what is learned, what keeps to them."""

import random

import pytest

from llama2_core.chat import assistant, encode_dialog, user
from llama2_core.data.loss_masks import dialog_faults
from llama2_core.errors import DataError
from llama2_core.rlhf.ghost_attention import (
    Constraint,
    combine,
    instruction,
    listed,
    on_every_turn,
    on_first_turn,
)
from llama2_core.tokenizer import Tokenizer

NAPOLEON = Constraint(kind="figure", value="Napoleon")
CHESS = Constraint(kind="hobby", value="chess")
FRENCH = Constraint(kind="language", value="French", signs=("Bonjour", "Salut"))
DIALOG = (user("the cat"), assistant("sat"), user("the dog"), assistant("ran to the house"))


def test_an_instruction_is_full_or_shortened() -> None:
    assert instruction([NAPOLEON, CHESS]) == "Act as Napoleon. You enjoy chess."
    assert instruction([NAPOLEON, FRENCH], shortened=True) == "Figure: Napoleon. Language: French."


def test_it_is_sampled_with_on_every_turn_and_kept_in_the_first() -> None:
    said = [message.content for message in on_every_turn("Act as Bach.", DIALOG)]
    assert said == ["Act as Bach. the cat", "sat", "Act as Bach. the dog", "ran to the house"]
    kept = [message.content for message in on_first_turn("Figure: Bach.", DIALOG)]
    assert kept == ["Figure: Bach. the cat", "sat", "the dog", "ran to the house"]


def test_only_the_last_answer_is_learned(tokenizer: Tokenizer) -> None:
    tokens, learned = encode_dialog(DIALOG, tokenizer, "last")
    assert tokens == encode_dialog(DIALOG, tokenizer)[0]
    first = learned.index(True)
    assert tokenizer.decode(tokens[first:]).strip() == "ran to the house"
    assert learned == [False] * first + [True] * (len(tokens) - first)
    assert learned[-1] and tokens[-1] == tokenizer.eos_id
    assert not dialog_faults("ghost", tokens, learned, tokenizer, 200)


def test_combinations_are_of_different_kinds_and_held_out_ones_are_apart() -> None:
    known = [NAPOLEON, CHESS, FRENCH]
    known += [Constraint(kind="figure", value=name) for name in ("Bach", "Plato", "Curie")]
    known += [Constraint(kind="hobby", value=name) for name in ("tennis", "sailing")]
    random_ = random.Random(0)
    drawn = {held_out: {combine(known, random_, held_out) for _ in range(400)} for held_out in (False, True)}
    assert not drawn[False] & drawn[True]
    assert len(drawn[False]) + len(drawn[True]) == 4 + 3 + 1 + 4 * 3 + 4 + 3 + 4 * 3
    assert 0 < len(drawn[True]) < len(drawn[False])
    for combination in drawn[False] | drawn[True]:
        kinds = [constraint.kind for constraint in combination]
        assert kinds == sorted(set(kinds)), "figure, hobby, language, each once"


def test_too_few_constraints_are_an_error() -> None:
    assert combine([NAPOLEON], random.Random(0), held_out=True) == (NAPOLEON,)
    with pytest.raises(DataError, match="1 constraints are too few: none is left"):
        combine([NAPOLEON], random.Random(0), held_out=False)
    with pytest.raises(DataError, match="0 constraints"):
        combine([], random.Random(0), held_out=False)


@pytest.mark.parametrize(
    ("constraint", "answer", "kept"),
    [
        (NAPOLEON, "A star. Napoleon", True),
        (NAPOLEON, "I am napoleon.", True),
        (NAPOLEON, "Napoleonic", False),
        (FRENCH, "Salut! A star.", True),
        (FRENCH, "French is a language.", False),
        (Constraint(kind="hobby", value="C++"), "I like C++.", True),
        (CHESS, "", False),
    ],
)
def test_signs_are_whole_words(constraint: Constraint, answer: str, kept: bool) -> None:
    assert constraint.shown_in(answer) is kept


def test_a_list_of_the_chat_models_is_read() -> None:
    answer = (
        "Sure, here are some hobbies that people enjoy:\n1. Chess\n2) Rock climbing.\n- *Chess\n• Chess\n\n"
    )
    assert listed(answer) == ["Chess", "Rock climbing"]
