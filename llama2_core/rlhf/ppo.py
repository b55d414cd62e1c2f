"""Proximal policy optimization of the chat model against two reward models. Llama 2 section 3.2.3.

The objective is E[R], R(g | p) = R~c(g | p) - beta KL(policy || reference). What the paper leaves open is chosen
here: a value model of its own, generalised advantage estimation, whitened advantages, the KL penalty a token.
Shapes: B rows, T tokens; the T - 1 predictions of a row carry logprobs, values, rewards and the mask.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llama2_core.config import OptimizerConfig, PPOConfig
from llama2_core.model import ScalarModel, Transformer
from llama2_core.rlhf.reward import combined_score, sequence_scores, whitened_logit
from llama2_core.rlhf.rollout import Rollout, token_logprobs
from llama2_core.training.loop import Loss, TrainState, optimizer_step


class ActorCritic(nn.Module):
    """The policy that is trained and the value model that is trained beside it."""

    def __init__(self, policy: Transformer, value_model: ScalarModel) -> None:
        super().__init__()
        self.policy = policy
        self.value_model = value_model

    def forward(self, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return logprobs and values of the predictions, both float32 [B, T - 1]."""
        return token_logprobs(self.policy, tokens, temperature), self.value_model(tokens[:, :-1])


@dataclass(frozen=True)
class Judges:
    """The frozen models: the reference policy and the two reward models."""

    reference: Transformer
    helpfulness: nn.Module
    safety: nn.Module


@dataclass(frozen=True)
class Experience:
    """A rollout with everything that the updates need; all [B, T - 1]."""

    rollout: Rollout
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def rows(self, index: Tensor) -> "Experience":
        rollout = self.rollout.rows(index)
        parts = (self.logprobs, self.values, self.advantages, self.returns)
        return Experience(rollout, *(part[index, : rollout.mask.shape[1]] for part in parts))


@dataclass(frozen=True)
class PPOReport:
    """One iteration: what the reward models saw, how far the policy has moved, how the update went."""

    iteration: int
    metrics: dict[str, float]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale masked values to zero mean and unit deviation."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * torch.rsqrt(variance + 1e-8)


def token_rewards(score: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Return the reward of each prediction [B, T - 1]: -beta KL everywhere, the score [B] at the last one."""
    rewards = -kl_coef * kl * mask
    last = mask.long().cumsum(1).argmax(1)
    rewards[torch.arange(len(score)), last] += score
    return rewards


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns [B, T - 1], zero outside the mask (Schulman et al. 2016).

    delta_t = r_t + gamma V_{t+1} - V_t; A_t = delta_t + gamma lambda A_{t+1}; nothing follows the last token.
    """
    mask = mask.to(values.dtype)
    values = values * mask
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(following)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * gae_lambda * following) * mask[:, t]
        advantages[:, t] = following
        next_value = values[:, t]
    return advantages, advantages + values


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float
) -> Tensor:
    """Return -min(ratio A, clip(ratio) A) for each prediction (Schulman et al. 2017, eq. 7)."""
    ratio = (logprobs - old_logprobs).exp()
    return -torch.min(ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float) -> Tensor:
    """Return the larger of the squared errors of the value and of the value clipped around the old one, halved."""
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * torch.max((values - returns) ** 2, (clipped - returns) ** 2)


def ppo_objective(config: PPOConfig) -> Callable[[nn.Module, Experience], Loss]:
    """Return the objective of one mini-batch; counts response tokens."""

    def objective(model: nn.Module, batch: Experience) -> Loss:
        mask = batch.rollout.mask
        logprobs, values = model(batch.rollout.tokens, config.temperature)
        policy = clipped_policy_loss(logprobs, batch.logprobs, batch.advantages, config.clip_range)
        value = clipped_value_loss(values, batch.values, batch.returns, config.clip_range)
        total = ((policy + config.value_coef * value) * mask).sum()
        with torch.no_grad():
            log_ratio = logprobs - batch.logprobs
            clipped = ((log_ratio.exp() - 1).abs() > config.clip_range) * mask
            count = int(mask.sum())
            metrics = {
                "policy_loss": ((policy * mask).sum(), count),
                "value_loss": ((value * mask).sum(), count),
                "clip_fraction": (clipped.sum(), count),
                "update_kl": ((((log_ratio.exp() - 1) - log_ratio) * mask).sum(), count),
            }
        return Loss(total, count, metrics)

    return objective


