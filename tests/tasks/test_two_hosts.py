"""Two hosts: network namespaces with an address each, joined by a cable that can be cut."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llama2_core.config import LoopConfig, ModelConfig, OptimizerConfig
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.snapshots import facts_of
from storage.artifacts import Store, digest_of
from storage.metrics import read_metrics
from tasks.recipes import PretrainRecipe
from tasks.runtime import Runtime

ROOT = Path(__file__).parents[2]
HOSTS = {"llama2-a": "10.213.7.1", "llama2-b": "10.213.7.2"}
SILENCE, STEPS = 20, 200
FLOW = """
from pathlib import Path
import typer
from deployments.services.flow_runs import running_flows

def main(home: Path, recipe: str, runtime: str) -> None:
    with running_flows(home):
        from flows.pretrain import pretrain
        from tasks.recipes import PretrainRecipe
        from tasks.runtime import Runtime
        recipe, runtime = PretrainRecipe.model_validate_json(recipe), Runtime.model_validate_json(runtime)
        pretrain(recipe, "tokens", "tokenizer", 5, runtime)

typer.run(main)
"""
JOIN = "import sys; from deployments.cluster_commands import app; app(['join', '--home', sys.argv[1]])"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two namespaces whose only ways out are their loopback and the cable."""
    a, b = HOSTS
    try:
        ip("netns", "add", a)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    try:
        ip("netns", "add", b)
        ip("link", "add", "cable", "netns", a, "type", "veth", "peer", "cable", "netns", b)
        for host, address in HOSTS.items():
            ip("-n", host, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", host, "link", "set", device, "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", host], capture_output=True)


@contextmanager
def on(host: str, script: str, *words: str, log: Path) -> Iterator[subprocess.Popen]:
    """Run Python on a host; end it on the way out as SIGTERM does."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    enter = ["ip", "netns", "exec", host] if host else []
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*enter, sys.executable, "-c", script, *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**environment, "OMP_NUM_THREADS": "1"},
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def made(home: Path, tokenizer: Tokenizer, write_tokens: Callable[[Path, np.ndarray], None]) -> None:
    """Put tokenizer and token shards into a store."""
    store = Store(home / "artifacts")
    for kind in ("tokenizer", "tokens"):
        digest = digest_of(kind, 1, {}, {})
        with store.building(kind, digest) as directory:
            if kind == "tokenizer":
                (directory / "tokenizer.model").write_bytes(tokenizer.model)
            else:
                write_tokens(directory, np.random.default_rng(0).integers(3, tokenizer.vocab_size, (200, 17)))
            measured = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1}
            store.commit(kind, digest, version=1, recipe={}, parents={}, summary={}, **measured)


def metrics(home: Path) -> list[dict[str, float]]:
    return [row for path in home.glob("artifacts/.partial/*/metrics.jsonl") for row in read_metrics(path)]


def await_step(home: Path, step: int, *processes: subprocess.Popen) -> None:
    while len(metrics(home)) < step:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def weights(home: Path) -> dict[str, torch.Tensor]:
    (path,) = home.glob("artifacts/base/*/model.safetensors")
    return load_file(path)


def prepared(
    tmp_path: Path, first: str, tokenizer: Tokenizer, write_tokens: Callable[[Path, np.ndarray], None]
) -> tuple[str, Runtime, Runtime]:
    """Return a recipe, and how it is run by two processes of one machine and by two machines, their homes filled."""
    shape = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "multiple_of": 16, "max_seq_len": 32}
    recipe = PretrainRecipe(
        model=ModelConfig(vocab_size=tokenizer.vocab_size, **shape),
        loop=LoopConfig(steps=STEPS, rows=8, optimizer=OptimizerConfig(warmup_steps=2)),
    )
    alone = Runtime(home=tmp_path / "alone", processes=2, threads=1, log_every=1)
    together = Runtime(
        home=tmp_path / "together",
        nodes=2,
        rendezvous=f"{first}:29400",
        threads=1,
        log_every=1,
        checkpoint_every=20,
        silence_seconds=SILENCE,
    )
    for runtime in (alone, together):
        made(runtime.home, tokenizer, write_tokens)
    return recipe.model_dump_json(), alone, together


@pytest.mark.drill
@pytest.mark.timeout(1200)
def test_a_cut_cable_ends_the_job_on_both_hosts_and_the_next_run_resumes(
    hosts: None, tmp_path: Path, tokenizer: Tokenizer, write_tokens: Callable[[Path, np.ndarray], None]
) -> None:
    (a, first), (b, _) = HOSTS.items()
    recipe, alone, together = prepared(tmp_path, first, tokenizer, write_tokens)
    said, joined, home = tmp_path / "flow.log", tmp_path / "join.log", together.home

    def flow(host: str, runtime: Runtime):
        return on(host, FLOW, str(runtime.home), recipe, runtime.model_dump_json(), log=said)

    with on(b, JOIN, str(home), log=joined) as other:
        with flow(a, together) as run:
            await_step(home, 60, run, other)
            ip("-n", b, "link", "set", "cable", "down")
            cut = time.monotonic()
            status = run.wait(SILENCE + 60)
            print(f"the flow ended {time.monotonic() - cut:.1f} s after the cut")
        while joined.read_text().count("\n") < 3:
            assert time.monotonic() - cut < SILENCE + 60
            time.sleep(0.1)
        print(f"the other host's part ended {time.monotonic() - cut:.1f} s after the cut")
        told = said.read_text()
        print(told[-6000:], joined.read_text())
        assert status != 0
        for rank in (0, 1):
            assert f"Rank {rank}, process " in told
        assert f" made no step for {SILENCE} s." in told
        assert other.poll() is None
        ip("-n", b, "link", "set", "cable", "up")
        with flow(a, together) as run:
            assert run.wait() == 0, said.read_text()[-4000:]
        other.send_signal(signal.SIGTERM)
        assert other.wait(60) == 0
    assert joined.read_text().count("machine 2 of 2") == 2 and ": done" in joined.read_text()
    (log,) = home.glob("artifacts/base/*/worker.log")
    assert f"of {STEPS}, row " in log.read_text()
    with flow("", alone) as run:
        assert run.wait() == 0, said.read_text()[-4000:]
    expected, found = weights(alone.home), weights(home)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.drill
@pytest.mark.timeout(1200)
def test_sigterm_to_either_side_saves_the_step_it_came_at(
    tmp_path: Path, tokenizer: Tokenizer, write_tokens: Callable[[Path, np.ndarray], None]
) -> None:
    recipe, alone, together = prepared(tmp_path, "127.0.0.1", tokenizer, write_tokens)
    together = together.model_copy(update={"checkpoint_every": 100_000, "silence_seconds": 120})
    home, said, joined = together.home, tmp_path / "flow.log", tmp_path / "join.log"

    def flow(runtime: Runtime):
        return on("", FLOW, str(runtime.home), recipe, runtime.model_dump_json(), log=said)

    def saved() -> int:
        (path,) = home.glob("artifacts/.partial/*/checkpoints/step-*")
        return facts_of(path)["step"]

    with on("", JOIN, str(home), log=joined) as other:
        with flow(together) as run:
            await_step(home, 40, run, other)
            began, last = time.monotonic(), len(metrics(home))
            run.send_signal(signal.SIGTERM)
            assert run.wait(60) == 130
            print(f"the flow ended {time.monotonic() - began:.1f} s after its SIGTERM")
        first = saved()
        assert last <= first < STEPS
        words = " ".join(said.read_text().split())
        assert (
            f"pretraining: SIGTERM at step {first} of {STEPS}: saved. Run again to go on from there." in words
        )
        assert "Stopped. Run the same command again to go on." in words
        with flow(together) as run:
            await_step(home, first + 40, run, other)
            began = time.monotonic()
            other.send_signal(signal.SIGTERM)
            assert run.wait(60) not in (0, 130)
            print(f"the flow ended {time.monotonic() - began:.1f} s after the other machine's SIGTERM")
            assert other.wait(60) == 0
    (second,) = {facts_of(path)["step"] for path in home.glob("artifacts/.partial/*/checkpoints/*")} - {first}
    words = " ".join(said.read_text().split())
    assert f"pretraining was told to end. SIGTERM at step {second} of {STEPS}: saved." in words
    assert "Left: training ranks were asked to save and end." in joined.read_text()
    with on("", JOIN, str(home), log=joined) as other, flow(together) as run:
        assert run.wait() == 0, said.read_text()[-4000:]
    (log,) = home.glob("artifacts/base/*/worker.log")
    for step in (first, second):
        assert f"resumed at step {step} of {STEPS}" in log.read_text()
    with flow(alone) as run:
        assert run.wait() == 0, said.read_text()[-4000:]
    expected, found = weights(alone.home), weights(home)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
