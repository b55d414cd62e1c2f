"""Real workers: one process or two under torchrun, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llama2_core.config import LoopConfig, ModelConfig, OptimizerConfig
from llama2_core.tokenizer import Tokenizer
from storage.metrics import read_metrics
from tasks.recipes import PretrainRecipe

ROW = 17


@pytest.fixture
def parents(
    tmp_path: Path, tokenizer: Tokenizer, write_tokens: Callable[[Path, np.ndarray], None]
) -> dict[str, str]:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.model").write_bytes(tokenizer.model)
    rows = np.random.default_rng(0).integers(3, tokenizer.vocab_size, (200, ROW))
    write_tokens(tmp_path / "tokens", rows)
    return {"tokens": str(tmp_path / "tokens"), "tokenizer": str(tmp_path / "tokenizer")}


def job(directory: Path, parents: dict[str, str], vocab_size: int, steps: int = 12) -> Path:
    model = ModelConfig(
        vocab_size=vocab_size, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, multiple_of=16, max_seq_len=32
    )
    loop = LoopConfig(steps=steps, rows=8, micro_rows=4, optimizer=OptimizerConfig(warmup_steps=2))
    recipe = PretrainRecipe(model=model, loop=loop)
    directory.mkdir()
    settings = {"threads": 1, "slots": 8, "log_every": 1, "checkpoint_every": 3}
    order = {"kind": "base", "recipe": recipe.model_dump(mode="json"), "seed": 5, "parents": parents}
    (directory / "job.json").write_text(json.dumps({**order, "settings": settings}))
    return directory


def command(directory: Path, processes: int = 1) -> list[str]:
    runner = [sys.executable, "-m"]
    if processes > 1:
        runner += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return [*runner, "tasks.worker", str(directory)]


def run(directory: Path, processes: int = 1) -> dict[str, torch.Tensor]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(directory, processes), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (directory / "DONE").exists()
    return load_file(directory / "model.safetensors")


@pytest.mark.slow
def test_two_processes_learn_what_one_does(
    tmp_path: Path, parents: dict[str, str], tokenizer: Tokenizer
) -> None:
    one = run(job(tmp_path / "one", parents, tokenizer.vocab_size))
    two = run(job(tmp_path / "two", parents, tokenizer.vocab_size), processes=2)
    losses = [
        [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_killed_and_resumed_is_bit_for_bit_the_straight_run(
    tmp_path: Path, parents: dict[str, str], tokenizer: Tokenizer
) -> None:
    straight = run(job(tmp_path / "straight", parents, tokenizer.vocab_size, steps=300))
    broken = job(tmp_path / "broken", parents, tokenizer.vocab_size, steps=300)
    child = subprocess.Popen(command(broken), env={**os.environ, "OMP_NUM_THREADS": "1"})
    while len(read_metrics(broken / "metrics.jsonl")) < 40:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (broken / "DONE").exists()
    resumed = run(broken)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    steps = [row["step"] for row in read_metrics(broken / "metrics.jsonl")]
    assert steps == list(range(1, 301))
