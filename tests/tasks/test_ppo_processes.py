"""PPO on two processes under torchrun: it learns what one learns, and goes on where it was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama2_core.config import LoRAConfig, OptimizerConfig
from storage.metrics import read_metrics
from tasks.recipes import PPORecipe
from tasks.runtime import Execution
from tests.tasks.test_ppo_stage import RECIPE, ROOT

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SHORT = RECIPE.model_copy(
    update={
        "ppo": RECIPE.ppo.model_copy(update={"iterations": 3, "kl_target": None}),
        "optimizer": OptimizerConfig(peak_learning_rate=1e-4, schedule="constant", warmup_steps=0),
        "held_out_prompts": 7,
    }
)
"""Of seven prompts set aside one process has four, the other three."""


def told(folder: Path, parents: dict[str, Path], recipe: PPORecipe = SHORT) -> list[str]:
    order = {"kind": "ppo", "recipe": recipe.model_dump(mode="json"), "seed": 5}
    order["parents"] = {role: str(path) for role, path in parents.items()}
    order["settings"] = Execution(threads=1).model_dump(mode="json")
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(order))
    return ["tasks.worker", str(folder)]


def run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


@pytest.mark.drill
@pytest.mark.parametrize("lora", [None, LoRAConfig(rank=2)])
def test_two_processes_learn_what_one_does(
    parents: dict[str, Path],
    tmp_path: Path,
    lora: LoRAConfig | None,
) -> None:
    recipe = SHORT.model_copy(update={"lora": lora})
    run([sys.executable, "-m", *told(tmp_path / "one", parents, recipe)])
    run([*TORCHRUN, *told(tmp_path / "two", parents, recipe)])
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [row.keys() for row in one] == [row.keys() for row in two] and len(one) == 4
    for alone, shared in zip(one, two, strict=True):
        assert shared == pytest.approx(alone, rel=1e-4, abs=1e-5)
    assert two[1]["first_ratio_error"] == 0 and two[-1]["kl_exact"] > 0
    whole, shards = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, weight in whole.items():
        torch.testing.assert_close(shards[name], weight, atol=3e-5, rtol=1e-3)


@pytest.mark.drill
def test_killed_on_two_processes_it_goes_on_bit_for_bit(parents: dict[str, Path], tmp_path: Path) -> None:
    recipe = SHORT.model_copy(update={"ppo": SHORT.ppo.model_copy(update={"iterations": 5, "patience": 5})})
    straight, broken = (told(tmp_path / name, parents, recipe) for name in ("straight", "broken"))
    run([*TORCHRUN, *straight])
    runner = subprocess.Popen([*TORCHRUN, *broken], cwd=ROOT, env=ENVIRONMENT, start_new_session=True)
    while len(read_metrics(tmp_path / "broken" / "metrics.jsonl")) < 4:
        assert runner.poll() is None
        time.sleep(0.01)
    os.killpg(runner.pid, signal.SIGKILL)
    runner.wait()
    assert not (tmp_path / "broken" / "DONE").exists()
    run([*TORCHRUN, *broken])
    for name in ("metrics.jsonl", "looks.jsonl"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "straight" / name).read_text()
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "broken"))
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())
