"""Reward models: the paper's formulas by hand, and TRL as the oracle."""

import math
import random
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from llama2_core.config import GRADES, Margin, ModelConfig, OptimizerConfig, RewardConfig
from llama2_core.model import ScalarModel, initialise
from llama2_core.rlhf.pairs import Pair, mix
from llama2_core.rlhf.reward import (
    MARGINS,
    combined_score,
    pair_batch,
    ranking_loss,
    reward_objective,
    safety_auxiliary_loss,
    score_rows,
    whitened_logit,
)
from llama2_core.training.loop import TrainState, optimizer_step
from llama2_core.training.optim import adamw


def test_margins_are_the_papers() -> None:
    assert list(MARGINS["large"].values()) == [3, 2, 1, 0]
    assert list(MARGINS["small"].values()) == pytest.approx([1, 2 / 3, 1 / 3, 0])


def test_ranking_loss_by_hand() -> None:
    """sigmoid(2 - 0.5 - 1) = 0.6225; -log is 0.4741."""
    loss = ranking_loss(torch.tensor([2.0]), torch.tensor([0.5]), torch.tensor([1.0]))
    assert loss.item() == pytest.approx(0.474077, abs=1e-6)


@pytest.mark.parametrize("name", MARGINS)
def test_ranking_loss_equals_trl(name: Margin) -> None:
    from trl.trainer.reward_trainer import RewardTrainer

    chosen, rejected = torch.randn(8), torch.randn(8)
    margin = torch.tensor([MARGINS[name][grade] for grade in GRADES] * 2)
    logits = torch.cat([chosen, rejected]).unsqueeze(1)

    def model(**_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=logits, loss=None)

    trainer = object.__new__(RewardTrainer)
    trainer.args = SimpleNamespace(center_rewards_coefficient=None)
    trainer.accelerator = SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x)
    trainer.model = SimpleNamespace(training=False)
    trainer.aux_loss_enabled = False
    from collections import defaultdict

    trainer._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    trainer._total_train_tokens = 0
    inputs = {
        "input_ids": torch.zeros(16, 4, dtype=torch.long),
        "attention_mask": torch.ones(16, 4, dtype=torch.long),
        "margin": margin,
    }
    theirs = trainer.compute_loss(model, inputs)
    torch.testing.assert_close(ranking_loss(chosen, rejected, margin).mean(), theirs)


def test_gradients_of_one_shared_pass_are_those_of_two(config: ModelConfig) -> None:
    """Rows of 3 to 9 tokens: the shared pass fills the shorter ones up, two passes of single rows fill nothing."""
    model = ScalarModel(config)
    initialise(model, config, torch.Generator().manual_seed(0))
    numbers = random.Random(0)
    rows = [[1, *[numbers.randrange(3, 60) for _ in range(numbers.randrange(2, 9))]] for _ in range(8)]
    pairs = [Pair(rows[2 * i], rows[2 * i + 1], grade, True, i > 1, 1) for i, grade in enumerate(GRADES)]
    reward_objective(RewardConfig(margin="small"))(model, pair_batch(pairs, "small")).total.backward()
    shared = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad()
    for pair in pairs:
        chosen, rejected = (model(torch.tensor([row]))[0, -1] for row in (pair.chosen, pair.rejected))
        ranking_loss(chosen, rejected, torch.tensor(MARGINS["small"][pair.grade])).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, shared.pop(name), atol=1e-6, rtol=1e-4)
    assert not shared


def test_safety_auxiliary_loss_by_hand() -> None:
    loss = safety_auxiliary_loss(torch.tensor([0.0, 2.0]), torch.tensor([True, False]))
    assert loss.tolist() == pytest.approx([math.log(2), math.log(1 + math.exp(2))])
    scores = torch.tensor([0.0, 2.0], requires_grad=True)  # what nobody labelled teaches nothing
    unknown = safety_auxiliary_loss(scores, torch.tensor([1.0, math.nan]))
    unknown.sum().backward()
    assert unknown.tolist() == pytest.approx([math.log(2), 0])
    assert scores.grad is not None and scores.grad.tolist() == pytest.approx([-0.5, 0])


def test_the_safety_model_rules_safety_prompts_and_unsafe_answers() -> None:
    helpful = torch.logit(torch.tensor([0.9, 0.9, 0.9]))
    safe = torch.logit(torch.tensor([0.6, 0.14, 0.16]))
    tagged = torch.tensor([True, False, False])
    assert combined_score(helpful, safe, tagged, 0.15).tolist() == pytest.approx([0.6, 0.14, 0.9])


def test_whitened_logit_has_mean_zero_and_deviation_one() -> None:
    white = whitened_logit(torch.tensor([0.5, 0.731059, 0.268941]), 0.01)  # logits 0, 1, -1
    assert white.tolist() == pytest.approx([0, 1.224745, -1.224745], abs=1e-4)


def test_no_score_is_nearer_to_0_or_1_than_eps() -> None:
    assert whitened_logit(torch.tensor([1e-9, 0.999999]), 0.01).tolist() == pytest.approx([-1, 1])
    nearly = whitened_logit(torch.tensor([0.0, 0.01, 0.5, 0.99]), 0.01)
    assert nearly[0] == nearly[1]


def test_mixes_are_the_papers() -> None:
    helpful, safe = [f"h{i}" for i in range(90)], [f"s{i}" for i in range(90)]
    of_helpfulness = mix(helpful, safe[:30], 0.5, random.Random(0))
    assert sum(row[0] == "h" for row in of_helpfulness) == 90
    assert len(of_helpfulness) == 120, "as many others as there are"
    of_safety = mix(safe, helpful, 0.1, random.Random(0))
    assert sum(row[0] == "h" for row in of_safety) / len(of_safety) == pytest.approx(0.1)
    assert mix(safe, helpful, 0.0, random.Random(0)) == safe


def test_a_reward_model_overfits_a_batch(config: ModelConfig) -> None:
    model = ScalarModel(config)
    initialise(model, config, torch.Generator().manual_seed(0))
    numbers = random.Random(0)
    rows = [[1, *[numbers.randrange(3, 60) for _ in range(numbers.randrange(4, 9))]] for _ in range(32)]
    pairs = [Pair(rows[2 * i], rows[2 * i + 1], "better", True, False, 1) for i in range(16)]
    state = TrainState(model, adamw(model, OptimizerConfig()))
    optimizer = OptimizerConfig(peak_learning_rate=3e-3, warmup_steps=0, schedule="constant")
    objective = reward_objective(RewardConfig(safety_auxiliary_weight=0.1))
    reports = [
        optimizer_step(state, objective, [pair_batch(pairs, "small")], optimizer, 80) for _ in range(80)
    ]
    assert reports[-1].loss < 0.5 * reports[0].loss
    assert reports[-1].metrics["accuracy"] == 1.0


def test_scores_do_not_depend_on_padding(config: ModelConfig) -> None:
    model = ScalarModel(config)
    rows = [[1, 5, 6], [1, 9, 8, 7, 6, 5, 4], [1, 3]]
    together = score_rows(model, rows)
    alone = [score_rows(model, [row])[0] for row in rows]
    assert together == pytest.approx(alone, abs=1e-5)


def test_logsigmoid_convention() -> None:
    assert F.logsigmoid(torch.tensor(0.0)).item() == pytest.approx(-math.log(2))
