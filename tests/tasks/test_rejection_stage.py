"""Rejection sampling as the worker does it: the best by both judges, over rounds too; distillation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prefect.artifacts import Artifact as PrefectArtifact
from prefect.testing.utilities import prefect_test_harness

from flows.rlhf import distill, rejection
from llama2_core.chat import user
from llama2_core.config import ModelConfig, OptimizerConfig
from llama2_core.errors import ConfigError, DataError
from llama2_core.model import ScalarModel, Transformer, initialise
from llama2_core.rlhf.reward import score_rows
from llama2_core.tokenizer import Tokenizer, train_tokenizer
from llama2_core.training.checkpoint import load_policy, load_reward_model, save_model
from storage.schemas import SAMPLES, read_table, write_table
from tasks.jobs import Job, Own
from tasks.launch import build, find
from tasks.recipes import FineTuneRecipe
from tasks.rejection_stage import samples
from tasks.runtime import Execution, Runtime
from tasks.sampling_recipe import RejectionRecipe, SamplingRecipe
from tasks.stage import Stage
from tasks.stage_run import tracker
from tasks.tables import dialog_from_json, dialog_to_json, encode_answer, read_lessons
from tasks.training_stages import fine_tune

RECIPE = RejectionRecipe(
    samples=6, prompts=12, temperatures=(0.7, 1.3), sampling=SamplingRecipe(max_new_tokens=6)
)
Row = dict[str, Any]


def drawn(
    directory: Path, parents: dict[str, Path], recipe: RejectionRecipe = RECIPE
) -> tuple[dict, list[Row]]:
    """The stage's summary and table."""
    directory.mkdir()
    summary = samples(Stage(directory, recipe.model_dump(mode="json"), 3, parents, Execution(threads=1)))
    return summary, read_table(directory / "samples.parquet", SAMPLES)


def test_the_table_holds_every_score_and_marks_the_best(parents: dict[str, Path], tmp_path: Path) -> None:
    summary, rows = drawn(tmp_path / "samples", parents)
    assert [(row["sample"], row["temperature"]) for row in rows[:6]] == [
        (k, pytest.approx((0.7, 1.3)[k % 2])) for k in range(6)
    ]
    for role in ("helpfulness", "safety"):
        model, tokenizer = load_reward_model(parents[role])
        tokens = [encode_answer(dialog_from_json(r["dialog"]), r["response"], tokenizer) for r in rows]
        expected = torch.tensor(score_rows(model, tokens)).sigmoid()
        assert [row[role] for row in rows] == pytest.approx(expected.tolist(), abs=1e-5)
    for row in rows:
        assert row["tagged"] == (int(row["prompt_id"]) % 4 == 0)
        by_safety = row["tagged"] or row["safety"] < RECIPE.safety_threshold
        assert row["reward"] == row["safety" if by_safety else "helpfulness"]
        assert row["origin"] is None
    rewards = np.array([row["reward"] for row in rows]).reshape(12, 6)
    assert [k for k, row in enumerate(rows) if row["selected"]] == [
        6 * prompt + best for prompt, best in enumerate(rewards.argmax(axis=1))
    ]
    assert (summary["samples"], summary["prompts"], summary["lessons"]) == (72, 12, 12)
    assert summary["reward_curve"][-1]["maximum"] == pytest.approx(summary["selected_reward"])
    at = {
        t: rewards[:, start::2].max(axis=1).mean() for start, t in enumerate((0.7, 1.3))
    }  # three samples each
    told = {row["temperature"]: row["maximum"] for row in summary["temperature_curve"] if row["n"] == 3}
    assert told == pytest.approx(at, abs=1e-6)
    assert summary["best_temperature"] == max(at, key=lambda t: at[t])


def test_equal_answers_count_once(parents: dict[str, Path], tmp_path: Path) -> None:
    """All but greedily, a prompt's samples are one answer."""
    cold = RECIPE.model_copy(update={"temperatures": (1e-6,)})
    summary, rows = drawn(tmp_path / "samples", parents, cold)
    assert summary["distinct"] == summary["lessons"] == 12
    assert len({(row["dialog"], row["response"], row["reward"]) for row in rows}) == 12
    lessons = list(read_lessons({"samples": tmp_path / "samples"}))
    assert len(lessons) == len({lesson.dialog for lesson in lessons}) == 12


