"""Workers as the parent has them: where they listen, what ends them, and what is known of their end."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from llama2_core.config import LoopConfig, ModelConfig, OptimizerConfig
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.snapshots import facts_of
from storage.metrics import read_metrics
from tasks import workers
from tasks.launch import _end
from tasks.recipes import PretrainRecipe
from tasks.signs import noted, stopped, told
from tasks.workers import DONE, Worker, at_work, clear, get_ready

SILENCE, TORCHRUN_SECONDS = 10, 30
NewJob = Callable[..., Path]


@pytest.fixture
def new_job(tmp_path: Path, tokenizer: Tokenizer, write_tokens: Callable[[Path, np.ndarray], None]) -> NewJob:
    """Return what writes a pretraining job of so many steps into a new folder."""
    for name in ("tokenizer", "tokens"):
        (tmp_path / name).mkdir()
    (tmp_path / "tokenizer" / "tokenizer.model").write_bytes(tokenizer.model)
    write_tokens(tmp_path / "tokens", np.random.default_rng(0).integers(3, tokenizer.vocab_size, (200, 17)))

    def write(name: str, steps: int, silence_seconds: float = 300.0) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        model = ModelConfig(
            vocab_size=tokenizer.vocab_size,
            dim=32,
            n_layers=2,
            n_heads=4,
            n_kv_heads=2,
            multiple_of=16,
            max_seq_len=32,
        )
        loop = LoopConfig(steps=steps, rows=8, optimizer=OptimizerConfig(warmup_steps=2))
        settings = {
            "threads": 1,
            "log_every": 1,
            "checkpoint_every": 100_000,
            "silence_seconds": silence_seconds,
        }
        order = {
            "kind": "base",
            "recipe": PretrainRecipe(model=model, loop=loop).model_dump(mode="json"),
            "seed": 5,
            "parents": {"tokens": "../tokens", "tokenizer": "../tokenizer"},
            "settings": settings,
        }
        (directory / "job.json").write_text(json.dumps(order))
        return directory

    return write


def await_step(worker: Worker, directory: Path, step: int) -> None:
    while len(read_metrics(directory / "metrics.jsonl")) < step:
        assert worker.status() is None, (directory / "worker.log").read_text()
        time.sleep(0.01)


def await_end(worker: Worker) -> int:
    while (status := worker.status()) is None:
        time.sleep(0.05)
    return status


def ranks() -> dict[int, psutil.Process]:
    """Return torchrun's processes below this one, by rank."""
    below = [(process, process.environ()) for process in psutil.Process().children(recursive=True)]
    return {int(told["RANK"]): process for process, told in below if "RANK" in told}


@pytest.mark.slow
def test_ranks_of_one_machine_listen_on_loopback_only(new_job: NewJob) -> None:
    directory = new_job("job", 100_000)
    with at_work(directory, 2, 1) as worker:
        await_step(worker, directory, 1)
        ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [c.laddr for p in ours for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening and {address.ip for address in listening} == {"127.0.0.1"}


@pytest.mark.slow
def test_a_collective_that_a_rank_never_joins_ends_with_rank_and_stack(new_job: NewJob) -> None:
    directory = new_job("job", 100_000, SILENCE)
    with at_work(directory, 2, 1) as worker:
        await_step(worker, directory, 20)
        at_work_now = ranks()
        at_work_now[1].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        status = await_end(worker)
        took = time.monotonic() - began
    said = _end("pretraining", status, directory)
    print(f"ended {took:.1f} s after SIGSTOP:\n{said}")
    first, second = said.splitlines()[:2]
    assert first == f"pretraining failed (exit status {status})."
    assert second.startswith("Rank 0, process ") and second.endswith(f" made no step for {SILENCE} s.")
    assert "all_reduce" in said or "all_gather" in said or "reduce_scatter" in said
    assert took < SILENCE + TORCHRUN_SECONDS + 10
    assert not any(process.is_running() for process in at_work_now.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "whom"), [(1, "worker"), (2, "torchrun"), (2, "one rank"), (1, "parent"), (2, "parent")]
)
def test_sigterm_saves_the_step_it_came_at(new_job: NewJob, processes: int, whom: str) -> None:
    straight, broken = new_job("straight", 120), new_job("broken", 120)
    with at_work(straight, processes, 1) as worker:
        assert await_end(worker) == 0
    last = 0
    began = time.monotonic()
    try:
        with at_work(broken, processes, 1) as worker:
            await_step(worker, broken, 20)
            last, began = len(read_metrics(broken / "metrics.jsonl")), time.monotonic()
            if whom == "parent":
                raise KeyboardInterrupt
            (ranks()[1] if whom == "one rank" else worker._process).send_signal(signal.SIGTERM)
            assert await_end(worker) != 0
    except KeyboardInterrupt:
        pass
    took = time.monotonic() - began
    (saved,) = (broken / "checkpoints").glob("step-*")
    step = facts_of(saved)["step"]
    print(f"SIGTERM to the {whom}, {processes} processes: saved {took:.1f} s later, at step {step}")
    assert step >= last
    assert len(read_metrics(broken / "metrics.jsonl")) == step
    assert stopped(broken) == f"SIGTERM at step {step} of 120: saved. Run again to go on from there."
    with at_work(broken, processes, 1) as worker:
        assert await_end(worker) == 0
    assert f"resumed at step {step} of 120" in (broken / "worker.log").read_text()
    resumed, expected = (load_file(path / "model.safetensors") for path in (broken, straight))
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_the_first_error_of_a_ranks_own_is_told(tmp_path: Path) -> None:
    def fail(rank: int, error: Exception) -> None:
        with pytest.raises(type(error)), noted(tmp_path, rank):
            raise error

    fail(1, RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:17001"))
    assert "Rank 1 on " in told(tmp_path) and "lost the connection to another rank" in told(tmp_path)
    fail(0, ValueError("row 7 has no token"))
    fail(2, ValueError("of a later time"))
    assert told(tmp_path).startswith("ValueError of rank 0 on ")
    assert told(tmp_path).endswith(": row 7 has no token")
    assert stopped(tmp_path) == ""


def test_a_stack_without_a_timeout_is_of_a_rank_that_was_well(tmp_path: Path) -> None:
    (tmp_path / "stack-rank-0.txt").write_text("Rank 0, process 1 on a, made no step for 10 s.\n")
    assert told(tmp_path) == ""
    with (tmp_path / "stack-rank-0.txt").open("a") as file:
        file.write("Timeout (0:00:10)!\nThread 0x1 (most recent call first):\n  in all_reduce\n")
    assert told(tmp_path).startswith("Rank 0, process 1 on a, made no step for 10 s.\nTimeout")


def test_an_earlier_end_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / DONE).touch()
    with pytest.raises(ValueError), noted(tmp_path, 0):
        raise ValueError("earlier")
    clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_worker_made_ready_does_the_next_stage_and_waits_again(new_job: NewJob) -> None:
    get_ready(1, threads=1)
    get_ready(1, threads=1)
    [ready] = workers._waiting[1]
    with at_work(new_job("job", 2), 1, 1) as worker:
        assert workers._waiting[1] == []
        assert await_end(worker) == 0
    assert workers._waiting[1] == [ready] and ready.poll() is None
    get_ready(2, threads=7)  # torchrun starts its own
    assert 7 not in workers._waiting
