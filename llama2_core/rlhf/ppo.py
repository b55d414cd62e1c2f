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
from llama2_core.errors import Llama2Error
from llama2_core.model import Transformer
from llama2_core.rlhf import diagnostics
from llama2_core.rlhf.actors import ActorCritic, Judges
from llama2_core.rlhf.experience import Experience, judge
from llama2_core.rlhf.rollout import Rollout, Share, chosen_logprobs, spread
from llama2_core.training.loop import Loss, Report, TrainState, optimizer_step

ROUNDING = 1e-6
"""The first ratio is exactly 1 where kernels repeat their results; this much is no other policy."""


class RatioError(Llama2Error):
    """The old log-probabilities are not those of the policy before its first update."""


@dataclass(frozen=True)
class PPOReport:
    """One iteration: what the reward models saw, how far the policy has moved, how the update went."""

    iteration: int
    metrics: dict[str, float]
    kl_coef: float
    """Beta of the next iteration."""


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


def mini_batch_loss(
    logprobs: Tensor, values: Tensor, batch: Experience, config: PPOConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the summed loss over the response tokens, and its policy and value parts a prediction [B, T - 1]."""
    policy = clipped_policy_loss(logprobs, batch.logprobs, batch.advantages, config.clip_range)
    value = clipped_value_loss(values, batch.values, batch.returns, config.clip_range)
    return ((policy + config.value_coef * value) * batch.rollout.mask).sum(), policy, value


def ppo_objective(config: PPOConfig) -> Callable[[nn.Module, Experience], Loss]:
    """Return the objective of one mini-batch; counts response tokens."""

    def objective(model: nn.Module, batch: Experience) -> Loss:
        tokens, mask, drawn = batch.rollout.tokens, batch.rollout.mask, batch.rollout.drawn
        logits, values = model(tokens, drawn)
        logits = logits / config.temperature
        values = values.clone()  # FSDP's hooks sit on outputs, and stray_gradient asks for theirs
        logprobs = spread(chosen_logprobs(logits, tokens, drawn), drawn)
        total, policy, value = mini_batch_loss(logprobs, values, batch, config)
        stray = diagnostics.stray_gradient(total, (logprobs, values), mask)
        if config.entropy_coef:
            total = (
                total - config.entropy_coef * diagnostics.entropy(logits[mask[drawn]].log_softmax(-1)).sum()
            )
        with torch.no_grad():
            log_ratio = (logprobs - batch.logprobs)[mask]
            count = len(log_ratio)
            metrics = {
                "policy_loss": (policy[mask].sum(), count),
                "value_loss": (value[mask].sum(), count),
                "clip_fraction": (diagnostics.clipped(log_ratio, config.clip_range).sum(), count),
                "update_kl": (diagnostics.k3(-log_ratio).sum(), count),
                "ratio_error": ((log_ratio.exp() - 1).abs().sum(), count),
                "stray_gradient": stray,
            }
        return Loss(total, count, metrics)

    return objective


def ppo(
    state: TrainState,
    judges: Judges,
    sample: Callable[[Transformer, int], tuple[Rollout, Tensor]],
    config: PPOConfig,
    optimizer: OptimizerConfig,
    kl_coef: float,
    share: Share = (0, 1),
) -> Iterator[PPOReport]:
    """Improve `state.model`, an ActorCritic, yielding a report an iteration; the caller saves and stops.

    `sample(policy, iteration)` returns a rollout and which of its prompts are safety prompts, bool [B]; it is a
    pure function of both, so that a resumed run repeats nothing and skips nothing. `state.step` counts updates.
    `kl_coef` is beta to begin with: the config's, or what the last report says where a run is resumed. With several
    processes `sample` returns the whole rollout on each, and each learns from its `share` of a mini-batch. Raises
    RatioError when the first mini-batch of an iteration is not seen as the rollout's policy saw it.
    """
    model = state.model
    assert isinstance(model, ActorCritic)
    updates = config.batch_rows // config.mini_batch_rows
    objective = ppo_objective(config)
    while state.step < config.iterations * updates:
        iteration = state.step // updates
        rollout, is_safety = sample(model.policy, iteration)
        experience, metrics = judge(model, judges, rollout, is_safety, config, kl_coef, share)
        reports: list[Report] = []
        for parts in rollout.mini_batches(config.mini_batch_rows, config.micro_rows, share):
            micro_batches = [experience.rows(part) for part in parts]
            steps = config.iterations * updates
            reports.append(optimizer_step(state, objective, micro_batches, optimizer, steps))
            if len(reports) == 1:
                refuse_other_policy(iteration, reports[0].metrics["ratio_error"])
        metrics["kl_coef"] = kl_coef
        kl_coef = next_kl_coef(kl_coef, metrics["kl"], len(rollout.last), config)
        yield PPOReport(iteration + 1, {**metrics, **_means(reports)}, kl_coef)


def refuse_other_policy(iteration: int, error: float) -> None:
    """Raise RatioError unless the first mini-batch's ratio is 1 before any update; `error` is its mean |ratio - 1|."""
    if not error <= ROUNDING:
        raise RatioError(
            f"PPO iteration {iteration + 1}: new over old probability of the first mini-batch is off 1 by {error:.3g} "
            "on average, though no update lies between. The old log-probabilities are of other weights, tokens, "
            "temperature or mask, or dropout is on: score rollouts with the model that is trained, in eval mode."
        )


def next_kl_coef(kl_coef: float, kl: float, rows: int, config: PPOConfig) -> float:
    """Return beta of the next iteration: beta (1 + clip(KL / target - 1, -0.2, 0.2) rows / horizon), or as it is."""
    if config.kl_target is None:
        return kl_coef
    error = min(0.2, max(-0.2, kl / config.kl_target - 1))
    return kl_coef * (1 + error * rows / config.kl_horizon)


def _means(reports: Sequence[Report]) -> dict[str, float]:
    means = {name: sum(r.metrics[name] for r in reports) / len(reports) for name in reports[0].metrics}
    means["gradient_norm"] = sum(r.gradient_norm for r in reports) / len(reports)
    means["first_update_kl"] = reports[0].metrics["update_kl"]
    means["first_ratio_error"] = reports[0].metrics["ratio_error"]
    means["updates_not_applied"] = float(sum(not r.applied for r in reports))
    return means