def earlier(directory: Path, *rows: Row) -> Path:
    """Samples of an earlier round, scored by whoever judged then."""
    directory.mkdir()
    whole = {
        "sample": 0,
        "kind": "open",
        "tagged": False,
        "temperature": 0.9,
        "helpfulness": 2.0,
        "safety": 2.0,
        "reward": 2.0,
        "selected": True,
        "origin": None,
    }
    write_table(directory / "samples.parquet", [whole | row for row in rows], SAMPLES)
    return directory


def asked(text: str) -> str:
    return dialog_to_json((user(text),))


def test_earlier_choices_are_scored_anew_and_compete(parents: dict[str, Path], tmp_path: Path) -> None:
    _, rows = drawn(tmp_path / "first", parents)
    ours = {row["dialog"]: row for row in rows if row["selected"]}
    (first, best), (second, other) = list(ours.items())[:2]
    texts = [f"the {word} sat" for word in ("dog", "mat", "house", "pears", "red", "nine", "cat")]
    one = earlier(
        tmp_path / "one",
        *({"prompt_id": "x", "dialog": first, "response": text} for text in texts),
        {"prompt_id": "y", "dialog": second, "response": other["response"]},  # what is drawn here again
        {"prompt_id": "z", "dialog": asked("the red"), "response": "house", "tagged": True},
        {"prompt_id": "z", "dialog": asked("the red"), "response": "mat", "selected": False},
    )
    two = earlier(
        tmp_path / "two",
        {"prompt_id": "z", "dialog": asked("the red"), "response": "house", "origin": "zero"},
        {
            "prompt_id": "z",
            "dialog": asked("the red"),
            "response": "apples",
            "origin": "zero",
            "tagged": True,
        },
    )
    summary, again = drawn(tmp_path / "second", {**parents, "earlier1": one, "earlier2": two})
    assert again[:72] == [row | {"selected": again[i]["selected"]} for i, row in enumerate(rows)]
    carried = again[72:]
    assert [(row["response"], row["origin"]) for row in carried] == [
        *((text, "one") for text in texts),
        ("house", "one"),
        ("apples", "zero"),
    ]
    assert all(row["reward"] <= 1 for row in carried), "no score of then is left"
    for dialog in (first, asked("the red")):
        candidates = [row for row in again if row["dialog"] == dialog]
        [chosen] = [row for row in candidates if row["selected"]]
        assert chosen["reward"] == max(row["reward"] for row in candidates)
    assert carried[-1]["reward"] == carried[-1]["safety"], (
        "of a safety prompt, which is not among these prompts"
    )
    assert [row["selected"] for row in again[:72] if row["dialog"] == second].count(True) == 1
    assert (summary["lessons"], summary["carried_over"]) == (13, 9)
    beaten = max(row["reward"] for row in carried if row["dialog"] == first) > best["reward"]
    assert summary["lessons_carried_over"] == 1 + beaten
    lessons = [lesson.dialog for lesson in read_lessons({"samples": tmp_path / "second"})]
    assert len(lessons) == 13 and len({dialog[:-1] for dialog in lessons}) == 13


