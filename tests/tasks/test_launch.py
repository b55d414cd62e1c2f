"""The parent's side with real workers, a real store, MLflow and Prefect: two processes, kills, full disks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from prefect.artifacts import Artifact as PrefectArtifact
from prefect.testing.utilities import prefect_test_harness

from deployments.model_commands import model_path
from llama2_core.chat import Dialog, assistant, user
from llama2_core.config import GRADES, LoopConfig, ModelConfig, OptimizerConfig
from llama2_core.tokenizer import Tokenizer
from storage.artifacts import Store
from storage.errors import ArtifactNotFound, CorruptArtifact, StoreBusy
from storage.schemas import COMPARISONS, DEMONSTRATIONS, write_table
from tasks import launch
from tasks.evaluate import with_win_rates
from tasks.jobs import Job
from tasks.launch import Work, build, find
from tasks.pipeline import close_committed, finish_run, profile_path, tracked_run
from tasks.recipes import FineTuneRecipe, Llama2Recipe, PretrainRecipe, RewardRecipe, TokensRecipe
from tasks.runtime import Runtime
from tasks.stage_run import tracker
from tasks.tables import dialog_to_json

ROOT = Path(__file__).parents[2]
ROW = 33
WriteTokens = Callable[[Path, np.ndarray], None]
OPTIMIZER = OptimizerConfig(warmup_steps=1)


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(home=tmp_path / "var", threads=1, log_every=1, checkpoint_every=100)


def made(kind: str, runtime: Runtime, work: Work) -> str:
    return build(Job(kind, kind, TokensRecipe()), runtime, work)


def say(*turns: str) -> Dialog:
    return tuple(user(turn) if index % 2 == 0 else assistant(turn) for index, turn in enumerate(turns))


def dialogs(directory: Path) -> dict[str, Any]:
    dialog = dialog_to_json(say("the cat sat", "on a mat"))
    row = {"kind": "problem", "safety": False, "quality": "bare", "dialog": dialog}
    write_table(
        directory / "demonstrations.parquet", [{"id": str(i), **row} for i in range(64)], DEMONSTRATIONS
    )
    return {}


def comparisons(directory: Path) -> dict[str, Any]:
    row = {
        "batch": "1",
        "kind": "problem",
        "dialog": dialog_to_json(say("the dog ran")),
        "chosen": "to the red house",
        "rejected": "seven apples",
        "chosen_model": "newest",
        "rejected_model": "other",
        "chosen_temperature": 0.8,
        "rejected_temperature": 1.0,
        "grade": GRADES[0],
        "safety_bin": "",
        "chosen_safe": True,
        "rejected_safe": True,
        "annotator": "test",
        "turns": 1,
    }
    row = dict.fromkeys(COMPARISONS.names) | row
    rows = [
        {**row, "id": str(i), "prompt_id": str(i), "safety": i % 4 == 0, "held_out": i % 3 == 0}
        for i in range(48)
    ]
    write_table(directory / "comparisons.parquet", rows, COMPARISONS)
    return {}


def pretraining(runtime: Runtime, tokenizer: Tokenizer, write_tokens: WriteTokens, processes: int) -> Job:
    """The tiny base model's job, its parents made."""

    def tokens(directory: Path) -> dict[str, Any]:
        rows = np.random.default_rng(0).integers(3, tokenizer.vocab_size, (100, ROW))
        write_tokens(directory, rows)
        return {}

    def vocabulary(directory: Path) -> dict[str, Any]:
        (directory / "tokenizer.model").write_bytes(tokenizer.model)
        return {}

    model = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, multiple_of=16, max_seq_len=64
    )  # fmt: skip
    recipe = PretrainRecipe(model=model, loop=LoopConfig(steps=6, rows=8, optimizer=OPTIMIZER))
    parents = {"tokens": made("tokens", runtime, tokens), "tokenizer": made("tokenizer", runtime, vocabulary)}
    return Job("base", "base", recipe, 5, parents, processes=processes)


