"""PPO on a planted reward: it is learned within the bound on KL, and every broken setup is told from a sound one."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llama2_core.config import ModelConfig, OptimizerConfig, PPOConfig, SamplingConfig
from llama2_core.model import ScalarModel, Transformer, initialise
from llama2_core.presets import TINY_0_9M
from llama2_core.rlhf import experience, ppo
from llama2_core.rlhf.actors import ActorCritic, Judges
from llama2_core.rlhf.diagnosis import Bounds, diagnose, summarise
from llama2_core.rlhf.ppo import PPOReport
from llama2_core.rlhf.rollout import Rollout, roll_out
from llama2_core.training.loop import TrainState
from llama2_core.training.optim import adamw

PROMPT = [1, 5, 6]
NONE_IN = 1e-3


class EveryEighth(torch.nn.Module):
    """A planted reward model: of a row's response, the share of tokens whose number is a multiple of eight."""

    def forward(self, tokens: Tensor) -> Tensor:
        response = torch.arange(tokens.shape[1]) >= len(PROMPT)
        found = ((tokens % 8 == 0) & response).float().cumsum(1) / response.cumsum(0).clamp(min=1)
        return torch.logit(found, eps=NONE_IN)


def new_policy(config: ModelConfig, seed: int, spread: float = 1.0) -> Transformer:
    """Return a new model with its weights spread so much: the wider, the surer it is."""
    policy = Transformer(config)
    initialise(policy, config, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(spread if parameter.dim() > 1 else 1)
    return policy


def run(
    policy: Transformer,
    seed: int,
    settings: PPOConfig,
    rate: float,
    new_tokens: int,
    eos: int = 2,
    judge: torch.nn.Module | None = None,
    top_p: float = 1.0,
    sampled_at: float = 1.0,
    spoil: Callable[[Rollout], Rollout] = lambda rollout: rollout,
) -> list[PPOReport]:
    """Run PPO to its end on the planted reward, or another; `spoil` is what goes wrong with a rollout."""
    config, judge = policy.config, judge or EveryEighth()
    reference, value = Transformer(config), ScalarModel(config)
    reference.load_state_dict(policy.state_dict())
    initialise(value, config, torch.Generator().manual_seed(seed + 1))
    torch.nn.init.zeros_(value.score.weight)
    model = ActorCritic(policy, value).eval()
    optimizer = OptimizerConfig(
        peak_learning_rate=rate, schedule="constant", warmup_steps=0, weight_decay=0.0
    )
    state = TrainState(model, adamw(model, optimizer))
    rows = settings.batch_rows
    sampling = SamplingConfig(temperature=sampled_at, top_p=top_p, max_new_tokens=new_tokens)

    def sample(current: Transformer, iteration: int) -> tuple[Rollout, Tensor]:
        seeds = [1_000_000 * seed + rows * iteration + row for row in range(rows)]
        rollout = roll_out(current, [PROMPT] * rows, seeds, sampling, eos, rows)
        return spoil(rollout), torch.zeros(rows, dtype=torch.bool)

    judges = Judges(reference, judge, judge)
    return list(ppo.ppo(state, judges, sample, settings, optimizer, settings.kl_coef))


LEARNING = PPOConfig(iterations=14, batch_rows=128, mini_batch_rows=16, kl_coef=0.02)
ONE = PPOConfig(iterations=1, batch_rows=48, mini_batch_rows=24)
NEAR = Bounds(kl=15.0)


def history(reports: list[PPOReport]) -> list[dict[str, float]]:
    return [{"step": report.iteration, **report.metrics} for report in reports]


def one_iteration(config: ModelConfig, **options) -> list[dict[str, float]]:
    """Run an iteration of a policy that is sure of some tokens, against a real reward model; many responses end."""
    policy, judge = new_policy(config, 3, spread=5.0), ScalarModel(config)
    initialise(judge, config, torch.Generator().manual_seed(4))
    torch.nn.init.normal_(judge.score.weight, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        eos = int(policy(torch.tensor([PROMPT]))[0, -1].argmax())
    return history(run(policy, 3, ONE, 1e-4, new_tokens=16, eos=eos, judge=judge, **options))


def learns(seed: int) -> None:
    rows = history(run(new_policy(TINY_0_9M, seed), seed, LEARNING, rate=1.5e-3, new_tokens=4))
    assert rows[0]["reward"] < 0.2 and rows[-1]["reward"] > 0.8
    assert not [finding for finding in summarise(rows, NEAR) if finding.stops]
    for row in rows:
        assert row["first_ratio_error"] == row["first_update_kl"] == row["stray_gradient"] == 0
        assert abs(row["kl"] - row["kl_exact"]) < 5 * row["kl_error"] + 1e-6
    assert NEAR.kl / 4 < rows[-1]["kl"] < NEAR.kl
    assert rows[0]["kl"] == rows[0]["kl_exact"] == 0


def test_a_planted_reward_is_learned_near_the_reference() -> None:
    learns(0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_it_is_learned_from_any_seed(seed: int) -> None:
    learns(seed)


def value_loss_on_prompts(logprobs: Tensor, values: Tensor, batch: ppo.Experience, config: PPOConfig):
    policy = ppo.clipped_policy_loss(logprobs, batch.logprobs, batch.advantages, config.clip_range)
    value = ppo.clipped_value_loss(values, batch.values, batch.returns, config.clip_range)
    return (policy * batch.rollout.mask).sum() + config.value_coef * value.sum(), policy, value


def reward_one_early(score: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    rewards = -kl_coef * kl * mask
    rewards[torch.arange(len(score)), mask.long().cumsum(1).argmax(1) - 1] += score
    return rewards


def read_at_the_end_of_the_batch(model: torch.nn.Module, tokens: Tensor, last: Tensor) -> Tensor:
    return model(tokens)[:, -1]


def shifted(by: int) -> Callable[[Rollout], Rollout]:
    return lambda rollout: replace(rollout, mask=rollout.mask.roll(by, 1))


@pytest.mark.parametrize(
    ("break_it", "options", "found"),
    [
        (None, {}, set()),
        (None, {"top_p": 0.8}, {"surprise"}),
        (None, {"spoil": shifted(1)}, {"sampler_gap"}),
        (None, {"spoil": shifted(-1)}, {"sampler_gap"}),
        ((ppo, "mini_batch_loss", value_loss_on_prompts), {}, {"stray_gradient"}),
        ((experience, "token_rewards", reward_one_early), {}, {"reward_misplaced"}),
        ((experience, "sequence_scores", read_at_the_end_of_the_batch), {}, {"reward_reread"}),
    ],
    ids=["sound", "top-p", "mask late", "mask early", "value loss", "reward early", "reward in padding"],
)
def test_broken_setups_are_found_in_the_first_iteration(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch, break_it, options: dict, found: set[str]
) -> None:
    """Each is a mistake that is often made; what stops the run names it, and a sound run is not stopped."""
    if break_it:
        monkeypatch.setattr(*break_it)
    rows = one_iteration(config, **options)
    stopping = {finding.name for finding in diagnose(rows, Bounds()) if finding.stops}
    assert found <= stopping if found == {"sampler_gap"} else stopping == found


def test_another_temperature_in_sampling_is_found(config: ModelConfig) -> None:
    rows = one_iteration(config, sampled_at=0.5)
    assert "surprise" in {finding.name for finding in diagnose(rows, Bounds()) if finding.stops}