@dataclass(frozen=True)
class Opinions:
    """What every model says of a rollout: [B, T - 1] each, zero behind a row's end, and raw scores [B]."""

    logprobs: Tensor
    reference: Tensor
    values: Tensor
    helpfulness: Tensor
    safety: Tensor


@torch.no_grad()
def consult(
    model: ActorCritic, judges: Judges, rollout: Rollout, temperature: float, micro_rows: int
) -> Opinions:
    """Run the five models over a rollout, rows of like length together."""
    logprobs, reference, values = (torch.zeros(rollout.mask.shape) for _ in range(3))
    helpfulness, safety = torch.zeros(len(rollout.last)), torch.zeros(len(rollout.last))
    for index in rollout.by_length(torch.arange(len(rollout.last)), micro_rows):
        part = rollout.rows(index)
        width = part.mask.shape[1]
        logprobs[index, :width], values[index, :width] = model(part.tokens, temperature)
        reference[index, :width] = token_logprobs(judges.reference, part.tokens, temperature)
        helpfulness[index] = sequence_scores(judges.helpfulness, part.tokens, part.last)
        safety[index] = sequence_scores(judges.safety, part.tokens, part.last)
    return Opinions(logprobs, reference, values, helpfulness, safety)


@torch.no_grad()
def judge(
    model: ActorCritic,
    judges: Judges,
    rollout: Rollout,
    is_safety: Tensor,
    config: PPOConfig,
) -> tuple[Experience, dict[str, float]]:
    """Score a rollout and turn it into experience; the metrics are means over its rows."""
    mask = rollout.mask
    said = consult(model, judges, rollout, config.temperature, config.micro_rows)
    combined = combined_score(said.helpfulness, said.safety, is_safety, config.safety_threshold)
    kl = said.logprobs - said.reference
    rewards = token_rewards(whitened_logit(combined, config.logit_eps), kl, mask, config.kl_coef)
    advantages, returns = generalised_advantages(rewards, said.values, mask, config.gamma, config.gae_lambda)
    row_kl = (kl * mask).sum(1)
    logits = torch.logit(combined, eps=config.logit_eps)
    metrics = {
        "reward": combined.mean().item(),
        "reward_logit": logits.mean().item(),
        "helpfulness": said.helpfulness.sigmoid().mean().item(),
        "safety": said.safety.sigmoid().mean().item(),
        "kl": row_kl.mean().item(),
        "objective": (logits - config.kl_coef * row_kl).mean().item(),
        "response_tokens": mask.sum(1).float().mean().item(),
        "ended": rollout.ended.float().mean().item(),
        "entropy_estimate": -masked_mean(said.logprobs, mask).item(),
        "explained_variance": 1 - (returns - said.values)[mask].var().item() / returns[mask].var().item(),
    }
    return Experience(rollout, said.logprobs, said.values, whiten(advantages, mask), returns), metrics


def ppo(
    state: TrainState,
    judges: Judges,
    sample: Callable[[Transformer, int], tuple[Rollout, Tensor]],
    config: PPOConfig,
    optimizer: OptimizerConfig,
) -> Iterator[PPOReport]:
    """Improve `state.model`, an ActorCritic, yielding a report an iteration; the caller saves and stops.

    `sample(policy, iteration)` returns a rollout and which of its prompts are safety prompts, bool [B]; it is a
    pure function of both, so that a resumed run repeats nothing and skips nothing. `state.step` counts updates.
    """
    model = state.model
    assert isinstance(model, ActorCritic)
    updates = config.batch_rows // config.mini_batch_rows
    objective = ppo_objective(config)
    while state.step < config.iterations * updates:
        iteration = state.step // updates
        rollout, is_safety = sample(model.policy, iteration)
        experience, metrics = judge(model, judges, rollout, is_safety, config)
        reports = []
        for start in range(0, config.batch_rows, config.mini_batch_rows):
            rows = torch.arange(start, start + config.mini_batch_rows)
            micro_batches = [experience.rows(part) for part in rollout.by_length(rows, config.micro_rows)]
            reports.append(
                optimizer_step(state, objective, micro_batches, optimizer, config.iterations * updates)
            )
        yield PPOReport(iteration + 1, {**metrics, **_means(reports)})


def _means(reports: Sequence) -> dict[str, float]:
    means = {name: sum(r.metrics[name] for r in reports) / len(reports) for name in reports[0].metrics}
    means["gradient_norm"] = sum(r.gradient_norm for r in reports) / len(reports)
    means["first_update_kl"] = reports[0].metrics["update_kl"]
    return means
