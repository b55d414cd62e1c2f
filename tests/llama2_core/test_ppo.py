"""PPO: every formula by hand, the masks on a drawn row, and a planted reward that must be learned."""

import pytest
import torch

from llama2_core.config import ModelConfig, OptimizerConfig, PPOConfig, SamplingConfig
from llama2_core.model import ScalarModel, Transformer, initialise
from llama2_core.rlhf.ppo import (
    ActorCritic,
    Judges,
    clipped_policy_loss,
    clipped_value_loss,
    generalised_advantages,
    judge,
    ppo,
    token_rewards,
    whiten,
)
from llama2_core.rlhf.rollout import assemble, roll_out, token_logprobs
from llama2_core.training.loop import TrainState
from llama2_core.training.optim import adamw


def test_rollout_masks_on_a_drawn_row() -> None:
    """Prompt 1 7, response 8 9 and EOS 2; a second row that did not end."""
    rollout = assemble([[1, 7], [1]], [[8, 9], [5, 6]], [True, False], eos_id=2)
    assert rollout.tokens.tolist() == [[1, 7, 8, 9, 2], [1, 5, 6, 2, 2]]
    assert rollout.mask.int().tolist() == [[0, 1, 1, 1], [1, 1, 0, 0]]
    assert rollout.last.tolist() == [4, 2]


def test_advantages_by_hand() -> None:
    """gamma 1, lambda 0.5; r = 0, 1; V = 0.5, 0.25: A2 = 0.75, A1 = -0.25 + 0.375 = 0.125."""
    mask = torch.tensor([[False, True, True, False]])
    rewards = torch.tensor([[9.0, 0.0, 1.0, 9.0]]) * mask
    values = torch.tensor([[9.0, 0.5, 0.25, 9.0]])
    advantages, returns = generalised_advantages(rewards, values, mask, 1.0, 0.5)
    assert advantages.tolist() == [[0, 0.125, 0.75, 0]]
    assert returns.tolist() == [[0, 0.625, 1.0, 0]]


def test_discount_by_hand() -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    _, returns = generalised_advantages(torch.tensor([[1.0, 1, 1]]), torch.zeros(1, 3), mask, 0.5, 1.0)
    assert returns.tolist() == [[1.75, 1.5, 1.0]]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [(1.5, 1.0, -1.2), (0.5, 1.0, -0.5), (1.5, -1.0, 1.5), (0.5, -1.0, 0.8), (1.0, 2.0, -2.0)],
)
def test_clipped_policy_loss_by_hand(ratio: float, advantage: float, loss: float) -> None:
    found = clipped_policy_loss(torch.tensor(ratio).log(), torch.tensor(0.0), torch.tensor(advantage), 0.2)
    assert found.item() == pytest.approx(loss)


def test_clipped_value_loss_by_hand() -> None:
    """Old 0, new 1, target 2, range 0.2: the clipped value 0.2 errs by 1.8, the larger."""
    loss = clipped_value_loss(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(2.0), 0.2)
    assert loss.item() == pytest.approx(0.5 * 1.8**2)


def test_the_score_comes_at_the_last_token_and_kl_at_each() -> None:
    mask = torch.tensor([[False, True, True, False]])
    kl = torch.tensor([[7.0, 1.0, 2.0, 7.0]])
    rewards = token_rewards(torch.tensor([3.0]), kl, mask, 0.1)
    torch.testing.assert_close(rewards, torch.tensor([[0.0, -0.1, 2.8, 0.0]]))


def test_whiten_by_hand() -> None:
    white = whiten(torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[True, True, False]]))
    torch.testing.assert_close(white[0, :2], torch.tensor([-1.0, 1.0]))


def test_sampled_tokens_have_the_probability_they_were_sampled_with(model: Transformer) -> None:
    """Scoring agrees with sampling: the tokens' frequency is the model's probability."""
    config = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=1)
    rollout = roll_out(model, [[1, 5]] * 4000, list(range(4000)), config, 2, 512)
    with torch.no_grad():
        probabilities = model(torch.tensor([[1, 5]]))[0, -1].softmax(-1)
    counts = torch.bincount(rollout.tokens[:, 2], minlength=model.config.vocab_size) / 4000
    top = probabilities.topk(5).indices
    torch.testing.assert_close(counts[top], probabilities[top], atol=0.03, rtol=0)
    logprob = token_logprobs(model, rollout.tokens[:1, :3])[0, 1]
    assert logprob.exp().item() == pytest.approx(probabilities[rollout.tokens[0, 2]].item(), abs=1e-5)


class Likes(torch.nn.Module):
    """A planted reward model: the share of one token in a row."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.token = token

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        count = (tokens == self.token).float().cumsum(1)
        return 4 * count / torch.arange(1, tokens.shape[1] + 1) - 1


def test_ppo_learns_a_planted_reward_and_stays_near(config: ModelConfig) -> None:
    policy = Transformer(config)
    initialise(policy, config, torch.Generator().manual_seed(0))
    reference = Transformer(config)
    reference.load_state_dict(policy.state_dict())
    value = ScalarModel(config)
    initialise(value, config, torch.Generator().manual_seed(1))
    judges = Judges(reference, Likes(7), Likes(7))
    optimizer = OptimizerConfig(
        peak_learning_rate=3e-3, schedule="constant", warmup_steps=0, weight_decay=0.0
    )
    model = ActorCritic(policy, value)
    state = TrainState(model, adamw(model, optimizer))
    settings = PPOConfig(iterations=16, batch_rows=128, mini_batch_rows=16, kl_coef=0.1)
    sampling = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=8)

    def sample(current: Transformer, iteration: int):
        seeds = [1000 * iteration + row for row in range(128)]
        rollout = roll_out(current, [[1, 5, 6]] * 128, seeds, sampling, 2, 64)
        return rollout, torch.zeros(128, dtype=torch.bool)

    reports = [report.metrics for report in ppo(state, judges, sample, settings, optimizer)]
    assert reports[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert reports[0]["first_update_kl"] == pytest.approx(0.0, abs=1e-6)
    assert reports[-1]["reward"] > reports[0]["reward"] + 0.3
    assert 0 < reports[-1]["kl"] < 40
    assert state.step == 16 * 128 // 16


def test_judging_leaves_no_gradient(config: ModelConfig, model: Transformer) -> None:
    rollout = assemble([[1, 7], [1, 9]], [[8, 9], [5]], [True, True], eos_id=2)
    judges = Judges(model, Likes(8), Likes(8))
    experience, metrics = judge(
        ActorCritic(model, ScalarModel(config)), judges, rollout, torch.tensor([True, False]), PPOConfig()
    )
    assert not experience.logprobs.requires_grad
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-5)


def test_rows_are_cut_behind_their_longest_and_grouped_by_length() -> None:
    rollout = assemble([[1, 5]] * 4, [[7] * n for n in (6, 2, 5, 1)], [True, True, False, True], 2)
    parts = rollout.by_length(torch.arange(4), 2)
    assert [part.tolist() for part in parts] == [[3, 1], [2, 0]]
    assert [rollout.rows(part).tokens.shape[1] for part in parts] == [5, 9]
    short = rollout.rows(parts[0])
    assert short.tokens.tolist() == [[1, 5, 7, 2, 2], [1, 5, 7, 7, 2]]
    assert short.mask.tolist() == [[False, True, True, False], [False, True, True, True]]
