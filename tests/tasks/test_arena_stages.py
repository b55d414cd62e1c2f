"""Answers and verdicts as the worker makes them: small real models, real reward models, judges behind real servers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama2_core.chat import user
from llama2_core.errors import DataError
from llama2_core.rlhf.reward import score_rows
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import load_reward_model
from storage.arena_tables import REPLIES, SHEET, VERDICTS
from storage.schemas import PROMPTS, read_table, write_table
from tasks.arena import choose, labels
from tasks.arena_recipe import AskedRecipe, RepliesRecipe, RewardsRecipe, VerdictsRecipe
from tasks.arena_stages import replies, verdicts
from tasks.recipes import JudgeRecipe
from tasks.runtime import Execution
from tasks.sampling_recipe import SamplingRecipe, ServerRecipe
from tasks.stage import Stage
from tasks.tables import dialog_from_json, dialog_to_json, encode_answer

RECIPE = RepliesRecipe(temperatures=(0.5, 1.0), samples=2, sampling=SamplingRecipe(max_new_tokens=4))
SAID = "Better: {}\nGrade: 2\nA is: safe\nB is: safe"


def prompt(name: str, **known: Any) -> dict[str, Any]:
    about = {"id": name, "split": "held_out", "kind": "own", "safety": False, "facts": "{}"}
    about |= {"risk_category": "", "attack_vector": "", "dialog": dialog_to_json((user(f"the cat {name}"),))}
    return about | known


def stage_of(folder: Path, recipe: Any, parents: dict[str, Path]) -> Stage:
    folder.mkdir()
    return Stage(folder, recipe.model_dump(mode="json"), 3, parents, Execution(threads=1, slots=8))


def put_prompts(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    write_table(folder / "prompts.parquet", rows, PROMPTS)
    return folder


def test_every_prompt_is_answered_at_every_temperature(parents: dict[str, Path], tmp_path: Path) -> None:
    prompts = put_prompts(tmp_path / "asked", [prompt("1"), prompt("2")])
    made = {}
    for name in ("once", "again"):
        stage = stage_of(tmp_path / name, RECIPE, {"chat": parents["chat"], "prompts": prompts})
        assert replies(stage)["answers"] == 8
        made[name] = read_table(tmp_path / name / "replies.parquet", REPLIES)
    assert made["once"] == made["again"]
    told = [(row["prompt_id"], row["temperature"], row["sample"]) for row in made["once"]]
    assert told == [(p, t, s) for p in ("1", "2") for t in (0.5, 1.0) for s in (0, 1)]
    assert len({row["response"] for row in made["once"]}) > 2


def test_a_model_behind_a_server_answers_too(served: Any, tmp_path: Path) -> None:
    prompts = put_prompts(tmp_path / "asked", [prompt("1"), prompt("2")])
    recipe = RECIPE.model_copy(
        update={"engine": ServerRecipe(server=served(lambda text: f"{text}! [INST] no"))}
    )
    replies(stage_of(tmp_path / "made", recipe, {"prompts": prompts}))
    rows = read_table(tmp_path / "made" / "replies.parquet", REPLIES)
    assert [row["response"] for row in rows] == ["the cat 1!"] * 4 + ["the cat 2!"] * 4


@pytest.mark.parametrize("text", ["cat " * 80, "[INST]"])
def test_a_prompt_that_cannot_be_asked_is_named(text: str, parents: dict[str, Path], tmp_path: Path) -> None:
    prompts = put_prompts(
        tmp_path / "asked", [prompt("1"), prompt("bad", dialog=dialog_to_json((user(text),)))]
    )
    stage = stage_of(tmp_path / "made", RECIPE, {"chat": parents["chat"], "prompts": prompts})
    with pytest.raises(DataError, match="prompt bad"):
        replies(stage)


def put_sheet(folder: Path, pairs: list[tuple[str, str]], safety: Callable[[int], bool] = bool) -> Path:
    rows = [
        {
            "id": str(n),
            "prompt_id": f"p{n}",
            "kind": "own",
            "category": "",
            "safety": safety(n % 2),
            "turns": 1,
            "dialog": dialog_to_json((user(f"the cat {n}"),)),
            "models": ["a", "b"],
            "answers": list(pair),
        }
        for n, pair in enumerate(pairs)
    ]
    folder.mkdir()
    write_table(folder / "sheet.parquet", rows, SHEET)
    return folder


def judged(folder: Path, judge: Any, parents: dict[str, Path]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    facts = verdicts(stage_of(folder, VerdictsRecipe(judge=judge), parents))
    return facts, read_table(folder / "verdicts.parquet", VERDICTS)


def test_reward_models_judge_their_own_domain(
    parents: dict[str, Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    pairs = [(f"the dog {n}", "a red house") for n in range(6)] + [("same", "same"), ("cat " * 80, "dog")]
    sheet = put_sheet(tmp_path / "sheet", pairs)
    turned = put_sheet(tmp_path / "turned", [(b, a) for a, b in pairs])
    facts, rows = judged(tmp_path / "made", RewardsRecipe(), {**parents, "sheet": sheet})
    assert (rows[6]["outcome"], rows[6]["detail"], rows[6]["ratings"]) == ("tie", "equal answers", [])
    assert (rows[7]["outcome"], rows[7]["detail"]) == ("unjudged", "longer than the context")
    assert facts["rates"]["all"]["all"]["unjudged"] == 1
    for row in rows[:6]:
        judge, _ = load_reward_model(parents["safety" if row["safety"] else "helpfulness"])
        dialog = dialog_from_json(row["dialog"])
        first, second = score_rows(judge, [encode_answer(dialog, text, tokenizer) for text in row["answers"]])
        assert row["ratings"] == [pytest.approx(first - second, abs=1e-4)]
        assert row["outcome"] == ("win" if first > second else "loss")
    other, _ = judged(tmp_path / "other", RewardsRecipe(), {**parents, "sheet": turned})
    rates = [found["rates"]["all"]["all"]["rate"]["value"] for found in (facts, other)]
    assert sum(rates) == pytest.approx(1), "turned, wins are losses"
    ties, _ = judged(tmp_path / "ties", RewardsRecipe(tie_margin=1e6), {**parents, "sheet": sheet})
    assert ties["rates"]["all"]["all"]["tie"]["value"] == 1


def answers_of(question: str) -> list[str]:
    return [question.split(f"[Answer {name}]\n")[1].split(f"\n[End of answer {name}]")[0] for name in "AB"]


def test_a_judge_in_both_orders(served: Any, tmp_path: Path) -> None:
    """It prefers what is longer; of equal length what stands first; and babbles where there is a dog."""

    def say(question: str) -> str:
        first, second = answers_of(question)
        if "dog" in first + second:
            return "Both have their merits."
        return SAID.format("A" if len(first) >= len(second) else "B")

    sheet = put_sheet(
        tmp_path / "sheet", [("longer", "short"), ("no", "yes"), ("one", "two"), ("a dog", "cat")]
    )
    facts, rows = judged(tmp_path / "made", JudgeRecipe(server=served(say)), {"sheet": sheet})
    told = [(row["outcome"], row["detail"], row["ratings"]) for row in rows]
    assert told == [
        ("win", "", [2, 2]),
        ("loss", "", [-2, -2]),
        ("tie", "the order decides", [2, -2]),
        ("unjudged", "unreadable", []),
    ]
    assert rows[3]["said"] == ["Both have their merits."] * 2
    assert facts["details"] == {"the order decides": 1, "unreadable": 1}
    overall = facts["rates"]["all"]["all"]
    assert (overall["unjudged"], overall["rate"]["n"], overall["rate"]["value"]) == (1, 3, 0.5)


def test_a_judge_that_answers_nonsense_ends_the_stage_with_its_words(served: Any, tmp_path: Path) -> None:
    sheet = put_sheet(tmp_path / "sheet", [("one", "two"), ("same", "same"), ("three", "four")])
    stage = stage_of(
        tmp_path / "made",
        VerdictsRecipe(judge=JudgeRecipe(server=served(lambda _: "meow <b>"))),
        {"sheet": sheet},
    )
    with pytest.raises(DataError, match=r"judge m at http.* asked about 2 pairs.*cannot be read.*'meow <b>'"):
        verdicts(stage)
    assert not (stage.directory / "verdicts.parquet").exists()
    assert not list(stage.checkpoints.iterdir()), "nothing of it is kept: another try asks again"


def test_models_go_by_short_names(tmp_path: Path) -> None:
    for name in ("a/chat", "b/chat"):
        (tmp_path / name).mkdir(parents=True)
    one, two = str(tmp_path / "a" / "chat"), str(tmp_path / "b" / "chat")
    assert labels(["sft", "http://127.0.0.1:1/v1#m", one]) == {
        "sft": "sft",
        "m": "http://127.0.0.1:1/v1#m",
        "chat": one,
    }
    assert labels([one, two]) == {"chat 1": one, "chat 2": two}


def test_prompts_are_chosen_by_group_and_seed() -> None:
    rows = [
        prompt(f"{kind}{n}", kind=kind) for kind in ("problem", "conversation", "unsafe") for n in range(5)
    ]
    recipe = AskedRecipe(groups={"factual": ("problem",), "creative": ("conversation",)}, most=2)
    chosen = choose(recipe, rows, 1)
    assert [row["kind"] for row in chosen] == ["factual"] * 2 + ["creative"] * 2
    assert chosen == choose(recipe, rows, 1)
    assert len({tuple(row["id"] for row in choose(recipe, rows, seed)) for seed in range(8)}) > 1
    assert choose(AskedRecipe(), rows, 1) == rows
