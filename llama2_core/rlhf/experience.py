"""From a rollout to what PPO learns of: what every model says of it, rewards, advantages, and how healthy they are.

Shapes: B rows, T tokens; the T - 1 predictions of a row carry logprobs, values, rewards and the mask; V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llama2_core.config import PPOConfig
from llama2_core.model import Transformer
from llama2_core.rlhf import diagnostics
from llama2_core.rlhf.actors import ActorCritic, Judges
from llama2_core.rlhf.reward import combined_score, sequence_scores, whitened_logit
from llama2_core.rlhf.rollout import Rollout, Share, chosen_logprobs, spread
from llama2_core.training import distributed

CHUNK = 1024
"""Predictions whose whole distributions are looked at together."""


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


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale masked values to zero mean and unit deviation."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * torch.rsqrt(variance + 1e-8)


def token_rewards(score: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Return the reward of each prediction [B, T - 1]: -beta KL everywhere, the score [B] at the last one.

    Cut off or ended, a response has its score at its last token; what being cut off costs is part of the score.
    """
    rewards = -kl_coef * kl * mask
    last = mask.long().cumsum(1).argmax(1)
    rewards[torch.arange(len(score), device=score.device), last] += score
    return rewards


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns [B, T - 1], zero outside the mask (Schulman et al. 2016).

    delta_t = r_t + gamma V_{t+1} - V_t; A_t = delta_t + gamma lambda A_{t+1}; nothing follows the last token, also
    where the response was cut off: the reward model has scored it as it stands, so no value stands in for its rest.
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


@dataclass(frozen=True)
class Opinions:
    """What every model says of a rollout."""

    tokens: dict[str, Tensor]
    """Of each prediction [B, T - 1], zero outside the response: logprobs and reference (tempered), untempered, and the
    tempered policy's kl (over the whole vocabulary), entropy and surprise_variance; values are everywhere."""
    scores: dict[str, Tensor]
    """Raw, of each row [B]: helpfulness, safety, and independent where there is such a model."""


def consult(
    model: ActorCritic, judges: Judges, rollout: Rollout, config: PPOConfig, share: Share = (0, 1)
) -> Opinions:
    """Run all models over a rollout, in the micro-batches and by the kernels of the updates; processes share it out.

    So the policy's log-probabilities are those that the first update finds again, to the last bit: with gradients a
    product may go another way than without, and in another batch its sums may have another order.
    """
    tokens: dict[str, Tensor] = {}
    scores: dict[str, Tensor] = {}
    times = torch.zeros(len(rollout.last), device=rollout.last.device)
    mini_batches = rollout.mini_batches(config.mini_batch_rows, config.micro_rows, share)
    for index in (index for parts in mini_batches for index in parts):
        times[index] += 1
        part = rollout.rows(index)
        said = _token_opinions(model, judges.reference, part, config.temperature)
        for name, found in said.items():
            whole = tokens.setdefault(name, torch.zeros(rollout.mask.shape, device=found.device))
            whole[index, : part.mask.shape[1]] = found
        for name in ("helpfulness", "safety", "independent"):
            judge = getattr(judges, name)
            if judge is not None:
                found = _score(judge, part.tokens, part.last)
                scores.setdefault(name, torch.zeros(len(rollout.last), device=found.device))[index] = found
    for part in (model.policy, model.value_model, *judges.models()):
        distributed.reshard(part)
    distributed.sum_across_ranks(times)
    for name, said in tokens.items():
        tokens[name] = distributed.sum_across_ranks(said) / times.unsqueeze(1)
    for name, raw in scores.items():
        scores[name] = distributed.sum_across_ranks(raw) / times
    return Opinions(tokens, scores)


@torch.no_grad()
def _score(judge: nn.Module, tokens: Tensor, last: Tensor) -> Tensor:
    return sequence_scores(judge, tokens, last)


def _token_opinions(
    model: ActorCritic, reference: Transformer, part: Rollout, temperature: float
) -> dict[str, Tensor]:
    drawn = part.drawn
    with torch.enable_grad():
        logits, values = (found.detach() for found in model(part.tokens, drawn))
        reference_logits = reference(part.tokens[:, :-1], places=drawn).detach() / temperature
    tempered = logits / temperature
    pairs = zip(tempered.split(CHUNK), reference_logits.split(CHUNK), strict=True)
    facts = [_distribution_facts(*pair) for pair in pairs]
    said = {name: spread(torch.cat([f[name] for f in facts]), drawn) * part.mask for name in facts[0]}
    of = {"untempered": logits, "logprobs": tempered, "reference": reference_logits}
    said |= {name: spread(chosen_logprobs(found, part.tokens, drawn), drawn) for name, found in of.items()}
    return said | {"values": values}


