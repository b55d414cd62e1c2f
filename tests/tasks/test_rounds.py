"""Rounds by hand: what carries over, what a round loses, what the last one has forgotten."""

import pytest

from tasks.rounds import losses
from tasks.rounds_recipe import Round, RoundsRecipe, Start
from tasks.rounds_report import forgotten, points_by_kind


@pytest.mark.parametrize(
    ("carry_over", "rounds"), [("paper", [4, 5]), ("previous", []), ("all", [2, 3, 4, 5])]
)
def test_the_paper_carries_over_from_the_fourth_round(carry_over: str, rounds: list[int]) -> None:
    recipe = RoundsRecipe.model_validate({"carry_over": carry_over})
    assert [number for number in range(1, 6) if recipe.carries_all(number)] == rounds


@pytest.mark.parametrize(
    ("champion", "pair"),
    [("new", ("new", "old")), ("ppo", ("ppo", "old")), ("old", ("old", "new"))],
    ids=["accepted", "PPO accepted", "refused"],
)
def test_what_is_refused_is_compared_next(champion: str, pair: tuple[str, str]) -> None:
    names = dict.fromkeys(set(Round.model_fields) - {"number", "models", "evaluations", "champion"}, "")
    models = {"rejection": "new", "ppo": "ppo"}
    made = Round(number=2, models=models, evaluations={}, champion=champion, **names)
    assert made.next_pair("old") == pair


@pytest.mark.parametrize(("chosen", "model"), [("sft", "first"), ("newest", "third")])
def test_reward_models_begin_from_what_is_chosen(chosen: str, model: str) -> None:
    lists = {"batches": [], "judges": {}, "samples": []}
    names = dict.fromkeys(set(Start.model_fields) - {*lists, "number", "chat", "newest"}, "")
    start = Start(number=3, chat="first", newest="third", **lists, **names)
    recipe = RoundsRecipe.model_validate({"reward_models_from": chosen})
    assert recipe.reward_start(start) == model


def test_what_is_worse_is_a_loss_whichever_way_is_up() -> None:
    mine = {"problems": {"value": 0.6}, "unsafe_answers": {"value": 0.3}, "annotator_score": 1.0}
    theirs = {"problems": {"value": 0.7}, "unsafe_answers": {"value": 0.4}, "annotator_score": 2.0}
    assert losses(mine, theirs) == pytest.approx({"problems": 0.1, "unsafe_answers": -0.1})


def test_forgetting_is_what_the_last_version_has_less_than_the_best() -> None:
    points = {
        "V1": points_by_kind({"a": ("rhyme", 2.0), "b": ("rhyme", 1.0), "c": ("sum", 0.0)}),
        "V2": points_by_kind({"a": ("rhyme", 0.0), "b": ("rhyme", 1.0), "c": ("sum", 2.0)}),
    }
    assert points == {"V1": {"rhyme": 1.5, "sum": 0.0}, "V2": {"rhyme": 0.5, "sum": 2.0}}
    assert forgotten(points, "V2") == {"rhyme": 1.0, "sum": 0.0}
