"""Reward models as the worker trains them: all weights or adapters, warm-up, shares of the data, resume."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from benchmarks import hh_rlhf
from llama2_core.chat import user
from llama2_core.config import GRADES, LoopConfig, LoRAConfig, OptimizerConfig
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import load_reward_model, save_model
from storage.schemas import COMPARISONS, read_table, write_table
from tasks.recipes import Llama2Recipe
from tasks.reward_recipe import RewardRecipe
from tasks.runtime import Execution
from tasks.stage import Stage
from tasks.tables import dialog_to_json, read_comparison_rows
from tasks.training_stages import reward, with_warmup

ROOT = Path(__file__).parents[2]
OPTIMIZER = OptimizerConfig(peak_learning_rate=1e-2, warmup_steps=2)


def comparison(number: int, **changes: Any) -> dict[str, Any]:
    """Return a comparison whose chosen answer speaks of a cat, and the other of a dog."""
    row = {
        "id": f"1-{number}",
        "prompt_id": str(number),
        "batch": "1",
        "kind": "conversation",
        "safety": number % 4 == 0,
        "dialog": dialog_to_json((user(f"who sat on {number} mats"),)),
        "chosen": "the red cat sat" + " and ran" * (number % 3),
        "rejected": "a dog ran to seven" + " pears" * (number % 2),
        "chosen_model": "newest",
        "rejected_model": "other",
        "chosen_temperature": 0.8,
        "rejected_temperature": 1.0,
        "grade": GRADES[number % 4],
        "safety_bin": "chosen safe, other unsafe" if number % 4 == 0 else "",
        "chosen_safe": True,
        "rejected_safe": number % 4 != 0,
        "annotator": "test",
        "turns": 1,
        "held_out": number % 5 == 0,
    }
    return {**dict.fromkeys(COMPARISONS.names), **row, **changes}


@pytest.fixture
def parents(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> dict[str, Path]:
    save_model(tmp_path / "chat-parent", model, tokenizer)
    (tmp_path / "comparisons").mkdir()
    write_table(
        tmp_path / "comparisons" / "comparisons.parquet", [comparison(i) for i in range(60)], COMPARISONS
    )
    return {"chat": tmp_path / "chat-parent", "comparisons1": tmp_path / "comparisons"}


def trained(folder: Path, parents: dict[str, Path], **changes: Any) -> dict[str, Any]:
    folder.mkdir()
    recipe = RewardRecipe(rows=8, epochs=4, optimizer=OPTIMIZER, **changes)
    return reward(
        Stage(folder, recipe.model_dump(mode="json"), 5, parents, Execution(threads=1, log_every=1))
    )


def test_adapters_leave_a_whole_reward_model(parents: dict[str, Path], tmp_path: Path) -> None:
    summary = trained(tmp_path / "reward", parents, lora=LoRAConfig(rank=4, alpha=8.0))
    assert summary["final_loss"] < 0.8 * summary["first_loss"]
    assert summary["accuracy"]["helpfulness"]["all"] == {"right": 9, "n": 9}
    model, _ = load_reward_model(tmp_path / "reward")
    base = load_file(parents["chat"] / "model.safetensors")
    changed = {
        name for name, weight in base.items()
        if name != "output.weight" and not torch.equal(weight, model.transformer.state_dict()[name])
    }  # fmt: skip
    assert changed == {name for name in base if name.split(".")[-2][0] == "w"}, (
        "embeddings, norms are as they were"
    )


def test_a_share_of_the_pairs_is_learned_from(parents: dict[str, Path], tmp_path: Path) -> None:
    counts = {
        share: trained(tmp_path / str(share), parents, pairs_share=share)["pairs"] for share in (0.5, 1.0)
    }
    assert counts == {0.5: 24, 1.0: 48}  # 36 of helpfulness, and all 12 of safety, which would be a third


def test_warm_up_is_three_percent_and_five_updates_at_least() -> None:
    loop = LoopConfig(steps=100, rows=1, optimizer=RewardRecipe().optimizer)
    for steps, warmup in ((100, 5), (200, 6), (1000, 30)):
        whole = with_warmup(loop.model_copy(update={"steps": steps}), RewardRecipe().warmup_share)
        assert whole.optimizer.warmup_steps == warmup


def test_an_unsafe_choice_over_a_safe_answer_teaches_nothing(tmp_path: Path) -> None:
    rows = [
        comparison(0, chosen_safe=False, rejected_safe=True),
        comparison(4, chosen_safe=False, rejected_safe=False),
        comparison(1, chosen_safe=False, rejected_safe=True),  # no safety prompt: nobody looked at safety
    ]
    write_table(tmp_path / "comparisons.parquet", rows, COMPARISONS)
    assert [row["id"] for row in read_comparison_rows([tmp_path])] == ["1-4", "1-1"]


def test_bad_recipes_are_refused_with_a_reason() -> None:
    with pytest.raises(ValidationError, match="a reward model has no output layer"):
        RewardRecipe(lora=LoRAConfig(targets=("wq", "output")))
    for overrides, reason in (
        ({"beauty": "so"}, "there is no bar 'beauty'"),
        ({"safety_accuracy": " "}, "without a reason"),
    ):
        with pytest.raises(ValidationError, match=reason):
            Llama2Recipe.model_validate({"rlhf": {"reward_report": {"fitness": {"overrides": overrides}}}})


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoRAConfig(rank=4)])
def test_killed_and_resumed_is_bit_for_bit_the_straight_run(
    parents: dict[str, Path], tmp_path: Path, lora: LoRAConfig | None
) -> None:
    recipe = RewardRecipe(rows=8, epochs=60, optimizer=OPTIMIZER, lora=lora)
    settings = {"threads": 1, "log_every": 1, "checkpoint_every": 10}
    order = {"kind": "reward", "recipe": recipe.model_dump(mode="json"), "seed": 5, "settings": settings}
    told = json.dumps({**order, "parents": {role: str(path) for role, path in parents.items()}})
    folders = [tmp_path / "straight", tmp_path / "broken"]
    for folder in folders:
        folder.mkdir()
        (folder / "job.json").write_text(told)
    commands = [[sys.executable, "-m", "tasks.worker", str(folder)] for folder in folders]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(commands[0], check=True, cwd=ROOT, env=environment)
    process = subprocess.Popen(commands[1], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 60
    while not list((folders[1] / "checkpoints").glob("*20*")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folders[1] / "DONE").exists()
    done = subprocess.run(commands[1], check=True, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "resumed at step" in done.stdout
    straight, resumed = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(weight, resumed[name]) for name, weight in straight.items())


@pytest.mark.slow
@pytest.mark.skipif(not hh_rlhf.PAIRS.exists(), reason=f"{hh_rlhf.PAIRS} is not there")
def test_real_preferences_are_learned_from_and_held_out(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    summary = hh_rlhf.trained(tmp_path, seed=0, epochs=6, limit=80)
    assert summary["final_loss"] < 0.6 * math.log(2)  # a coin has the logarithm of 2
    rows = read_table(tmp_path / "comparisons" / "comparisons.parquet", COMPARISONS)
    held_out = {row["dialog"] for row in rows if row["held_out"]}
    assert held_out.isdisjoint(row["dialog"] for row in rows if not row["held_out"])
    fitting = summary["accuracy"]["safety"]["all"]["n"]
    assert 0.5 * len(held_out) < fitting <= sum(row["held_out"] for row in rows)
