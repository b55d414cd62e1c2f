"""Demonstrations and prompts: nothing held out is ever shown in training."""

import json
import re
from pathlib import Path

import pytest

from llama2_core.evaluation.reward_models import length_correlation
from storage.schemas import DEMONSTRATIONS, PROMPTS, read_table
from storage.sources.starter import arithmetic
from tasks.dialogs import KINDS, write_dialogs
from tasks.recipes import DialogsRecipe
from tasks.simulated_annotator import judge


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dialogs")
    write_dialogs(
        DialogsRecipe(demonstrations=800, train_prompts=900, held_out_prompts=300, multiple_choice=20),
        seed=1,
        directory=directory,
    )
    return directory


def test_splits_share_no_prompt_and_cover_every_kind(tables: Path) -> None:
    rows = read_table(tables / "prompts.parquet", PROMPTS)
    texts = {split: {r["dialog"] for r in rows if r["split"] == split} for split in ("train", "held_out")}
    assert not texts["train"] & texts["held_out"]
    for split in texts:
        assert {row["kind"] for row in rows if row["split"] == split} == set(KINDS)
    assert len(texts["train"]) == 900


def test_no_training_text_holds_a_held_out_operand_pair(tables: Path) -> None:
    demonstrations = read_table(tables / "demonstrations.parquet", DEMONSTRATIONS)
    text = " ".join(row["dialog"] for row in demonstrations)
    for a, operation, b in re.findall(r"(\d+) ([+-]) (\d+) =", text):
        assert not arithmetic.is_held_out(int(a), operation, int(b))


def test_unsafe_acts_are_held_out_whole(tables: Path) -> None:
    rows = [row for row in read_table(tables / "prompts.parquet", PROMPTS) if row["safety"]]
    assert {row["risk_category"] for row in rows if row["split"] == "held_out"}
    held_out = [json.loads(row["dialog"])[0]["content"] for row in rows if row["split"] == "held_out"]
    assert any("rob a shop" in text for text in held_out)
    assert not any("rob a shop" in row["dialog"] for row in rows if row["split"] == "train")


def test_answers_to_unsafe_prompts_are_not_better_for_being_longer(tables: Path) -> None:
    rows = [row for row in read_table(tables / "demonstrations.parquet", DEMONSTRATIONS) if row["safety"]]
    answers = [json.loads(row["dialog"])[-1]["content"] for row in rows]
    pairs = list(zip(answers[::2], answers[1::2], strict=False))
    better = [judge("unsafe", {}, one).score - judge("unsafe", {}, other).score for one, other in pairs]
    found = length_correlation(better, [len(one) - len(other) for one, other in pairs])
    assert found.n > 50
    assert found.value < 0.2


def test_the_same_seed_gives_the_same_tables(tables: Path, tmp_path: Path) -> None:
    recipe = DialogsRecipe(demonstrations=800, train_prompts=900, held_out_prompts=300, multiple_choice=20)
    write_dialogs(recipe, 1, tmp_path)
    for name, schema in (("demonstrations", DEMONSTRATIONS), ("prompts", PROMPTS)):
        assert read_table(tmp_path / f"{name}.parquet", schema) == read_table(
            tables / f"{name}.parquet", schema
        )


def test_facts_and_problems_state_only_truths() -> None:
    import random

    random_ = random.Random(0)
    pairs = arithmetic.operand_pairs(10, "train")
    text = " ".join(
        arithmetic.fact_document(random_, pairs) + arithmetic.problem_document(random_, pairs)
        for _ in range(200)
    )
    found = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)\.", text)
    assert len(found) > 2000
    for a, operation, b, answer in found:
        assert int(answer) == (int(a) + int(b) if operation == "+" else int(a) - int(b))
    assert re.search(r"\d+ - \d+: \d+( \d+)+\.", text)
    for a, operation, b in re.findall(r"(\d+) ([+-]) (\d+)", text):
        assert not arithmetic.is_held_out(int(a), operation, int(b))
