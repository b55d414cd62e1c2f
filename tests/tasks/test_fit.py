"""The driver of the loop: stop and go on, damage, data that breaks a run, what is refused before it starts."""

import dataclasses
import json
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llama2_core.config import LoopConfig, ModelConfig, OptimizerConfig
from llama2_core.errors import CheckpointError, ConfigError, DataError
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.guards import Stopped, TrainingDiverged
from llama2_core.training.loop import Loss
from llama2_core.training.objectives import TokenBatch, next_token_objective
from storage.metrics import read_metrics
from tasks.fit import Examples, Training, fit
from tasks.recipes import PretrainRecipe
from tasks.runtime import Execution
from tasks.stage import Stage, empty, newly_initialised
from tasks.training_stages import pretrain

STEPS = 40
EXECUTION = Execution(
    threads=1, micro_rows=4, log_every=1, checkpoint_every=5, validate_every=10, kept_checkpoints=2
)


@pytest.fixture
def stage(
    tmp_path: Path, tokenizer: Tokenizer, write_tokens: Callable[[Path, np.ndarray], None]
) -> Callable[..., Stage]:
    """Return what makes a pretraining stage in a folder of this name."""
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.model").write_bytes(tokenizer.model)
    write_tokens(tmp_path / "tokens", np.random.default_rng(0).integers(3, tokenizer.vocab_size, (200, 17)))
    parents = {"tokens": tmp_path / "tokens", "tokenizer": tmp_path / "tokenizer"}

    def make(name: str, peak: float = 1e-2, **model) -> Stage:
        shape = {"vocab_size": tokenizer.vocab_size, "dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
        config = ModelConfig(**{**shape, "multiple_of": 16, "max_seq_len": 32, **model})
        optimizer = OptimizerConfig(warmup_steps=2, peak_learning_rate=peak)
        recipe = PretrainRecipe(model=config, loop=LoopConfig(steps=STEPS, rows=8, optimizer=optimizer))
        (tmp_path / name).mkdir(exist_ok=True)
        return Stage(tmp_path / name, recipe.model_dump(mode="json"), 5, parents, EXECUTION)

    return make


def weights(stage: Stage) -> dict[str, torch.Tensor]:
    return load_file(stage.directory / "model.safetensors")


def same(a: Stage, b: Stage) -> bool:
    return all(torch.equal(tensor, weights(b)[name]) for name, tensor in weights(a).items())


def stop_at(stage: Stage, step: int) -> None:
    """Run a stage and send this process SIGTERM when that step is logged."""

    def watch() -> None:
        while len(read_metrics(stage.metrics)) < step:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    with pytest.raises(Stopped, match=r"SIGTERM at step \d+ of 40: saved"):
        pretrain(stage)


def steps_saved(stage: Stage) -> list[int]:
    return sorted(int(path.name[5:]) for path in stage.checkpoints.glob("step-*"))


def test_stopped_twice_it_ends_where_it_would_have(stage, capfd) -> None:
    straight, broken = stage("straight"), stage("broken")
    summary = pretrain(straight)
    for step in (7, 22):
        stop_at(broken, step)
        stopped = steps_saved(broken)[-1]
        assert stopped >= step and len(read_metrics(broken.metrics)) == stopped
    resumed = pretrain(broken)
    said = capfd.readouterr().out
    assert f"resumed at step {stopped} of 40, row {8 * stopped} (epoch" in said
    assert same(straight, broken)
    names = ("first_loss", "final_loss", "validation_loss", "updates_not_applied", "steps", "tokens")
    assert [summary[name] for name in names] == [resumed[name] for name in names]
    rows = read_metrics(broken.metrics)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if "validation_loss" in row] == [10, 20, 30, 40]
    assert all(row["tokens_per_second"] > 0 and 0 <= row["data_wait_share"] < 1 for row in rows)
    assert json.loads((broken.directory / "heartbeat.json").read_text())["of"] == STEPS


