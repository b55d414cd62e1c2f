"""DPO as the worker does it: the reference is asked once, held-out pairs are told, runs resume, processes share."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llama2_core.config import LoRAConfig, OptimizerConfig
from llama2_core.interop.convert import load
from llama2_core.model import Transformer
from llama2_core.rlhf.dpo import AnswerBatch
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from storage.metrics import read_metrics
from storage.schemas import COMPARISONS, write_table
from tasks import dpo_stage
from tasks.dpo_recipe import DPORecipe
from tasks.dpo_stage import Comparisons, dpo
from tasks.runtime import Execution
from tasks.stage import Stage
from tests.tasks.test_reward_stage import ROOT, comparison

RECIPE = DPORecipe(rows=8, epochs=4, optimizer=OptimizerConfig(peak_learning_rate=3e-3, warmup_steps=2))


@pytest.fixture
def parents(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> dict[str, Path]:
    save_model(tmp_path / "chat-parent", model, tokenizer)
    (tmp_path / "comparisons").mkdir()
    rows = [comparison(i) for i in range(60)] + [comparison(64, chosen_safe=False, rejected_safe=True)]
    write_table(tmp_path / "comparisons" / "comparisons.parquet", rows, COMPARISONS)
    return {"chat": tmp_path / "chat-parent", "comparisons1": tmp_path / "comparisons"}


def stage_in(folder: Path, parents: dict[str, Path], recipe: DPORecipe = RECIPE) -> Stage:
    folder.mkdir()
    execution = Execution(threads=1, log_every=1, validate_every=5, checkpoint_every=10)
    return Stage(folder, recipe.model_dump(mode="json"), 5, parents, execution)


def test_it_tells_held_out_answers_apart_and_is_loaded_as_a_model(
    parents: dict[str, Path], tmp_path: Path
) -> None:
    stage = stage_in(tmp_path / "dpo", parents)
    summary = dpo(stage)
    assert (summary["pairs"], summary["held_out_pairs"]) == (48, 12), "the unsafe choice is in neither"
    rows = read_metrics(stage.metrics)
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert summary["validation_accuracy"] == 1.0 and summary["validation_loss"] < 0.5
    assert rows[-1]["chosen_reward"] > rows[-1]["rejected_reward"]
    moved, _ = load(stage.directory)
    chat, _ = load(parents["chat"])
    assert not torch.equal(moved.output.weight, chat.output.weight)


def test_adapters_leave_a_merged_model(parents: dict[str, Path], tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"lora": LoRAConfig(rank=4, dropout=0.0)})
    stage = stage_in(tmp_path / "dpo", parents, recipe)
    summary = dpo(stage)
    assert summary["first_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert summary["final_loss"] < 0.8 * summary["first_loss"]
    assert (stage.directory / "adapter" / "adapter_model.safetensors").is_file()
    merged, chat = (load_file(path / "model.safetensors") for path in (stage.directory, parents["chat"]))
    assert torch.equal(merged["output.weight"], chat["output.weight"])


def test_the_reference_is_the_model_before_any_update(
    parents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the run was broken off: it is asked before the checkpoint is loaded."""
    asked: list[torch.Tensor] = []
    real = Comparisons.ask

    def ask(self: Comparisons, *arguments: Any) -> None:
        real(self, *arguments)
        asked.append(self.reference)

    monkeypatch.setattr(dpo_stage.Comparisons, "ask", ask)
    stage = stage_in(tmp_path / "dpo", parents)
    dpo(stage)
    dpo(stage)
    assert len(asked) == 4
    assert torch.equal(asked[0], asked[2]) and asked[0].shape == (48, 2) and bool((asked[0] < 0).all())


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_broken_off_and_resumed_is_bit_for_bit_the_straight_run(
    parents: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    straight, broken = (stage_in(tmp_path / name, parents) for name in ("straight", "broken"))
    dpo(straight)
    real = Comparisons.collate

    def collate(self: Comparisons, rows: np.ndarray) -> AnswerBatch:
        if len(read_metrics(broken.metrics)) == 14:
            raise Killed
        return real(self, rows)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Comparisons, "collate", collate)
        dpo(broken)
    dpo(broken)
    assert "resumed at step 10 of 24" in capfd.readouterr().out
    whole, resumed = (load_file(stage.directory / "model.safetensors") for stage in (straight, broken))
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


def told(folder: Path, parents: dict[str, Path], epochs: int) -> list[str]:
    settings = {"threads": 1, "log_every": 1, "validate_every": 20, "micro_rows": 4}
    recipe = RECIPE.model_copy(update={"epochs": epochs}).model_dump(mode="json")
    order = {"kind": "dpo", "recipe": recipe, "seed": 5, "settings": settings}
    folder.mkdir()
    (folder / "job.json").write_text(
        json.dumps({**order, "parents": {role: str(path) for role, path in parents.items()}})
    )
    return ["tasks.worker", str(folder)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_processes_learn_what_one_does(parents: dict[str, Path], tmp_path: Path) -> None:
    one, two = (told(tmp_path / name, parents, 2) for name in ("one", "two"))
    subprocess.run([sys.executable, "-m", *one], check=True, cwd=ROOT, env=ENVIRONMENT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    subprocess.run([*torchrun, *two], check=True, cwd=ROOT, env=ENVIRONMENT)
    for alone, shared in zip(
        *(read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")), strict=True
    ):
        for name in ("loss", "reward_margin", "accuracy", "gradient_norm"):
            assert shared[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-5), name
