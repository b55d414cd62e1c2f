"""Starter demonstrations: who is told keeps to it, in the turn in which it is told."""

import random
from collections import Counter

from llama2_core.rlhf.ghost_attention import KINDS, WORDINGS, instruction
from storage.sources.starter.facts import facts
from tasks.ghost_recipe import InstructedRecipe
from tasks.instructions import SHAPES, demonstration, keep_to, starter_constraints, talk
from tasks.tables import dialog_from_json

KNOWN = starter_constraints()


def test_starter_constraints_have_signs_of_their_own() -> None:
    assert {constraint.kind for constraint in KNOWN} == set(KINDS)
    answers = [row["answer"] for row in facts("questions")]
    for constraint in KNOWN:
        kept = keep_to([constraint], "A star.")
        assert constraint.shown_in(kept)
        assert not any(other.shown_in(kept) for other in KNOWN if other != constraint)
        assert not any(constraint.shown_in(answer) for answer in answers), "nobody keeps to it by chance"


def test_an_answer_keeps_to_all() -> None:
    by_value = {constraint.value: constraint for constraint in KNOWN}
    told = [by_value[value] for value in ("Plato", "chess", "Spanish")]
    assert keep_to(told, "A star.") == "Hola! A star. I like chess. Plato"
    assert keep_to([], "A star.") == "A star."


def test_demonstrations_keep_to_what_they_are_told_where_they_are_told_it() -> None:
    recipe, shapes = InstructedRecipe(longest_turns=4), Counter[str]()
    for seed in range(300):
        row = demonstration(recipe, KNOWN, f"d-{seed}", seed)
        dialog = dialog_from_json(row["dialog"])
        turns = list(zip(dialog[::2], dialog[1::2], strict=True))
        shapes[row["kind"]] += 1
        for asked, answer in turns:
            shown = [c for kind in WORDINGS for c in KNOWN if c.kind == kind and c.shown_in(answer.content)]
            told = instruction(shown, shortened=asked.content.startswith(("Figure:", "Hobby:", "Language:")))
            if row["kind"] == "plain":
                assert not shown and asked.content in {r["question"] for r in facts("questions")}
            elif row["kind"] != "instructed, two turns" or asked is dialog[0]:
                assert shown and asked.content.startswith(told)
            else:
                assert shown and "." not in asked.content, "told in the first turn only"
        assert len(turns) == {"instructed": 1, "instructed, two turns": 2}.get(row["kind"], len(turns)) <= 4
    assert shapes.keys() == SHAPES.keys()


def test_nothing_is_asked_twice() -> None:
    said = [message.content for message in talk(random.Random(0), 20, [])][::2]
    assert len(set(said)) == 20
