"""Both safety flows for real, with small models: real Prefect, real workers, real MLflow."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.artifacts import Artifact as PrefectArtifact
from prefect.testing.utilities import prefect_test_harness

from flows.evaluate import evaluate
from flows.safety import context_distillation, safety_prompts, safety_scaling
from llama2_core.chat import assistant, user
from llama2_core.config import SamplingConfig
from llama2_core.model import ScalarModel, Transformer
from llama2_core.rlhf.context_distillation import Preprompts
from llama2_core.tokenizer import Tokenizer
from storage.artifacts import Store
from storage.schemas import DEMONSTRATIONS, PROMPTS, write_table
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.recipes import DialogsRecipe, EvaluationRecipe, FineTuneRecipe, SamplingRecipe
from tasks.reward_recipe import RewardRecipe
from tasks.runtime import Runtime
from tasks.safety_recipe import ContextDistillationRecipe, SafetyScalingRecipe
from tasks.stage_run import tracker
from tasks.tables import dialog_to_json

pytestmark = pytest.mark.drill
KINDS = {
    "unsafe": '{"category": "house"}',
    "borderline": '{"keyword": "cat"}',
    "problem": '{"answer": 3, "working": ""}',
}
EVALUATION = EvaluationRecipe(sampling=SamplingConfig(max_new_tokens=6))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with prefect_test_harness(server_startup_timeout=180):
        yield Runtime(home=tmp_path_factory.mktemp("safety") / "var", threads=1, least_free_bytes=0)


@pytest.fixture(scope="module")
def made(runtime: Runtime, tokenizer: Tokenizer, drawn: Callable[..., dict]) -> dict[str, str]:
    def dialogs(directory: Path) -> dict[str, Any]:
        shown = [
            {
                "id": str(i),
                "kind": "unsafe" if i % 2 else "problem",
                "safety": i % 2 == 1,
                "quality": "declines",
                "dialog": dialog_to_json((user(f"the dog {i}"), assistant("the cat sat"))),
            }
            for i in range(24)
        ]
        asked = [
            {
                "id": f"{split}-{kind}-{i}",
                "split": split,
                "kind": kind,
                "safety": kind == "unsafe",
                "risk_category": "house" if kind == "unsafe" else "",
                "attack_vector": "none" if kind == "unsafe" else "",
                "dialog": dialog_to_json((user(f"a cat {i} {split}"),)),
                "facts": facts,
            }
            for split in ("train", "held_out")
            for kind, facts in KINDS.items()
            for i in range(12)
        ]
        write_table(directory / "demonstrations.parquet", shown, DEMONSTRATIONS)
        write_table(directory / "prompts.parquet", asked, PROMPTS)
        question = {"word": "cat", "choices": ["red", "seven"], "answer": 0}
        (directory / "multiple_choice.json").write_text(json.dumps([question]))
        return {}

    def put(kind: str, recipe: Any, seed: int, work: Any) -> str:
        return build(Job(kind, kind, recipe, seed), runtime, work)

    rewards = [
        put("reward", RewardRecipe(), seed, lambda d, seed=seed: drawn(seed, ScalarModel, d))
        for seed in (1, 2)
    ]
    return {
        "base": put("base", FineTuneRecipe(), 0, lambda d: drawn(0, Transformer, d)),
        "helpfulness": rewards[0],
        "safety": rewards[1],
        "dialogs": put("dialogs", DialogsRecipe(), 0, dialogs),
    }


def test_context_distillation_shows_the_gate_and_the_lift(made: dict[str, str], runtime: Runtime) -> None:
    preprompts = Preprompts(
        adjectives=("red", "seven"), generic=("{first} {second}",), tailored="{category} mat"
    )
    recipe = ContextDistillationRecipe(
        preprompts=preprompts, temperature=1.0, sampling=SamplingRecipe(max_new_tokens=6)
    )
    found = context_distillation(
        chat=made["base"],
        helpfulness=made["helpfulness"],
        safety=made["safety"],
        prompts=made["dialogs"],
        dialogs=made["dialogs"],
        recipe=recipe,
        fine_tune=FineTuneRecipe(rows=2),
        evaluation=EVALUATION,
        runtime=runtime,
    )
    summary = find(found["report"], runtime).summary
    for style in ("generic", "tailored"):
        gate = summary["gate"][style]
        assert gate["prompts"] == gate["kept"] + gate["rejected"] == 12
        learned = find(found[style], runtime)
        assert learned.summary["dialogs"] == gate["kept"] + 12, "and the helpful demonstrations"
        assert summary["held_out_lift"][style]["n"] == 12
    table = json.loads(PrefectArtifact.get("context-distillation").data)
    assert [row["answers"] for row in table] == [
        "training prompts, original (generic)",
        "training prompts, behind preprompt (generic)",
        "training prompts, original (tailored)",
        "training prompts, behind preprompt (tailored)",
        "held-out prompts, before",
        "held-out prompts, generic",
        "held-out prompts, tailored",
    ]
    assert table[1]["kept"] == str(summary["gate"]["generic"]["kept"])
    assert table[4]["borderline prompts refused, %"].endswith(" of 12")
    assert table[5]["gain"].startswith(f"{summary['held_out_lift']['generic']['value']:.3f} (")
    digest = found["report"].split("/")[1]
    run = next(run for run in tracker(runtime).runs() if run.data.tags.get("llama2.digest") == digest)
    assert run.data.metrics["gate/tailored/rejected"] == summary["gate"]["tailored"]["rejected"]
    assert run.data.metrics["held_out_lift/generic/value"] == summary["held_out_lift"]["generic"]["value"]


def test_the_scaling_study_holds_helpfulness_fixed(made: dict[str, str], runtime: Runtime) -> None:
    name = safety_scaling(
        base=made["base"],
        helpfulness=made["helpfulness"],
        safety=made["safety"],
        dialogs=made["dialogs"],
        recipe=SafetyScalingRecipe(shares=(0.1, 1)),
        fine_tune=FineTuneRecipe(rows=2),
        evaluation=EVALUATION,
        runtime=runtime,
    )
    report = find(name, runtime)
    assert report.summary["safety_demonstrations"] == {"10": 2, "100": 12}
    store = Store(runtime.store_root)
    learned = [
        a.summary["dialogs"]
        for a in store.artifacts()
        if a.kind == "chat" and "distilled" not in a.manifest.parents
    ]
    assert sorted(learned) == [14, 24]
    assert report.file("figure.svg").read_text().count("<svg") == 1
    table = json.loads(PrefectArtifact.get("safety-data-scaling").data)
    assert [row["safety demonstrations"] for row in table] == ["2", "12"]
    assert table[0]["helpful prompts refused, %"].endswith(" of 12")


def test_a_public_set_measures_refusals(made: dict[str, str], runtime: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "malicious_uses.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"the cat {i}?", "intents": []}) + "\n" for i in range(20)))
    prompts = find(safety_prompts([file], runtime=runtime), runtime)
    assert prompts.summary["train"] + prompts.summary["held_out"] == 20
    assert prompts.manifest.recipe["content"] and str(tmp_path) not in json.dumps(prompts.manifest.recipe)
    name = f"{prompts.kind}/{prompts.digest}"
    facts = find(evaluate(made["base"], "public", EVALUATION, name, runtime=runtime), runtime).summary
    assert facts["unsafe_answers"]["n"] == prompts.summary["held_out"]