def test_a_reward_model_that_gives_no_number_is_told(
    parents: dict[str, Path], config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    broken = ScalarModel(config)
    initialise(broken, config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        broken.score.weight.fill_(torch.nan)
    save_model(parents["helpfulness"], broken, tokenizer)
    with pytest.raises(DataError, match=r"no number for an answer to prompt \d+"):
        drawn(tmp_path / "samples", parents)


def test_a_reward_model_of_another_vocabulary_is_refused(
    parents: dict[str, Path], config: ModelConfig, tmp_path: Path
) -> None:
    other = train_tokenizer([f"the dog ran {n} times" for n in range(60)], 300, ["[INST]", "[/INST]"])
    save_model(parents["safety"], ScalarModel(config), other)
    with pytest.raises(ConfigError, match="the safety reward model safety has another tokenizer"):
        drawn(tmp_path / "samples", parents)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A smaller base model with a tokenizer of its own."""
    words = train_tokenizer(
        [f"one cat sat on {n} mats and the dog ran" for n in range(60)], 290, ["[INST]", "[/INST]"]
    )
    config = ModelConfig(
        vocab_size=290, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, multiple_of=16, max_seq_len=96
    )
    model = Transformer(config)
    initialise(model, config, torch.Generator().manual_seed(1))
    save_model(tmp_path / "small", model, words)
    return tmp_path / "small"


LESSONS = FineTuneRecipe(
    epochs=30, rows=2, optimizer=OptimizerConfig(peak_learning_rate=1e-2, warmup_steps=2)
)


def test_a_smaller_model_with_another_tokenizer_learns_what_a_larger_one_said(
    parents: dict[str, Path], small: Path, tmp_path: Path
) -> None:
    drawn(tmp_path / "samples", parents)
    (tmp_path / "distilled").mkdir()
    sources = {"base": small, "samples": tmp_path / "samples"}
    summary = fine_tune(
        Stage(tmp_path / "distilled", LESSONS.model_dump(mode="json"), 0, sources, Execution(threads=1))
    )
    assert summary["dialogs"] == 12 and summary["left_out_too_long"] == 0
    assert summary["final_loss"] < 0.75 * summary["first_loss"]
    _, tokenizer = load_policy(tmp_path / "distilled")
    assert tokenizer.digest == load_policy(small)[1].digest != load_policy(parents["chat"])[1].digest


@pytest.mark.drill
def test_both_flows_with_real_workers(parents: dict[str, Path], small: Path, tmp_path: Path) -> None:
    """Two rounds, the second over the first's samples; a smaller model learns from the second."""
    runtime = Runtime(home=tmp_path / "var", threads=1)
    brief = FineTuneRecipe(epochs=1, rows=4)
    with prefect_test_harness(server_startup_timeout=180):

        def stored(kind: str, path: Path) -> str:
            """Put files into the store."""

            def fill(directory: Path) -> dict:
                for file in path.iterdir():
                    (directory / file.name).write_bytes(file.read_bytes())
                return {}

            job = Job(path.name, kind, Own(), inputs={"of": path.name})
            return build(job, runtime, fill)

        kinds = {"chat": "chat", "helpfulness": "reward", "safety": "reward", "dialogs": "dialogs"}
        names = {role: stored(kind, parents[role]) for role, kind in kinds.items()}
        base = names["chat"]
        first = rejection(base, **names, recipe=RECIPE, fine_tune=brief, seed=1, runtime=runtime)
        before = find(first, runtime).manifest.parents["samples"]
        second = rejection(
            base, **names, recipe=RECIPE, fine_tune=brief, seed=2, runtime=runtime, earlier=[before]
        )
        after = find(second, runtime).manifest.parents["samples"]
        made = find(after, runtime)
        assert made.manifest.parents["earlier1"] == before
        rows = read_table(made.file("samples.parquet"), SAMPLES)
        origins = {row["origin"] for row in rows if row["selected"]}
        assert origins == {None, before.partition("/")[2]}, "each round has the best of some prompts"
        assert made.manifest.recipe["engine"] == {"kind": "built-in"}
        distilled = find(distill(stored("base", small), after, brief, 3, runtime), runtime)
        assert distilled.manifest.parents["samples"] == after
        assert distilled.summary["dialogs"] == made.summary["lessons"]
        shown = PrefectArtifact.get("rejection-samples")
        assert shown and f"Best temperature: {made.summary['best_temperature']:g}." in str(shown.data)
    run = tracker(runtime).newest(made.digest)
    figures = sorted(path.name for path in runtime.home.glob(f"mlflow/**/{run}/artifacts/figures/*.svg"))
    assert figures == ["best-of-n-by-temperature.svg", "best-of-n.svg"]
    assert json.loads(json.dumps(made.summary)) == made.summary
