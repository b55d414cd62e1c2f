"""PPO as the worker does it: broken off and resumed, with adapters, watched by an independent reward model."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama2_core.config import LoRAConfig, ModelConfig, OptimizerConfig, PPOConfig
from llama2_core.errors import ConfigError
from llama2_core.interop.convert import load
from llama2_core.model import ScalarModel
from llama2_core.rlhf import ppo as ppo_core
from llama2_core.rlhf.diagnosis import Bounds
from llama2_core.tokenizer import train_tokenizer
from llama2_core.training.checkpoint import save_model
from llama2_core.training.snapshots import sha256
from storage.metrics import read_metrics
from tasks import ppo_stage
from tasks.ppo import diagnosis
from tasks.ppo_models import load_models
from tasks.ppo_stage import proximal
from tasks.recipes import PPORecipe, SamplingRecipe
from tasks.runtime import Execution
from tasks.stage import Stage

ROOT = Path(__file__).parents[2]
RECIPE = PPORecipe(
    ppo=PPOConfig(
        iterations=4, batch_rows=16, mini_batch_rows=8, evaluate_every=2, kl_target=0.01, kl_horizon=100
    ),
    optimizer=OptimizerConfig(peak_learning_rate=1e-3, schedule="constant", warmup_steps=0),
    held_out_prompts=8,
    sampling=SamplingRecipe(max_new_tokens=8),
)


def stage_in(directory: Path, parents: dict[str, Path], recipe: PPORecipe = RECIPE) -> Stage:
    directory.mkdir(exist_ok=True)
    return Stage(directory, recipe.model_dump(mode="json"), 5, parents, Execution(threads=1))


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def kill_at(real: Callable, at: int) -> Callable:
    """Return a function that dies at its so-manieth call."""
    calls = itertools.count(1)

    def call(*args, **kwargs):
        if next(calls) == at:
            raise Killed
        return real(*args, **kwargs)

    return call


def test_a_run_broken_off_anywhere_ends_where_a_straight_one_does(
    parents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In sampling of an iteration, in its second mini-batch, in a look before it is on record, and after."""
    straight = stage_in(tmp_path / "straight", parents)
    expected = proximal(straight)
    broken = stage_in(tmp_path / "broken", parents)

    def breaking(owner: object, name: str, at: int) -> None:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, name, kill_at(getattr(owner, name), at))
            proximal(broken)

    breaking(ppo_stage.Looks, "record", 1)
    breaking(ppo_core, "optimizer_step", 4)
    breaking(ppo_stage.Looks, "record", 1)  # of the second iteration: the first look is on record
    breaking(ppo_stage.MetricLog, "append", 3)
    breaking(ppo_stage, "roll_out", 4)
    breaking(ppo_core, "optimizer_step", 2)
    assert proximal(broken) == expected
    for name in ("model.safetensors", "metrics.jsonl", "looks.jsonl"):
        assert sha256(broken.directory / name) == sha256(straight.directory / name), name
    rows = read_metrics(straight.metrics)
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert all(row["first_ratio_error"] == 0 for row in rows[1:])
    assert len({row["kl_coef"] for row in rows[1:]}) == len(rows) - 1, "beta follows the KL target"


def test_long_iterations_are_saved_one_by_one(
    parents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update={"ppo": RECIPE.ppo.model_copy(update={"iterations": 2})})
    straight, broken = (stage_in(tmp_path / name, parents, recipe) for name in ("straight", "broken"))
    expected = proximal(straight)
    monkeypatch.setattr(ppo_stage, "SAVE_SECONDS", -1.0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ppo_stage.Run, "record", kill_at(ppo_stage.Run.record, 3))
        proximal(broken)
    assert [path.name for path in broken.checkpoints.glob("step-*")] == ["step-00000002"], "no look is due"
    assert proximal(broken) == expected
    assert sha256(broken.metrics) == sha256(straight.metrics)


@pytest.mark.slow
def test_a_killed_worker_goes_on_bit_for_bit(parents: dict[str, Path], tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(
        update={"ppo": RECIPE.ppo.model_copy(update={"iterations": 24, "patience": 24})}
    )
    order = {"kind": "ppo", "recipe": recipe.model_dump(mode="json"), "seed": 5}
    told = {**order, "parents": {role: str(path) for role, path in parents.items()}}
    told["settings"] = Execution(threads=1).model_dump(mode="json")

    def work(directory: Path, kill_at: int = 0) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "job.json").write_text(json.dumps(told))
        worker = subprocess.Popen([sys.executable, "-m", "tasks.worker", str(directory)], cwd=ROOT)
        while kill_at and len(read_metrics(directory / "metrics.jsonl")) < kill_at:
            assert worker.poll() is None
            time.sleep(0.001)
        if kill_at:
            os.kill(worker.pid, signal.SIGKILL)
        assert worker.wait() == (-signal.SIGKILL if kill_at else 0)

    work(tmp_path / "straight")
    for kill_at in (6, 13, 0):
        work(tmp_path / "broken", kill_at)
    for name in ("model.safetensors", "metrics.jsonl"):
        assert sha256(tmp_path / "broken" / name) == sha256(tmp_path / "straight" / name), name