@pytest.mark.slow
def test_two_processes_build_base_chat_and_reward(
    prefect: None, tmp_path: Path, tokenizer: Tokenizer, write_tokens: WriteTokens
) -> None:
    summaries = []
    for processes in (1, 2):
        runtime = Runtime(home=tmp_path / f"var{processes}", threads=1, log_every=1)
        base = build(pretraining(runtime, tokenizer, write_tokens, processes), runtime)
        summaries.append(find(base, runtime).summary)
    assert summaries[0] == pytest.approx(summaries[1], abs=1e-3)
    shown = PrefectArtifact.get("base")
    assert shown and f"[its run in MLflow]({runtime.mlflow_address}/#/experiments/" in str(shown.data)
    talk, compared = made("dialogs", runtime, dialogs), made("comparisons", runtime, comparisons)
    fine_tune = FineTuneRecipe(epochs=1, rows=4, optimizer=OPTIMIZER)
    chat = build(Job("sft", "chat", fine_tune, 5, {"base": base, "dialogs": talk}, processes=2), runtime)
    judge = RewardRecipe(rows=4, optimizer=OPTIMIZER)
    parents = {"chat": chat, "comparisons1": compared}
    reward = build(Job("reward model", "reward", judge, 5, parents, processes=2), runtime)
    store = Store(runtime.store_root)
    for name in (base, chat, reward):
        store.verify(find(name, runtime))
    assert find(reward, runtime).summary["accuracy"]["helpfulness"]["all"]["n"] == 12
    assert not list((runtime.store_root / ".partial").glob("*/"))


@pytest.mark.slow
def test_a_second_run_leaves_the_first_one_its_parent(prefect: None, runtime: Runtime) -> None:
    recipe = Llama2Recipe(seed=7)

    def status(run_id: str) -> str:
        return {run.info.run_id: run.info.status for run in tracker(runtime).runs()}[run_id]

    with tracked_run(recipe, runtime) as first:
        tags = {"llama2.kind": "base", "llama2.digest": "0", "llama2.label": "pretraining"}
        started = tracker(runtime).start("base", "0", tags, first.parent_run)
        with pytest.raises(StoreBusy), tracked_run(recipe, runtime) as second:
            assert second.parent_run == first.parent_run
            raise StoreBusy("base is being built by process 1")
        assert status(first.parent_run) == "RUNNING"
        tracker(runtime).finish(started)
    with pytest.raises(StoreBusy), tracked_run(Llama2Recipe(seed=8), runtime) as other:
        raise StoreBusy("the corpus is being built by process 1")
    assert status(other.parent_run) == "FAILED"  # its own: nobody works below it
    assert profile_path(recipe, runtime) != profile_path(Llama2Recipe(seed=8), runtime)
    assert profile_path(recipe, runtime).exists()


def test_a_run_killed_after_its_commit_is_finished_with_its_numbers(runtime: Runtime) -> None:
    tracking, store, digest = tracker(runtime), Store(runtime.store_root), "c0ffee" * 10
    parent = tracking.start("llama2", "parent", {})
    tags = {"llama2.kind": "chat", "llama2.label": "sft"}
    committed = tracking.start("sft", digest, {**tags, "llama2.digest": digest}, parent)
    at_work = tracking.start("ppo", "other", {**tags, "llama2.digest": "other"}, parent)
    measured = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1}
    with store.building("chat", digest):
        store.commit(
            "chat", digest, version=1, recipe={}, parents={}, summary={"final_loss": 0.5}, **measured
        )
    close_committed(runtime.model_copy(update={"parent_run": parent}))
    runs = {run.info.run_id: run for run in tracking.runs()}
    assert runs[committed].info.status == "FINISHED"
    assert runs[committed].data.metrics["final_loss"] == 0.5
    assert runs[at_work].info.status == "RUNNING"


def test_the_whole_report_is_logged(runtime: Runtime) -> None:
    parent = tracker(runtime).start("llama2", "report", {})
    folder = runtime.home / "report"
    folder.mkdir(parents=True)
    for name in ("report.html", "report.json", "ppo-kl.svg"):
        (folder / name).write_text("x")
    finish_run.fn({}, str(folder / "report.html"), runtime.model_copy(update={"parent_run": parent}))
    logged = (runtime.home / "mlflow").glob("*/artifacts/report/*")
    assert {path.name for path in logged} == {"report.html", "report.json", "ppo-kl.svg"}


