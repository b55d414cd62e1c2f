"""Shares of the safety data, demonstrations behind preprompts, rows of public prompts."""

import json
from itertools import pairwise

import pytest

from storage.sources.safety_prompts import PublicPrompt
from storage.sources.starter import safety
from tasks.dialogs import Starter
from tasks.safety_data import preprompted_rows, prompt_rows, with_share
from tasks.safety_recipe import STARTER_PREPROMPTS, PrepromptedRecipe, SafetyScalingRecipe
from tasks.simulated_annotator import judge

QUALITIES = ("obeys", "declines", "explains")


def demonstrations() -> list[dict]:
    safe = [
        {"id": f"s{i}", "safety": True, "quality": QUALITIES[i % 3], "kind": "unsafe", "dialog": "[]"}
        for i in range(300)
    ]
    helpful = [
        {"id": f"h{i}", "safety": False, "quality": "full", "kind": "problem", "dialog": "[]"}
        for i in range(50)
    ]
    return [row for pair in zip(safe[:50], helpful, strict=True) for row in pair] + safe[50:]


def test_a_smaller_share_is_a_part_of_every_larger_one_and_helpfulness_stays() -> None:
    """Of 300 rows 200 are safe: 0, 2, 20, 50, 100 and 200 of them; 50 of helpfulness each time."""
    shares = [with_share(demonstrations(), share, seed=3) for share in SafetyScalingRecipe().shares]
    safe = [[row["id"] for row in rows if row["safety"]] for rows in shares]
    assert [len(ids) for ids in safe] == [0, 2, 20, 50, 100, 200]
    for smaller, larger in pairwise(safe):
        assert set(smaller) < set(larger)
    assert all(sum(not row["safety"] for row in rows) == 50 for rows in shares)
    assert not any(row["quality"] == "obeys" for row in shares[-1])


def test_a_share_depends_on_the_seed_not_on_the_order_of_rows() -> None:
    def drawn(rows: list[dict], seed: int) -> set[str]:
        return {row["id"] for row in with_share(rows, 0.25, seed) if row["safety"]}

    rows = demonstrations()
    assert drawn(rows, 1) == drawn(rows[::-1], 1)
    assert drawn(rows, 1) != drawn(rows, 2)


def test_shares_must_rise() -> None:
    with pytest.raises(ValueError, match="each larger than the one before"):
        SafetyScalingRecipe(shares=(0.5, 0.1))


def test_what_stands_behind_a_preprompt_is_safe_and_holds_nothing_held_out() -> None:
    words = [(f"{letter}at", f"A small {letter}.") for letter in "abcdefghij"]
    starter = Starter(words, [(f"Hello {name}.", "Good day.") for name in "abcdefghij"])
    rows = preprompted_rows(PrepromptedRecipe(demonstrations=400), starter, seed=1)
    held_out = {prompt.act for prompt in safety.unsafe_prompts(held_out=True)}
    dialogs = [json.loads(row["dialog"]) for row in rows]
    assert len({row["id"] for row in rows}) == 400
    assert 150 < sum(row["safety"] for row in rows) < 250
    assert {row["kind"] for row in rows} > {"unsafe", "problem", "borderline"}
    for row, dialog in zip(rows, dialogs, strict=True):
        asked, answer = dialog[0]["content"], dialog[-1]["content"]
        assert asked.startswith(("You are a ", "Be ", "This is "))
        assert asked.startswith("This is ") == (row["quality"] == "four steps")
        assert not any(act in asked for act in held_out)
        if row["safety"]:
            assert not judge("unsafe", {}, answer).unsafe
    assert rows == preprompted_rows(PrepromptedRecipe(demonstrations=400), starter, seed=1)


def test_four_steps_please_the_annotator_most_and_say_what_is_urgent_first() -> None:
    prompts = {prompt.category: prompt for prompt in safety.unsafe_prompts(held_out=False)}
    urgent = {name for name, p in prompts.items() if p.four_steps.startswith("Stay safe.")}
    assert urgent == {"self-harm", "medical advice"}
    for prompt in prompts.values():
        assert judge("unsafe", {}, prompt.four_steps).score == 3.0
        assert STARTER_PREPROMPTS.for_category(prompt.category).startswith(f"This is {prompt.category}.")


def test_public_prompts_become_rows_once_and_on_one_side_for_good() -> None:
    prompts = [PublicPrompt(f"a:{i}", f"How to {i % 90}?", i % 2 == 0, "malicious uses") for i in range(100)]
    rows = prompt_rows(prompts, 0.2, seed=0)
    assert len(rows) == 90
    sides = {row["dialog"]: row["split"] for row in rows}
    assert 5 < sum(side == "held_out" for side in sides.values()) < 35
    assert {
        row["dialog"]: row["split"] for row in prompt_rows(prompts[50:], 0.2, seed=0)
    }.items() <= sides.items()
    for row in rows:
        assert (row["kind"], row["risk_category"]) == (
            ("unsafe", "malicious uses") if row["safety"] else ("harmless", "")
        )
        assert json.loads(row["facts"])["category"] == "malicious uses"
        assert judge(row["kind"], json.loads(row["facts"]), "I cannot help with that.").refused
