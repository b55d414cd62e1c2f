"""Real workers: one process or two under torchrun, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def job(
    directory: Path,
    parents: dict[str, str],
    vocab_size: int,
    steps: int = 12,
    settings: dict[str, Any] | None = None,
    **model: Any,
) -> Path:
    """Write a pretraining job into a new folder."""
    shape = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "multiple_of": 16, "max_seq_len": 32}
    loop = LoopConfig(steps=steps, rows=8, optimizer=OptimizerConfig(warmup_steps=2, peak_learning_rate=3e-3))
    recipe = PretrainRecipe(model=ModelConfig(vocab_size=vocab_size, **{**shape, **model}), loop=loop)
    directory.mkdir()
    told = {"threads": 1, "micro_rows": 2, "log_every": 1, "checkpoint_every": 3, "validate_every": 5}
    order = {"kind": "base", "recipe": recipe.model_dump(mode="json"), "seed": 5, "parents": parents}
    (directory / "job.json").write_text(json.dumps({**order, "settings": told | (settings or {})}))
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


def stop(directory: Path, number: signal.Signals, step: int, processes: int = 1) -> str:
    """Start a job, send it a signal once this step is logged, and return what it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    child = subprocess.Popen(command(directory, processes), env=environment, **told)
    while len(read_metrics(directory / "metrics.jsonl")) < step:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(number)
    said, _ = child.communicate()
    assert child.returncode != 0 and not (directory / "DONE").exists()
    return said


def losses(directory: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(directory / "metrics.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "settings", "model"),
    [
        (2, {}, {}),
        (2, {"micro_rows": 1, "activation_checkpointing": True}, {"tied_embeddings": True}),
        (2, {"mesh": {"replicate": 2}}, {"tied_embeddings": True}),
        (2, {"mesh": {"tensor": 2}}, {}),
        (2, {"mesh": {"tensor": 2}}, {"tied_embeddings": True, "n_kv_heads": 4}),
        (2, {"mesh": {"cpu_offload": True}}, {}),
        (4, {"mesh": {"tensor": 2}}, {}),
        (4, {"mesh": {"replicate": 2}}, {}),
        (1, {"compile": True, "activation_checkpointing": True}, {}),
    ],
    ids=str,
)
def test_every_way_to_run_learns_what_one_process_does(
    tmp_path: Path,
    parents: dict[str, str],
    tokenizer: Tokenizer,
    processes: int,
    settings: dict[str, Any],
    model: dict[str, Any],
) -> None:
    one = run(job(tmp_path / "one", parents, tokenizer.vocab_size, **model))
    many = run(job(tmp_path / "many", parents, tokenizer.vocab_size, settings=settings, **model), processes)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "many"), rel=1e-5)
    validated = [
        read_metrics(tmp_path / name / "metrics.jsonl")[-1]["validation_loss"] for name in ("one", "many")
    ]
    assert validated[0] == pytest.approx(validated[1], rel=1e-5)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, many[name], atol=3e-5, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_and_resumed_is_bit_for_bit_the_straight_run(
    tmp_path: Path, parents: dict[str, str], tokenizer: Tokenizer, number: signal.Signals
) -> None:
    straight = run(job(tmp_path / "straight", parents, tokenizer.vocab_size, steps=300))
    broken = job(tmp_path / "broken", parents, tokenizer.vocab_size, steps=300)
    stop(broken, number, 40)
    resumed = run(broken)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    steps = [row["step"] for row in read_metrics(broken / "metrics.jsonl")]
    assert steps == list(range(1, 301))


@pytest.mark.slow
def test_two_processes_then_one_then_two(
    tmp_path: Path, parents: dict[str, str], tokenizer: Tokenizer
) -> None:
    straight = run(job(tmp_path / "straight", parents, tokenizer.vocab_size, steps=80), 2)
    changing = job(tmp_path / "changing", parents, tokenizer.vocab_size, steps=80)
    stop(changing, signal.SIGTERM, 15, processes=2)
    stop(changing, signal.SIGTERM, 45)
    resumed = run(changing, 2)
    assert losses(changing) == pytest.approx(losses(tmp_path / "straight"), rel=1e-5)
    for name, tensor in straight.items():
        torch.testing.assert_close(tensor, resumed[name], atol=3e-5, rtol=1e-3)


@pytest.mark.slow
def test_dropout_is_not_dealt_to_other_processes(
    tmp_path: Path, parents: dict[str, str], tokenizer: Tokenizer
) -> None:
    shape = {"variant": {"dropout": 0.1}}
    broken = job(tmp_path / "broken", parents, tokenizer.vocab_size, steps=80, **shape)
    stop(broken, signal.SIGTERM, 10, processes=2)
    refused = subprocess.run(command(broken), capture_output=True, text=True)
    assert (
        "was written by 2 processes, here are 1: the random streams of dropout cannot be dealt anew"
        in refused.stderr
    )
    straight = run(job(tmp_path / "straight", parents, tokenizer.vocab_size, steps=80, **shape), 2)
    resumed = run(broken, 2)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@pytest.mark.slow
def test_three_processes_cannot_share_eight_rows(
    tmp_path: Path, parents: dict[str, str], tokenizer: Tokenizer
) -> None:
    uneven = job(tmp_path / "uneven", parents, tokenizer.vocab_size)
    refused = subprocess.run(command(uneven, 3), capture_output=True, text=True)
    assert "8 rows an update cannot be shared out evenly among 3 processes" in refused.stderr
    assert not read_metrics(uneven / "metrics.jsonl")
