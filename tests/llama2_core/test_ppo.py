"""PPO: every formula by hand, and the masks on a drawn row."""

import pytest
import torch

from llama2_core.config import ModelConfig, PPOConfig, SamplingConfig
from llama2_core.generate import Completion, Finish
from llama2_core.model import ScalarModel, Transformer
from llama2_core.rlhf.actors import ActorCritic, Judges
from llama2_core.rlhf.experience import generalised_advantages, judge, token_rewards, whiten
from llama2_core.rlhf.ppo import (
    RatioError,
    clipped_policy_loss,
    clipped_value_loss,
    next_kl_coef,
    refuse_other_policy,
)
from llama2_core.rlhf.rollout import assemble, roll_out, token_logprobs


def said(*tokens: int, finish: Finish = "eos") -> Completion:
    return Completion(list(tokens), [-1.0] * (len(tokens) + (finish == "eos")), finish)


def test_rollout_masks_on_a_drawn_row() -> None:
    """Prompt 1 7, response 8 9 and EOS 2; a second row that did not end."""
    cut_off = Completion([5, 6], [-4.0, -5.0])
    rollout = assemble([[1, 7], [1]], [Completion([8, 9], [-1.0, -2.0, -3.0], "eos"), cut_off], eos_id=2)
    assert rollout.tokens.tolist() == [[1, 7, 8, 9, 2], [1, 5, 6, 2, 2]]
    assert rollout.mask.int().tolist() == [[0, 1, 1, 1], [1, 1, 0, 0]]
    assert rollout.last.tolist() == [4, 2]
    assert rollout.ended.tolist() == [True, False]
    assert rollout.sampled.tolist() == [[0, -1, -2, -3], [-4, -5, 0, 0]]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_processes_share_out_every_row_and_are_called_as_often(ranks: int) -> None:
    """Seven rows in mini-batches of four: the second has three, so of two processes one has its first row again."""
    answers = [said(*range(3, 4 + row)) for row in range(7)]
    rollout = assemble([[1]] * 7, answers, eos_id=2)
    shares = [list(rollout.mini_batches(4, 2, (rank, ranks))) for rank in range(ranks)]
    for number, whole in enumerate(({0, 1, 2, 3}, {4, 5, 6})):
        parts = [share[number] for share in shares]
        assert len({tuple(map(len, part)) for part in parts}) == 1
        seen = [row for part in parts for rows in part for row in rows.tolist()]
        assert set(seen) == whole and len(seen) - len(whole) < ranks


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
    logprobs = token_logprobs(model, rollout.tokens[:1, :3])
    assert logprobs[0, 1].exp().item() == pytest.approx(probabilities[rollout.tokens[0, 2]].item(), abs=1e-5)
    assert logprobs[0, 1].item() == pytest.approx(rollout.sampled[0, 1].item(), abs=1e-5)


def test_judging_leaves_no_gradient(config: ModelConfig, model: Transformer) -> None:
    rollout = assemble([[1, 7], [1, 9]], [said(8, 9), said(5)], eos_id=2)
    reward_model = ScalarModel(config)
    judges = Judges(model, reward_model, reward_model)
    learner = ActorCritic(model, ScalarModel(config))
    experience, metrics = judge(learner, judges, rollout, torch.tensor([True, False]), PPOConfig(), 0.01)
    assert not experience.logprobs.requires_grad
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-5)


def test_rows_are_cut_behind_their_longest_and_grouped_by_length() -> None:
    responses = [said(*[7] * n, finish="length" if n == 5 else "eos") for n in (6, 2, 5, 1)]
    rollout = assemble([[1, 5]] * 4, responses, 2)
    parts = rollout.by_length(torch.arange(4), 2)
    assert [part.tolist() for part in parts] == [[3, 1], [2, 0]]
    assert [rollout.rows(part).tokens.shape[1] for part in parts] == [5, 9]
    short = rollout.rows(parts[0])
    assert short.tokens.tolist() == [[1, 5, 7, 2, 2], [1, 5, 7, 7, 2]]
    assert short.mask.tolist() == [[False, True, True, False], [False, True, True, True]]


def test_a_response_that_was_cut_off_pays_for_it_and_expects_nothing(config: ModelConfig) -> None:
    """Two rows with scores whitened to +-1; the second is cut off and pays 0.5 at its last token, then nothing."""
    rollout = assemble([[1, 7], [1, 9]], [said(8, 9), said(5, 6, 5, finish="length")], eos_id=2)
    policy, value = Transformer(config), ScalarModel(config)
    torch.nn.init.zeros_(value.score.weight)
    judges = Judges(policy, ScalarModel(config), ScalarModel(config))
    returns = []
    for penalty in (0.0, 0.5):
        settings = PPOConfig(unended_penalty=penalty, gae_lambda=1.0)
        tagged = torch.tensor([False, False])
        experience, metrics = judge(ActorCritic(policy, value), judges, rollout, tagged, settings, 0.0)
        returns.append(experience.returns)
        assert metrics["unended"] == 0.5
        assert metrics["reward_misplaced"] < 1e-6
    torch.testing.assert_close((returns[0] - returns[1])[0], torch.zeros(4))
    torch.testing.assert_close((returns[0] - returns[1])[1], 0.5 * rollout.mask[1])
    torch.testing.assert_close(returns[0][1].abs(), rollout.mask[1].float(), atol=1e-3, rtol=0)


def test_adaptive_beta_by_hand() -> None:
    """Target 2, KL 2.2: error 0.1; KL 9 or 0: clipped to 0.2 and -0.2; 512 rows of a horizon of 10,240 are 1/20."""
    settings = PPOConfig(kl_target=2.0, kl_horizon=10_240)
    assert next_kl_coef(0.1, 2.2, 512, settings) == pytest.approx(0.1 * 1.005)
    assert next_kl_coef(0.1, 9.0, 512, settings) == pytest.approx(0.1 * 1.01)
    assert next_kl_coef(0.1, 0.0, 512, settings) == pytest.approx(0.1 * 0.99)
    assert next_kl_coef(0.1, 9.0, 512, PPOConfig()) == 0.1


def test_another_policys_probabilities_are_refused() -> None:
    refuse_other_policy(0, 0.0)
    with pytest.raises(RatioError, match=r"PPO iteration 3: .* off 1 by 0.2 .* eval mode"):
        refuse_other_policy(2, 0.2)
    with pytest.raises(RatioError):
        refuse_other_policy(2, float("nan"))