def _distribution_facts(logits: Tensor, reference_logits: Tensor) -> dict[str, Tensor]:
    logprobs, reference = logits.log_softmax(-1), reference_logits.log_softmax(-1)
    return {
        "kl": diagnostics.exact_kl(logprobs, reference),
        "entropy": diagnostics.entropy(logprobs),
        "surprise_variance": diagnostics.surprise_variance(logprobs),
    }


@torch.no_grad()
def judge(
    model: ActorCritic,
    judges: Judges,
    rollout: Rollout,
    is_safety: Tensor,
    config: PPOConfig,
    kl_coef: float,
    share: Share = (0, 1),
) -> tuple[Experience, dict[str, float]]:
    """Score a rollout and turn it into experience; the metrics are means over its rows, on all processes the same."""
    mask, said = rollout.mask, consult(model, judges, rollout, config, share)
    logprobs, values = said.tokens["logprobs"], said.tokens["values"]
    helpfulness, safety = said.scores["helpfulness"], said.scores["safety"]
    combined = combined_score(helpfulness, safety, is_safety, config.safety_threshold)
    kl = diagnostics.k1(logprobs - said.tokens["reference"])
    scores = whitened_logit(combined, config.logit_eps) - config.unended_penalty * ~rollout.ended
    rewards = token_rewards(scores, kl, mask, kl_coef)
    advantages, returns = generalised_advantages(rewards, values, mask, config.gamma, config.gae_lambda)
    row_kl = (kl * mask).sum(1)
    logits = torch.logit(combined, eps=config.logit_eps)
    metrics = {
        "reward": combined.mean().item(),
        "reward_logit": logits.mean().item(),
        "kl": row_kl.mean().item(),
        "objective": (logits - kl_coef * row_kl).mean().item(),
        "explained_variance": diagnostics.explained_variance(values[mask], returns[mask]),
        "reward_misplaced": diagnostics.misplaced_score(rewards, kl_coef * kl * mask, scores, rollout.last),
        "reward_reread": _reread(judges.helpfulness, rollout, helpfulness),
        **_score_metrics(said, combined),
        **_rollout_metrics(rollout, said, row_kl),
    }
    experience = Experience(rollout, logprobs, values, whiten(advantages, mask), returns)
    return experience, distributed.from_rank_zero(metrics)


def _score_metrics(said: Opinions, combined: Tensor) -> dict[str, float]:
    scores = said.scores
    metrics = {name: raw.sigmoid().mean().item() for name, raw in scores.items()}
    metrics["disagreement"] = diagnostics.disagreement(scores["helpfulness"], scores["safety"])
    if "independent" in scores:
        metrics["independent_disagreement"] = diagnostics.disagreement(scores["independent"], combined)
    return metrics


def _rollout_metrics(rollout: Rollout, said: Opinions, row_kl: Tensor) -> dict[str, float]:
    mask, tokens = rollout.mask, said.tokens
    drawn = mask | (rollout.sampled != 0)
    gap = (tokens["untempered"] - rollout.sampled)[drawn].abs()
    log_ratio = tokens["logprobs"] - tokens["reference"]
    sampled = (tokens[name][mask] for name in ("logprobs", "entropy", "surprise_variance"))
    return {
        "kl_error": (row_kl.std(correction=0) / len(row_kl) ** 0.5).item(),
        "kl_exact": tokens["kl"].sum(1).mean().item(),
        "kl_k3": (diagnostics.k3(log_ratio) * mask).sum(1).mean().item(),
        "entropy": masked_mean(tokens["entropy"], mask).item(),
        "sampler_gap": gap.mean().item(),
        "surprise": diagnostics.surprise(*sampled),
        "response_tokens": mask.sum(1).float().mean().item(),
        "unended": (~rollout.ended).float().mean().item(),
    }


def _reread(judge: nn.Module, rollout: Rollout, scores: Tensor) -> float:
    """Return by how much the most padded row's score is another when it is read alone, unpadded."""
    row = int(rollout.last.argmin())
    end = rollout.last[row : row + 1]
    alone = _score(judge, rollout.tokens[row : row + 1, : int(end) + 1], end)
    distributed.reshard(judge)
    return (alone - scores[row]).abs().item()