@pytest.mark.parametrize("damage", ["flip a bit", "truncate", "no marker", "no file"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(stage, damage: str, capfd) -> None:
    straight, broken = stage("straight"), stage("broken")
    pretrain(straight)
    stop_at(broken, 12)
    newest = sorted(broken.checkpoints.glob("step-*"))[-1]
    file = newest / "state.json" if damage == "no marker" else next(newest.glob("*.safetensors"))
    if damage == "flip a bit":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:1000])
    else:
        file.unlink()
    pretrain(broken)
    said = capfd.readouterr().out
    assert str(file) in said and "an earlier checkpoint is used" in said
    assert "resumed at step 10 of 40" in said
    assert same(straight, broken)


def test_a_full_disk_costs_a_checkpoint_and_no_more(stage, capfd) -> None:
    straight, full = stage("straight"), stage("full")
    pretrain(straight)
    stop_at(full, 6)
    earlier = steps_saved(full)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))  # as much as the metrics need
    try:
        with pytest.raises(Exception, match=r"File too large|os error 27"):
            pretrain(full)  # at its very end the model itself is too large
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capfd.readouterr().out
    assert "no checkpoint of step 35: [Errno 27] File too large" in said and "Training goes on" in said
    assert steps_saved(full) == earlier and not list(full.checkpoints.glob(".partial-*"))
    assert len(read_metrics(full.metrics)) == STEPS
    pretrain(full)
    assert same(straight, full)


def test_other_tokens_under_a_begun_run_are_refused(stage, tokenizer, write_tokens) -> None:
    begun = stage("begun")
    stop_at(begun, 6)
    write_tokens(
        begun.parents["tokens"], np.random.default_rng(1).integers(3, tokenizer.vocab_size, (200, 17))
    )
    with pytest.raises(DataError, match=r"step-\d+ was learned from token shards [0-9a-f]{12}, here is"):
        pretrain(begun)


def test_weights_that_compute_something_else_are_refused(stage) -> None:
    """As when code, data or machine changed under a run: the next batch's loss is not the stored one."""
    begun = stage("begun")
    stop_at(begun, 6)
    marker = sorted(begun.checkpoints.glob("step-*"))[-1] / "state.json"
    facts = json.loads(marker.read_text())
    marker.write_text(json.dumps({**facts, "next_loss": facts["next_loss"] * 1.001}))
    with pytest.raises(
        CheckpointError, match=r"the next batch's loss is 5\.\d+, when .* was written it was 5\."
    ):
        pretrain(begun)


def test_what_cannot_work_is_refused_before_it_starts(stage, tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match=rf"vocab_size is 512; the tokenizer has {tokenizer.vocab_size}"):
        pretrain(stage("vocabulary", vocab_size=512))
    with pytest.raises(ConfigError, match=r"rows of 16 tokens and one more; pretrain.model.max_seq_len is 8"):
        pretrain(stage("context", max_seq_len=8))
    many = dataclasses.replace(
        stage("tensor"),
        execution=EXECUTION.model_copy(update={"mesh": EXECUTION.mesh.model_copy(update={"tensor": 2})}),
    )
    with pytest.raises(ConfigError, match=r"mesh: replicate 1 x tensor 2 does not divide 1 processes"):
        pretrain(many)
    with pytest.raises(ValueError, match=r"peak_learning_rate\s+Input should be greater than 0"):
        stage("still", peak=0.0)


def test_a_rate_that_is_far_too_high_ends_with_the_rows_named(stage) -> None:
    with pytest.raises(
        TrainingDiverged, match=r"3 updates in a row, after 0 returns .*step \d+: rows \d+, .*Lower"
    ):
        pretrain(stage("wild", peak=1e30))


