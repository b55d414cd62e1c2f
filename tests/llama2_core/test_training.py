"""The loop: one result however a batch is split, bit-exact resume, schedules by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from llama2_core.config import LoopConfig, ModelConfig, OptimizerConfig
from llama2_core.data.packing import StreamPacker, pack_dialogs
from llama2_core.data.sampler import bucketed_indices, rank_share, step_indices
from llama2_core.errors import CheckpointError
from llama2_core.model import Transformer, initialise
from llama2_core.tokenizer import Tokenizer
from llama2_core.training import checkpoint, snapshots
from llama2_core.training.loop import TrainState, train
from llama2_core.training.objectives import TokenBatch, next_token_objective
from llama2_core.training.optim import adamw, learning_rate
from llama2_core.training.snapshots import Snapshots

LOOP = LoopConfig(steps=8, rows=8, optimizer=OptimizerConfig(peak_learning_rate=3e-3, warmup_steps=2))
ROWS = torch.randint(3, 300, (40, 17), generator=torch.Generator().manual_seed(3))


def state_of(config: ModelConfig) -> TrainState:
    model = Transformer(config)
    initialise(model, config, torch.Generator().manual_seed(0))
    return TrainState(model, adamw(model, LOOP.optimizer))


def batches(micro: int):
    def of_step(step: int) -> list[TokenBatch]:
        rows = ROWS[step_indices(len(ROWS), LOOP.rows, 0, step)]
        mask = torch.ones_like(rows[:, 1:], dtype=torch.bool)
        mask[::3, :9] = False
        return [TokenBatch(t, m) for t, m in zip(rows.split(micro), mask.split(micro), strict=True)]

    return of_step


def test_loss_by_hand(config: ModelConfig) -> None:
    """A model whose logits are all zero loses log V on each counted token."""
    model = Transformer(config)
    with torch.no_grad():
        model.output.weight.zero_()
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, 3:6] = True
    loss = next_token_objective(model, TokenBatch(ROWS[:2], mask))
    assert loss.count == 3
    assert loss.total.item() == pytest.approx(3 * math.log(config.vocab_size), rel=1e-5)


def test_accumulation_does_not_change_the_result(config: ModelConfig) -> None:
    whole, split = state_of(config), state_of(config)
    reports = list(train(whole, next_token_objective, batches(8), LOOP))
    others = list(train(split, next_token_objective, batches(2), LOOP))
    assert [r.loss for r in reports] == pytest.approx([r.loss for r in others], rel=1e-4)
    assert reports[-1].loss < reports[0].loss
    for a, b in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


def test_resume_is_bit_exact(config: ModelConfig, tmp_path: Path) -> None:
    straight = state_of(config)
    list(train(straight, next_token_objective, batches(4), LOOP))
    broken, kept = state_of(config), Snapshots(tmp_path)
    for report in train(broken, next_token_objective, batches(4), LOOP):
        kept.save(broken, {})
        if report.step == 5:
            break
    kept.wait()
    resumed, newest = state_of(config), kept.newest()
    assert newest
    snapshots.load(newest, resumed)
    assert resumed.step == 5
    list(train(resumed, next_token_objective, batches(4), LOOP))
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_model_directories_round_trip(config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = state_of(config).model
    checkpoint.save_model(tmp_path, model, tokenizer)
    loaded, vocabulary = checkpoint.load_policy(tmp_path)
    assert torch.equal(loaded(ROWS[:1]), model(ROWS[:1]))
    assert vocabulary.model == tokenizer.model
    reward, _ = checkpoint.load_reward_model(tmp_path)
    assert torch.equal(reward(ROWS[:1]), torch.zeros(1, 17))


def test_a_tensor_that_does_not_fit_is_named(
    config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    checkpoint.save_model(tmp_path, state_of(config).model, tokenizer)
    other = config.model_copy(update={"multiple_of": 64})
    (tmp_path / "config.json").write_text(other.model_dump_json())
    with pytest.raises(
        CheckpointError, match=r"model.safetensors: tensor layers.0.feed_forward.w1.weight is"
    ):
        checkpoint.load_policy(tmp_path)


def test_learning_rate_by_hand() -> None:
    config = OptimizerConfig(peak_learning_rate=1.0, warmup_steps=10, final_learning_rate_share=0.1)
    assert learning_rate(0, 110, config) == pytest.approx(0.1)
    assert learning_rate(9, 110, config) == pytest.approx(1.0)
    assert learning_rate(60, 110, config) == pytest.approx(0.55)
    assert learning_rate(110, 110, config) == pytest.approx(0.1)


def test_norms_do_not_decay(config: ModelConfig) -> None:
    groups = adamw(Transformer(config), OptimizerConfig()).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(p.dim() == 1 for p in groups[1]["params"])


def test_every_epoch_sees_every_row_once() -> None:
    seen = np.concatenate([step_indices(20, 8, 1, step) for step in range(5)])
    assert sorted(seen[:20].tolist()) == list(range(20))
    assert sorted(seen[20:].tolist()) == list(range(20))
    assert seen[:20].tolist() != seen[20:].tolist()
    shares = [rank_share(step_indices(20, 8, 1, 0), rank, 2) for rank in (0, 1)]
    assert sorted(np.concatenate(shares)) == sorted(step_indices(20, 8, 1, 0))


def test_packing_a_stream_loses_only_the_tail() -> None:
    packer = StreamPacker(4)
    rows, begins = packer.add([[1, 2, 3], [4, 5]])
    assert rows.tolist() == [[1, 2, 3, 4]]
    assert begins.astype(int).tolist() == [[1, 0, 0, 1]]
    rows, begins = packer.add([[6, 7, 8, 9]])
    assert rows.tolist() == [[5, 6, 7, 8]]
    assert begins.astype(int).tolist() == [[0, 1, 0, 0]]
    assert packer.add([])[0].shape == (0, 4)


def test_packing_dialogs_keeps_them_whole() -> None:
    dialogs = [
        ([1, 2], [False, True]),
        ([3, 4, 5], [False, True, True]),
        ([6], [True]),
        ([7] * 9, [True] * 9),
    ]
    tokens, mask, begins, left_out = pack_dialogs(dialogs, 5, fill=0)
    assert tokens.tolist() == [[1, 2, 3, 4, 5], [6, 0, 0, 0, 0]]
    assert mask.astype(int).tolist() == [[0, 1, 0, 1, 1], [1, 0, 0, 0, 0]]
    assert begins.astype(int).tolist() == [[1, 0, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert left_out == 1


def test_buckets_hold_the_same_rows_by_length() -> None:
    """27 rows, batches of 4, 19 steps: two windows of eight, one of three."""
    lengths = np.random.default_rng(0).integers(5, 60, 27)
    plain = [step_indices(27, 4, 3, step) for step in range(19)]
    bucketed = [bucketed_indices(lengths, 4, 3, step, 19) for step in range(19)]
    for window in (slice(0, 8), slice(8, 16), slice(16, 19)):
        assert sorted(np.concatenate(bucketed[window])) == sorted(np.concatenate(plain[window]))

    def padding(batches: list[np.ndarray]) -> int:
        return sum(int((lengths[batch].max() - lengths[batch]).sum()) for batch in batches)

    assert padding(bucketed) < padding(plain) / 3
    assert [list(batch) for batch in bucketed] != sorted(list(batch) for batch in bucketed)
