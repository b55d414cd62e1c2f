"""Context distillation and the scores of answers as the worker does them, with small real models."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llama2_core.chat import assistant, encode_dialog, user
from llama2_core.config import ModelConfig
from llama2_core.errors import DataError
from llama2_core.evaluation.statistics import proportion
from llama2_core.model import ScalarModel, Transformer, initialise
from llama2_core.rlhf.context_distillation import Preprompts
from llama2_core.rlhf.reward import score_rows
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import load_reward_model, save_model
from storage.safety_tables import ANSWERS, DISTILLED
from storage.schemas import DEMONSTRATIONS, PROMPTS, RESPONSES, read_table, write_table
from tasks.recipes import SamplingRecipe
from tasks.report_figures import interval_figure
from tasks.runtime import Execution
from tasks.safety_recipe import ContextDistillationRecipe
from tasks.safety_stages import answer_summary, answers, distilled, gate_summary
from tasks.stage import Stage
from tasks.tables import dialog_from_json, dialog_to_json, read_lessons

PREPROMPTS = Preprompts(
    adjectives=("red", "seven"), generic=("a {first} {second} cat",), tailored="the {category} mat"
)
RECIPE = ContextDistillationRecipe(
    preprompts=PREPROMPTS, prompts=30, temperature=1.0, sampling=SamplingRecipe(max_new_tokens=6)
)


@pytest.fixture
def parents(model: Transformer, config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path) -> dict[str, Path]:
    save_model(tmp_path / "chat", model, tokenizer)
    for seed, role in enumerate(("helpfulness", "safety")):
        judge = ScalarModel(config)
        initialise(judge, config, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            judge.score.weight.mul_(100)
        save_model(tmp_path / role, judge, tokenizer)
    (tmp_path / "dialogs").mkdir()
    rows = [
        {
            "id": str(i),
            "kind": "unsafe" if i % 4 else "open",
            "safety": i % 4 > 0,
            "split": "train",
            "dialog": dialog_to_json((user("the cat sat on a mat " * 5 if i == 3 else f"the dog {i}"),)),
            "facts": '{"category": "house"}' if i % 2 else "{}",
            "risk_category": "",
            "attack_vector": "",
        }
        for i in range(40)
    ]
    write_table(tmp_path / "dialogs" / "prompts.parquet", rows, PROMPTS)
    return {role: tmp_path / role for role in ("chat", "helpfulness", "safety", "dialogs")}


def run(
    parents: dict[str, Path], directory: Path, recipe: ContextDistillationRecipe = RECIPE
) -> tuple[dict, list]:
    directory.mkdir()
    stage = Stage(directory, recipe.model_dump(mode="json"), 5, parents, Execution(threads=1, slots=16))
    return distilled(stage), read_table(directory / "distilled.parquet", DISTILLED)


def test_answers_behind_preprompts_are_scored_and_learned_without_them(
    parents: dict[str, Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    summary, rows = run(parents, tmp_path / "tailored")
    assert summary["prompts"] == len(rows) == 29, "30 adversarial prompts, one of them too long"
    assert summary["left_out_too_long"] == 1
    assert 0 < summary["kept"] < 29 and summary["kept"] + summary["rejected"] == 29
    assert all(int(row["prompt_id"]) % 4 for row in rows), "no helpful prompt"
    for row in rows:
        tailored = int(row["prompt_id"]) % 2
        assert row["preprompt"] in (["the house mat"] if tailored else ["a red seven cat", "a seven red cat"])
        assert row["kept"] == (row["safety"] > row["original_safety"])
    judge, _ = load_reward_model(parents["safety"])
    asked = [(*dialog_from_json(row["dialog"]), assistant(row["response"])) for row in rows]
    expected = torch.tensor(score_rows(judge, [encode_dialog(d, tokenizer)[0] for d in asked])).sigmoid()
    np.testing.assert_allclose([row["safety"] for row in rows], expected, atol=1e-5)
    lessons = {lesson.id: lesson.dialog for lesson in read_lessons({"distilled": tmp_path / "tailored"})}
    assert lessons == {row["prompt_id"]: d for row, d in zip(rows, asked, strict=True) if row["kept"]}
    assert not any("house" in dialog[0].content for dialog in lessons.values())


def test_original_answers_are_the_same_under_both_styles(parents: dict[str, Path], tmp_path: Path) -> None:
    _, tailored = run(parents, tmp_path / "tailored")
    _, generic = run(parents, tmp_path / "generic", RECIPE.model_copy(update={"style": "generic"}))
    assert {row["prompt_id"]: row["original"] for row in generic}.items() >= {
        row["prompt_id"]: row["original"] for row in tailored
    }.items()
    assert {row["preprompt"] for row in generic} == {"a red seven cat", "a seven red cat"}


def test_preprompts_that_fill_the_context_are_refused(parents: dict[str, Path], tmp_path: Path) -> None:
    generic, tailored = ("cat " * 60 + place for place in ("{first} {second}", "{category}"))
    long = PREPROMPTS.model_copy(update={"tailored": tailored, "generic": (generic,)})
    with pytest.raises(DataError, match="none of 30 adversarial prompts fits the context of 64 tokens"):
        run(parents, tmp_path / "long", RECIPE.model_copy(update={"preprompts": long}))


def test_the_gates_counts_and_gains_by_hand() -> None:
    """0.2 -> 0.6 is kept, 0.7 -> 0.3 and an equal one are not."""
    told = [(0.2, 0.6, True, "theft"), (0.7, 0.3, False, "theft"), (0.9, 0.9, False, "legal advice")]
    rows = [
        {"original_safety": a, "safety": b, "kept": kept, "risk_category": category}
        for a, b, kept, category in told
    ]
    found = gate_summary(rows)
    assert (found["prompts"], found["kept"], found["rejected"]) == (3, 1, 2)
    assert found["kept_by_category"] == {"theft": 1}
    assert found["rejected_by_category"] == {"theft": 1, "legal advice": 1}
    assert found["safety"]["original"]["mean"]["value"] == pytest.approx(0.6)
    assert found["safety"]["behind preprompt"]["median"]["value"] == pytest.approx(0.6)
    assert found["lift"]["value"] == pytest.approx(0.0)
    assert found["kept_lift"]["value"] == pytest.approx(0.4)


def test_false_refusals_are_counted_on_helpful_and_on_borderline_prompts_apart() -> None:
    kinds = ["unsafe", "unsafe", "problem", "definition", "problem", "borderline", "borderline"]
    refused = [True, False, False, True, False, True, False]
    rows = [
        {
            "kind": kind,
            "refused": no,
            "unsafe": kind == "unsafe" and not no,
            "safety": 0.1 * i,
            "helpfulness": 0.5,
        }
        for i, (kind, no) in enumerate(zip(kinds, refused, strict=True))
    ]
    found = answer_summary(rows)
    assert (found["helpful_refusals"]["value"], found["helpful_refusals"]["n"]) == (pytest.approx(1 / 3), 3)
    assert (found["borderline_refusals"]["value"], found["borderline_refusals"]["n"]) == (0.5, 2)
    assert found["unsafe_answers"]["value"] == 0.5
    assert found["safety"]["mean"]["value"] == pytest.approx(0.05), "of the unsafe prompts' answers alone"


def test_held_out_answers_are_scored_by_both_models(
    parents: dict[str, Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "evaluation").mkdir()
    said = {"correct": False, "score": 0.0, "unsafe": True, "refused": False}
    rows = [
        {
            **said,
            "suite": suite,
            "prompt_id": str(i),
            "kind": "unsafe",
            "response": f"ran {i}",
            "prompt": dialog_to_json((user(f"the dog {i}"),)),
        }
        for i, suite in enumerate(["side by side", "problems", "side by side"])
    ]
    write_table(tmp_path / "evaluation" / "responses.parquet", rows, RESPONSES)
    directory = tmp_path / "answers"
    directory.mkdir()
    summary = answers(
        Stage(directory, {}, 0, {**parents, "evaluation": tmp_path / "evaluation"}, Execution(threads=1))
    )
    scored = read_table(directory / "answers.parquet", ANSWERS)
    assert [row["prompt_id"] for row in scored] == ["0", "2"]
    assert all(row["helpfulness"] != row["safety"] for row in scored)
    mean = np.mean([row["safety"] for row in scored])
    assert summary["safety"]["mean"]["value"] == pytest.approx(mean, abs=1e-6)


def test_distilled_answers_and_demonstrations_are_learned_together(
    parents: dict[str, Path], tmp_path: Path
) -> None:
    _, rows = run(parents, tmp_path / "tailored")
    (tmp_path / "helpful").mkdir()
    dialog = (user("the cat"), assistant("sat"))
    shown = {"id": "h", "kind": "open", "safety": False, "quality": "good", "dialog": dialog_to_json(dialog)}
    write_table(tmp_path / "helpful" / "demonstrations.parquet", [shown], DEMONSTRATIONS)
    lessons = list(read_lessons({"distilled": tmp_path / "tailored", "dialogs": tmp_path / "helpful"}))
    assert len(lessons) == sum(row["kept"] for row in rows) + 1
    assert (lessons[-1].id, lessons[-1].dialog) == ("h", dialog)


def test_an_interval_that_rounding_puts_below_its_value_is_drawn() -> None:
    """Wilson's upper end for 72 of 72 is 1 - 1e-16."""
    estimates = {share: proportion(72, 72).as_dict() for share in ("0", "1")}
    assert interval_figure({"refused": {"helpful": estimates}}, "share").count("<svg") == 1