@pytest.fixture
def breaking(tmp_path: Path, config: ModelConfig) -> Iterator[Callable[[set[int]], tuple[Stage, Training]]]:
    """Return a training whose loss is not finite where a batch holds one of these rows."""
    rows = torch.randint(3, 300, (400, 17), generator=torch.Generator().manual_seed(3))
    loop = LoopConfig(steps=STEPS, rows=4, optimizer=OptimizerConfig(peak_learning_rate=3e-3, warmup_steps=2))

    def make(bad: set[int]) -> tuple[Stage, Training]:
        marks = torch.zeros(400)
        marks[list(bad)] = torch.inf

        def collate(places: np.ndarray) -> TokenBatch:
            mask = torch.ones(len(places), 16, dtype=torch.bool)
            return TokenBatch(rows[places], mask, sources=torch.from_numpy(places))

        def objective(model: torch.nn.Module, batch: TokenBatch) -> Loss:
            loss = next_token_objective(model, batch)
            assert batch.sources is not None
            return dataclasses.replace(loss, total=loss.total * (1 + marks[batch.sources].sum()))

        training = Training(
            objective,
            Examples(400, collate),
            lambda step: np.arange(4 * step, 4 * step + 4),
            loop,
            row_tokens=16,
        )
        return Stage(tmp_path, {}, 0, {}, EXECUTION), training

    yield make


def test_a_bad_batch_is_passed_over(breaking, config: ModelConfig) -> None:
    stage, training = breaking({30, 100})
    state = fit(stage, empty(Transformer, config), newly_initialised(0), training)
    rows = read_metrics(stage.metrics)
    assert rows[-1]["updates_not_applied"] == 2 and rows[-1]["rollbacks"] == 0
    assert [row["step"] for row in rows if not np.isfinite(row["loss"])] == [8, 26]
    assert all(torch.isfinite(p).all() for p in state.model.parameters())


def test_bad_batches_in_a_row_are_left_out_after_a_return(breaking, config: ModelConfig, capfd) -> None:
    stage, training = breaking(set(range(48, 60)))
    state = fit(stage, empty(Transformer, config), newly_initialised(0), training)
    said = capfd.readouterr().out
    assert "back to step 10; left out from now on: step 13: rows 48, 49, 50, 51; step 14: rows 52" in said
    assert state.step == STEPS and all(torch.isfinite(p).all() for p in state.model.parameters())
    rows = read_metrics(stage.metrics)
    assert [row["step"] for row in rows] == [*range(1, 13), *range(16, STEPS + 1)]
    assert rows[-1]["rollbacks"] == 1
    left_out = json.loads((stage.checkpoints / "left_out.json").read_text())
    assert left_out == {"12": [48, 49, 50, 51], "13": [52, 53, 54, 55], "14": [56, 57, 58, 59]}


@pytest.mark.parametrize(("alarm", "newest"), [(25, 40), (16, 10)])
def test_a_run_resumed_after_a_return_ends_where_it_would_have(
    breaking, config: ModelConfig, tmp_path: Path, alarm: int, newest: int
) -> None:
    """Also when it was killed so soon that the checkpoint that it returned to is still the newest."""
    stage, training = breaking(set(range(48, 60)))
    straight = fit(stage, empty(Transformer, config), newly_initialised(0), training)
    again, alarms = dataclasses.replace(stage, directory=tmp_path / "again"), [alarm]
    again.directory.mkdir()

    def order(step: int) -> np.ndarray:
        if step in alarms:
            alarms.remove(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return training.order(step)

    stopping = dataclasses.replace(training, order=order)
    with pytest.raises(Stopped):
        fit(again, empty(Transformer, config), newly_initialised(0), stopping)
    assert (again.checkpoints / "left_out.json").exists()
    for path in again.checkpoints.glob("step-*"):
        if int(path.name[5:]) > newest:
            shutil.rmtree(path)
    resumed = fit(again, empty(Transformer, config), newly_initialised(0), stopping)
    pairs = zip(straight.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_run_that_stays_broken_ends(breaking, config: ModelConfig) -> None:
    stage, training = breaking(set(range(48, 160)))
    with pytest.raises(TrainingDiverged, match=r"after 2 returns to a checkpoint \(step 19: rows 72, 73"):
        fit(stage, empty(Transformer, config), newly_initialised(0), training)
