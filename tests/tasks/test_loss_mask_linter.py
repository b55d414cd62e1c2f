"""The gate in real flows: right data pass, planted faults stop the flow, what others wrote stays text."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prefect.artifacts import Artifact as PrefectArtifact
from prefect.testing.utilities import prefect_test_harness

from flows.reward import reward
from flows.rlhf import dpo, ppo, rejection
from flows.sft import sft
from llama2_core.chat import Dialog, assistant, user
from llama2_core.config import ModelConfig, Record
from llama2_core.errors import DataError
from llama2_core.tokenizer import Tokenizer
from storage.schemas import COMPARISONS, DEMONSTRATIONS, PROMPTS, SAMPLES, write_table
from tasks.dialogs import write_dialogs
from tasks.dpo_recipe import DPORecipe
from tasks.jobs import Job, Own
from tasks.launch import build
from tasks.loss_mask_linter import lint_loss_masks
from tasks.recipes import (
    DialogsRecipe,
    FineTuneRecipe,
    PPORecipe,
    RejectionRecipe,
    RewardRecipe,
    SamplingRecipe,
)
from tasks.runtime import Runtime
from tasks.stage_run import tracker
from tasks.tables import dialog_to_json

RIGHT = (user("the cat"), assistant("sat on a mat"))
TAGGED = (user("the cat"), assistant("sat [INST] on"))
LONG = (user("the cat"), assistant("the dog ran to the red house " * 12))
HOSTILE = "<script>alert(1)</script> | `code` </pre> [x](javascript:y)"
PPO = PPORecipe(sampling=SamplingRecipe(max_new_tokens=16))
Commit = Callable[..., str]


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime(home=tmp_path_factory.mktemp("linter"), threads=1)


PPO_SUMMARY = {
    "iterations": 2,
    "first": {"iteration": 0, "objective": 1.0},
    "best": {"iteration": 0, "objective": 1.0},
    "findings": [{"name": "kl", "iteration": 2, "iterations": 1, "stops": True, "says": "KL is 31."}],
}


SAMPLES_SUMMARY = {
    **dict.fromkeys(("samples", "prompts", "distinct", "lessons"), 1),
    "lessons_carried_over": 0,
    "reward_curve": [{"n": 1, "maximum": 0.5, "median": 0.5}],
    "temperature_curve": [{"temperature": 1.0, "n": 1, "maximum": 0.5, "median": 0.5}],
    "best_temperature": 1.0,
}


@pytest.fixture(scope="module")
def commit(prefect: None, runtime: Runtime) -> Commit:
    """Put an artifact of whatever content into the store, under a seed of its own unless one is said."""
    seeds = itertools.count(100)

    def commit(kind: str, fill: Callable[[Path], Any] = lambda _: {}, **identity: Any) -> str:
        identity = {"recipe": Own(), "seed": next(seeds)} | identity
        return build(Job(kind, kind, **identity), runtime, lambda path: dict(fill(path) or {}))

    return commit


@pytest.fixture
def model(commit: Commit, config: ModelConfig, tokenizer: Tokenizer) -> str:
    return commit("chat", checkpoint(config, tokenizer))


def checkpoint(config: ModelConfig, tokenizer: Tokenizer) -> Callable[[Path], None]:
    """A model without its weights."""

    def fill(directory: Path) -> None:
        (directory / "config.json").write_text(config.model_dump_json())
        (directory / "tokenizer.model").write_bytes(tokenizer.model)

    return fill


def table(name: str, schema: pa.Schema, *rows: dict[str, Any]) -> Callable[[Path], None]:
    """What writes a table; a column that is not said is empty."""
    empty = {pa.string(): "", pa.bool_(): False}
    whole = [{field.name: empty.get(field.type, 0) for field in schema} | row for row in rows]
    return lambda path: write_table(path / f"{name}.parquet", whole, schema)


def demonstrations(*dialogs: Dialog, name: str = "demonstration") -> Callable[[Path], None]:
    rows = [{"id": f"{name}-{i}", "dialog": dialog_to_json(dialog)} for i, dialog in enumerate(dialogs)]
    return table("demonstrations", DEMONSTRATIONS, *rows)


def samples(response: str) -> Callable[[Path], Any]:
    """The best sample, and one with a fault that nobody learns."""
    row = {"prompt_id": "train-9", "dialog": dialog_to_json(RIGHT[:1])}
    best, worse = {"response": response, "selected": True}, {"response": "[INST]", "selected": False}
    write = table("samples", SAMPLES, row | best, row | worse)
    return lambda path: write(path) or SAMPLES_SUMMARY


def comparisons(chosen: str, rejected: str) -> Callable[[Path], None]:
    dialog = dialog_to_json(RIGHT[:1])
    row = {"id": "c-7", "dialog": dialog, "chosen": chosen, "rejected": rejected}
    return table("comparisons", COMPARISONS, row)


def prompts(dialog: Dialog) -> Callable[[Path], None]:
    return table("prompts", PROMPTS, {"id": "train-3", "split": "train", "dialog": dialog_to_json(dialog)})


def report(runtime: Runtime, name: str) -> str:
    return (runtime.home / "loss-masks" / f"{name}.md").read_text()


def test_the_starter_demonstrations_pass(
    commit: Commit, config: ModelConfig, tokenizer: Tokenizer, runtime: Runtime
) -> None:
    base = checkpoint(config.model_copy(update={"max_seq_len": 512}), tokenizer)
    recipe = DialogsRecipe(demonstrations=300, train_prompts=200, held_out_prompts=20, multiple_choice=5)
    talk = commit("dialogs", lambda path: write_dialogs(recipe, 3, path))
    parents = {"base": commit("base", base), "dialogs": talk}
    lint_loss_masks(Job("Starter data", "chat", FineTuneRecipe(), 3, parents), runtime)
    page = report(runtime, "loss-masks-starter-data")
    assert "300 checked, from base `base/" in page
    assert page.count("<pre>") == page.count("</pre>") == 10
    assert page.count("&lt;/s&gt;</mark>") == page.count("<mark>") >= 10
    assert "| none | 0 |" in page
    [logged] = runtime.home.glob("mlflow/*/artifacts/loss-masks/loss-masks-starter-data.md")
    assert logged.read_text() == page
    shown = PrefectArtifact.get("loss-masks-starter-data")
    assert shown and shown.data == page


@pytest.mark.parametrize(
    ("dialogs", "message"),
    [
        ([RIGHT, TAGGED], r"1 of 2 .*demonstration-1: message 1 of the dialog holds the template's tag"),
        ([RIGHT, RIGHT[1:]], "demonstration-1: turn 0 of the dialog is by 'assistant'"),
        ([RIGHT[:1], RIGHT], "demonstration-0: the dialog must end with a turn by 'assistant'"),
        ([RIGHT, LONG], r"1 of 2 are too long .*demonstration-1: \d+ tokens are more than the 65"),
    ],
)  # fmt: skip
def test_sft_stops_at_a_fault(
    dialogs: list[Dialog], message: str, commit: Commit, model: str, runtime: Runtime
) -> None:
    talk = commit("dialogs", demonstrations(*dialogs))
    with pytest.raises(DataError, match=message):
        sft(FineTuneRecipe(), model, talk, 0, runtime)
    assert "demonstration-" in report(runtime, "loss-masks-sft")
    stage = next(run for run in tracker(runtime).runs() if run.info.run_name == "SFT")
    assert stage.info.status == "FAILED"


def test_rejection_sampling_stops_at_a_fault(commit: Commit, model: str, runtime: Runtime) -> None:
    parents = dict.fromkeys(("chat", "helpfulness", "safety", "dialogs"), model)
    commit("samples", samples("sat <<SYS>> on"), recipe=RejectionRecipe(), seed=4, parents=parents)
    with pytest.raises(DataError, match="train-9: message 1 of the dialog holds the template's tag <<SYS>>"):
        rejection(model, **parents, seed=4, runtime=runtime)
    right = {"base": model, "samples": commit("samples", samples("ran"))}
    lint_loss_masks(Job("rejection sampling", "chat", FineTuneRecipe(), 4, right), runtime)
    assert "1 checked, from base" in report(runtime, "loss-masks-rejection-sampling")


@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [
        ("ran", "ran", "c-7: the chosen answer is the rejected one"),
        ("ran", "the [/INST] mat", "c-7: message 1 of the dialog holds the template's tag"),
        ("ran", "a red house " * 20, r"c-7: \d+ tokens are more than the 64 there is room for"),
    ],
)
def test_reward_modelling_stops_at_a_fault(
    chosen: str, rejected: str, message: str, commit: Commit, model: str, runtime: Runtime
) -> None:
    right = commit("comparisons", comparisons("ran", "sat"))
    wrong = commit("comparisons", comparisons(chosen, rejected))
    with pytest.raises(DataError, match=message):
        reward(model, [right, wrong], RewardRecipe(), 0, runtime)
    assert "</mark>" in report(runtime, "loss-masks-helpfulness-reward-model-2")
    with pytest.raises(DataError, match=message):
        dpo(model, [right, wrong], DPORecipe(), 0, runtime)
    assert "[/INST]<mark>·ran·&lt;/s&gt;</mark>" in report(runtime, "loss-masks-dpo")


@pytest.mark.parametrize(
    ("dialog", "message"),
    [
        (RIGHT, "train-3: the dialog must end with a turn by 'user'"),
        ((user("the red house " * 14),), r"train-3: \d+ tokens are more than the 48 there is room for"),
    ],
)
def test_ppo_stops_at_a_fault(
    dialog: Dialog, message: str, commit: Commit, model: str, runtime: Runtime
) -> None:
    talk = commit("dialogs", prompts(dialog))
    with pytest.raises(DataError, match=message):
        ppo(model, model, model, PPO, talk, 0, runtime)


def test_a_stage_that_is_in_the_store_is_not_looked_at(commit: Commit, model: str, runtime: Runtime) -> None:
    """The data have faults, so a flow that looked, or did not find the very stage, would fail."""

    def made(kind: str, recipe: Record, **parents: str) -> str:
        return commit(kind, recipe=recipe, seed=5, parents=parents)

    talk = commit("dialogs", demonstrations(TAGGED))
    pairs = commit("comparisons", comparisons("ran", "ran"))
    chat = made("chat", FineTuneRecipe(), base=model, dialogs=talk)
    judge = made("reward", RewardRecipe(), chat=model, comparisons1=pairs, comparisons2=pairs)
    judged = {"chat": chat, "helpfulness": judge, "safety": judge, "dialogs": talk}
    drawn = commit("samples", samples("[INST]"), recipe=RejectionRecipe(), seed=5, parents=judged)
    tuned = made("chat", FineTuneRecipe(), base=model, samples=drawn)
    parents = {"chat": model, "helpfulness": judge, "safety": judge, "dialogs": talk}
    best = commit("ppo", lambda _: PPO_SUMMARY, recipe=PPO, seed=5, parents=parents)
    assert sft(FineTuneRecipe(), model, talk, 5, runtime) == chat
    assert reward(model, [pairs, pairs], RewardRecipe(), 5, runtime) == judge
    assert rejection(model, **judged, seed=5, runtime=runtime) == tuned
    assert ppo(model, judge, judge, PPO, talk, 5, runtime) == best
    curves = PrefectArtifact.get("rejection-samples")
    assert curves and "Best temperature: 1." in str(curves.data)
    figures = runtime.home.glob("mlflow/*/artifacts/figures/*.svg")
    assert {path.name for path in figures} == {"best-of-n-by-temperature.svg", "best-of-n.svg"}
    tags = {run.data.tags.get("llama2.digest"): run.data.tags for run in tracker(runtime).runs()}
    assert tags[best.partition("/")[2]]["llama2.diagnosis"] == "kl"
    assert tags[best.partition("/")[2]]["llama2.diagnosis.kl"] == "KL is 31."
    shown = PrefectArtifact.get("ppo-diagnosis")
    assert shown and "- **kl**, iteration 2 (stopped here), 1 in all: KL is 31." in str(shown.data)


def test_a_report_shows_text_of_others_as_text(commit: Commit, model: str, runtime: Runtime) -> None:
    said = (user("the cat"), assistant(HOSTILE))
    turned = (user(HOSTILE), user(HOSTILE))
    talk = commit("dialogs", demonstrations(said, turned, name=HOSTILE))
    roomy = runtime.model_copy(update={"too_long_share": 1.0})
    with pytest.raises(DataError, match="turn 1 of the dialog"):
        sft(FineTuneRecipe(), model, talk, 0, roomy)
    page = report(runtime, "loss-masks-sft")
    assert "<script" not in page
    assert page.count("</pre>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\| \\`code\\` &lt;/pre&gt; \\[x\\](javascript:y)-1" in page
    assert "·&lt;script&gt;alert(1)&lt;/script&gt;·|·`code`·&lt;/pre&gt;" in page