def test_the_parent_run_has_the_headlines_alone(runtime: Runtime, tmp_path: Path) -> None:
    tracking, store = tracker(runtime), Store(runtime.store_root)
    scores = {"problems": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 90}, "annotator_score": 1.5}
    verdict = {"over_sft": {"ppo": {"helpful": {"value": 0.8, "low": 0.7, "high": 0.9}}}}
    measured = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1}
    for kind, summary in {"evaluation": scores, "verdict": verdict}.items():
        with store.building(kind, kind):
            store.commit(kind, kind, version=1, recipe={}, parents={}, summary=summary, **measured)
    (page := tmp_path / "rlhf.html").write_text("x")
    page.with_suffix(".json").write_text("{}")
    run = tracking.start("llama2", "headlines", {})
    stages = {"evaluation of V2": "evaluation/evaluation", "verdict 2": "verdict/verdict", "samples 2": "x"}
    finish_run.fn(stages, str(page), runtime.model_copy(update={"parent_run": run}))
    (found,) = (each for each in tracking.runs() if each.info.run_id == run)
    assert found.data.metrics == {
        "V2/problems": 0.5,
        "V2/annotator_score": 1.5,
        "verdict 2/over_sft/ppo/helpful": 0.8,
    }


def test_a_full_disk_is_what_a_worker_is_said_to_have_died_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = "sft failed: the disk is full. Free some space"
    for last in (
        "OSError: [Errno 28] No space left on device",
        "storage.errors.DiskFull: No space left for x",
    ):
        assert launch._failure("sft", 1, last, tmp_path).startswith(full)
    assert launch._failure("sft", -9, "step 28", tmp_path) == "sft failed (exit status -9)."
    monkeypatch.setattr(launch, "LINES_BYTES", 1 << 60)  # as on a disk without room for its last words
    assert launch._failure("sft", 1, "(it wrote nothing)", tmp_path).startswith(full)


def test_scores_get_win_rates_over_the_earlier_stages() -> None:
    rates = {"ppo over sft": {"value": 0.6, "low": 0.5, "high": 0.7}}
    assert with_win_rates([{"stage": "sft", "problems": "1"}, {"stage": "ppo", "problems": "2"}], rates) == [
        {"stage": "sft", "problems": "1", "win rate over sft": "–"},
        {"stage": "ppo", "problems": "2", "win rate over sft": "60.0 (50.0 to 70.0)"},
    ]


STARTER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "tasks.worker"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_worker_dies_with_its_parent_while_it_still_imports(tmp_path: Path) -> None:
    """Its input stays open, so that nothing but its parent's death ends it."""
    reading, writing = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTER], stdin=reading, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout
    worker = psutil.Process(int(parent.stdout.readline()))
    while not any("libtorch" in region.path for region in worker.memory_maps()):
        time.sleep(0.01)  # mapped first, imported seconds later
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    try:
        worker.wait(30)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_name_of_a_stage_is_an_artifact_before_it_names_a_result(prefect: None, runtime: Runtime) -> None:
    def first(directory: Path) -> dict[str, Any]:
        (directory / "content").write_text("first")
        return {}

    def tokens(parent: str, seed: int = 0) -> str:
        return build(Job("tokens", "tokens", TokensRecipe(), seed, {"base": parent}), runtime, first)

    older = build(Job("base", "base", TokensRecipe(), 0), runtime, first)
    assert tokens("base") == tokens(older) == tokens(older[:12])
    newer = build(Job("base", "base", TokensRecipe(), 1), runtime, first)
    assert tokens("base") == tokens(newer) != tokens(older)
    assert find(tokens("base"), runtime).manifest.parents == {"base": newer}
    with pytest.raises(ArtifactNotFound, match=r"No artifact 'bse'.*Did you mean base"):
        tokens("bse")


def test_a_changed_parent_stops_the_stage_before_it_works(prefect: None, runtime: Runtime) -> None:
    def text(directory: Path) -> dict[str, Any]:
        (directory / "weights.bin").write_text("as committed")
        return {}

    base = made("base", runtime, text)
    child = Job("chat", "chat", TokensRecipe(), parents={"base": base})
    weights = find(base, runtime).file("weights.bin")
    weights.write_text("as replaced!")
    with pytest.raises(CorruptArtifact, match=r"weights\.bin is not what was committed"):
        build(child, runtime, lambda directory: pytest.fail("it must not begin"))
    with pytest.raises(CorruptArtifact, match=r"weights\.bin"):
        model_path("base", runtime.home)
    weights.write_text("as committed")
    assert model_path("base", runtime.home) == weights.parent
    assert Store(runtime.store_root).lineage(find(build(child, runtime, text), runtime))
