"""What tells a healthy PPO run from a broken one, as numbers.

Shapes: B rows, T tokens, T - 1 predictions, V vocabulary. `log_ratio` is log policy - log reference of sampled tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

RARE = 25.0
"""Added to the variance of all surprises: one rare token of a policy that is sure of all others is no alarm."""


def exact_kl(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Return KL(policy || reference) of whole distributions [..., V]: the sum over the vocabulary, [...]."""
    return (logprobs.exp() * (logprobs - reference)).sum(-1)


def k1(log_ratio: Tensor) -> Tensor:
    """Return the plain estimate of KL from sampled tokens: unbiased, often negative (Schulman 2020)."""
    return log_ratio


def k3(log_ratio: Tensor) -> Tensor:
    """Return (r - 1) - log r with r = reference / policy: unbiased too, never negative (Schulman 2020)."""
    return torch.expm1(-log_ratio) + log_ratio


def entropy(logprobs: Tensor) -> Tensor:
    """Return the entropy of distributions [..., V] in nats, [...]."""
    return -(logprobs.exp() * logprobs).sum(-1)


def surprise_variance(logprobs: Tensor) -> Tensor:
    """Return the variance of -log p(x) for x drawn from distributions [..., V], [...]."""
    return (logprobs.exp() * logprobs**2).sum(-1) - entropy(logprobs) ** 2


def surprise(logprobs: Tensor, entropies: Tensor, variances: Tensor) -> float:
    """Return by how many deviations sampled tokens surprise their model more than its entropy says they would.

    Given what came before, -log p(x) of a token drawn from p has p's entropy as its mean: the differences of a right
    sampler add up to nothing, whatever the lengths. A sampler with top-p below 1 leaves this far below 0.
    """
    excess = (-logprobs - entropies).double().sum()
    return (excess / (variances.double().sum() + RARE).sqrt()).item()


def clipped(log_ratio: Tensor, clip_range: float) -> Tensor:
    """Return which predictions' ratio of new to old probability has left the clipping range."""
    return (log_ratio.exp() - 1).abs() > clip_range


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """Return 1 - Var(returns - values) / Var(returns): 1 is a perfect value model, 0 as good as a constant."""
    variance = returns.var(correction=0).item()
    return 1 - (returns - values).var(correction=0).item() / variance if variance else 0.0


def disagreement(one: Tensor, other: Tensor) -> float:
    """Return the share of pairs of rows [B] that two judges order differently; a tie of either counts half."""
    i, j = torch.triu_indices(len(one), len(one), offset=1, device=one.device)
    agreed = torch.sign(one[i] - one[j]) * torch.sign(other[i] - other[j])
    return (0.5 - 0.5 * agreed.mean()).item() if len(one) > 1 else 0.0


def misplaced_score(rewards: Tensor, penalty: Tensor, scores: Tensor, last: Tensor) -> float:
    """Return the share of the scores [B] that is not at the prediction of its row's last token, `last` [B].

    `rewards` and the KL `penalty` within them are [B, T - 1].
    """
    astray = rewards + penalty
    astray[torch.arange(len(scores), device=scores.device), last - 1] -= scores
    return (astray.abs().sum() / scores.abs().sum().clamp(min=1e-12)).item()


def stray_gradient(total: Tensor, outputs: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much of a loss's gradient by predictions [B, T - 1] lies outside the mask, and how much there is."""
    gradients = torch.autograd.grad(total, outputs, retain_graph=True)
    sizes = torch.stack([gradient.abs() for gradient in gradients])
    return (sizes * ~mask).sum(), sizes.sum().clamp(min=1e-12)