def test_an_independent_reward_model_watches(parents: dict[str, Path], tmp_path: Path) -> None:
    stage = stage_in(tmp_path / "ppo", {**parents, "independent": tmp_path / "independent"})
    summary = proximal(stage)
    rows = read_metrics(stage.metrics)
    assert "held_out_independent" in rows[0] and 0 < rows[1]["independent_disagreement"] < 1
    assert "| independent | " in diagnosis(summary)
    plain = stage_in(tmp_path / "plain", parents)
    proximal(plain)
    assert sha256(plain.directory / "model.safetensors") == sha256(stage.directory / "model.safetensors")


def test_a_broken_bound_stops_the_run_and_keeps_the_start(
    parents: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = RECIPE.model_copy(update={"bounds": Bounds(kl=1e-6)})
    summary = proximal(stage_in(tmp_path / "ppo", parents, recipe))
    assert summary["iterations"] == 2, "KL is 0 in the first"
    assert summary["best"]["iteration"] == 0
    assert [finding["name"] for finding in summary["findings"] if finding["stops"]] == ["kl"]
    assert "- **kl**, iteration 2 (stopped here), 1 in all: KL is " in diagnosis(summary)
    assert "iteration 2: KL is " in capsys.readouterr().out
    kept, chat = (load_file(path / "model.safetensors") for path in (tmp_path / "ppo", parents["chat"]))
    assert all(torch.equal(kept[name], chat[name]) for name in chat)
    again = proximal(stage_in(tmp_path / "ppo", parents, recipe))
    assert again == summary, "and it stays stopped"


def test_another_tokenizer_and_too_few_prompts_are_refused(
    parents: dict[str, Path], tmp_path: Path, config: ModelConfig
) -> None:
    few = RECIPE.model_copy(update={"held_out_prompts": 40})
    with pytest.raises(ConfigError, match=r"sets 40 prompts aside, and there are 40"):
        proximal(stage_in(tmp_path / "few", parents, few))
    other = train_tokenizer(["one cat sat on the dog and ran away with it"] * 5, 280, [])
    save_model(parents["safety"], ScalarModel(config), other)
    with pytest.raises(ConfigError, match=r"the safety reward model .* another tokenizer"):
        proximal(stage_in(tmp_path / "other", parents))


def test_a_mini_batch_that_cannot_be_shared_out_is_refused(
    parents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppo_stage.parallel, "data_share", lambda mesh: (0, 3))
    with pytest.raises(ConfigError, match=r"mini_batch_rows 8 cannot be shared out evenly among 3 processes"):
        proximal(stage_in(tmp_path / "uneven", parents))


def held_bytes(learner: torch.nn.Module, judges, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all weights, gradients and moments, each storage once."""
    networks = [learner, judges.reference, judges.helpfulness, judges.safety]
    tensors = [p for network in networks for p in network.parameters()]
    tensors += [p.grad for p in tensors if p.grad is not None]
    tensors += [t for state in optimizer.state.values() for t in state.values()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


@pytest.mark.parametrize("critic", ["helpfulness", "chat"])
def test_adapters_share_weights_and_the_saved_model_is_the_merged_one(
    parents: dict[str, Path], tmp_path: Path, critic: str
) -> None:
    sizes = []
    for lora in (None, LoRAConfig(rank=2)):
        recipe = RECIPE.model_copy(update={"lora": lora, "critic": critic})
        stage = stage_in(tmp_path / f"ppo{bool(lora)}", parents, recipe)
        run = ppo_stage.Run(stage)
        judged = run.judges.helpfulness(torch.tensor([[1, 5, 6]]))
        for parameter in run.learner.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, 1e-2)
        run.state.optimizer.step()
        torch.testing.assert_close(run.judges.helpfulness(torch.tensor([[1, 5, 6]])), judged)
        sizes.append(held_bytes(run.learner, run.judges, run.state.optimizer))
    print(f"{critic}: {sizes[1]:,} bytes with adapters, {sizes[0]:,} without")
    assert sizes[1] < sizes[0] / 2
    run.models.save(tmp_path / "saved")
    tokens = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        saved, _ = load(tmp_path / "saved")
        moved = (run.learner.policy(tokens) - run.judges.reference(tokens)).abs().max()
        torch.testing.assert_close(saved(tokens), run.learner.policy(tokens), atol=1e-4, rtol=1e-4)
    assert moved > 0.01


def test_ppo_with_adapters_learns_and_is_loaded_as_a_model(parents: dict[str, Path], tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"lora": LoRAConfig(rank=4)})
    stage = stage_in(tmp_path / "ppo", parents, recipe)
    proximal(stage)
    rows = read_metrics(stage.metrics)
    assert rows[1]["kl"] == 0 and rows[-1]["kl_exact"] > 0
    assert all(row["first_ratio_error"] == 0 for row in rows[1:])
    assert load(stage.directory)[0].config.dim == load_models(stage, recipe).learner.policy.config.dim
