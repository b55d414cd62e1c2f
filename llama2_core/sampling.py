"""Drawing tokens from logits: temperature, top-k, top-p, repetition penalty. Shapes: B rows, V vocabulary."""

import torch
from torch import Tensor

CANDIDATES = 2048
"""The nucleus is looked for among so many tokens before all are sorted."""


def sample_tokens(
    logits: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, uniform: Tensor
) -> Tensor:
    """Draw a token [B] from logits [B, V] by inverting the distribution that top-k and top-p leave, at uniform [B].

    Temperature [B] divides the logits; 0 takes the arg-max. top_k int64 [B] keeps the likeliest. The nucleus drops
    tokens before which the cumulated probability already exceeds top_p [B], so the first is always kept.
    """
    hot = temperature > 0
    if not hot.any():
        return logits.argmax(-1)
    size = logits.shape[-1]
    probabilities = (logits / temperature.clamp(min=1e-6).unsqueeze(-1)).softmax(-1)
    # by row: a neighbour's settings must not change the order of the tokens
    narrow = (top_p < 1) | (top_k < size)
    if narrow.all():
        drawn = _from_nucleus(probabilities, top_p, top_k, uniform)
    else:
        cumulated = probabilities.cumsum(-1)
        drawn = _invert(cumulated, cumulated[:, -1:].contiguous(), uniform)
        if narrow.any():
            drawn[narrow] = _from_nucleus(
                probabilities[narrow], top_p[narrow], top_k[narrow], uniform[narrow]
            )
    return drawn if hot.all() else torch.where(hot, drawn, logits.argmax(-1))


def discourage(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Return logits [B, V]; of tokens seen, bool [B, V], positive ones are divided by a penalty [B], others multiplied.

    arXiv 1909.05858 section 4.1, in transformers' form.
    """
    factor = penalty.unsqueeze(-1)
    return torch.where(seen, torch.where(logits > 0, logits / factor, logits * factor), logits)


def _invert(cumulated: Tensor, total: Tensor, uniform: Tensor) -> Tensor:
    """Return the first place of each row [B, V] where the cumulated mass exceeds this share of a total [B, 1]."""
    place = torch.searchsorted(cumulated, uniform.unsqueeze(-1) * total, right=True)
    last = torch.searchsorted(cumulated, total)  # with mass: where a share of 1 falls
    return place.minimum(last).squeeze(-1)


def _from_nucleus(probabilities: Tensor, top_p: Tensor, top_k: Tensor, uniform: Tensor) -> Tensor:
    """Draw from the likeliest CANDIDATES tokens; rows whose nucleus is wider are sorted whole."""
    size = probabilities.shape[-1]
    count = min(CANDIDATES, size)
    likeliest, order = probabilities.topk(count, dim=-1)
    cumulated = likeliest.cumsum(-1)
    drawn = _from_likeliest(likeliest, cumulated, order, top_p, top_k, uniform)
    if count < size:
        wide = (cumulated[:, -1] <= top_p) & (top_k > count)
        if wide.any():
            likeliest, order = probabilities[wide].sort(dim=-1, descending=True)
            settings = top_p[wide], top_k[wide], uniform[wide]
            drawn[wide] = _from_likeliest(likeliest, likeliest.cumsum(-1), order, *settings)
    return drawn


def _from_likeliest(
    likeliest: Tensor, cumulated: Tensor, order: Tensor, top_p: Tensor, top_k: Tensor, uniform: Tensor
) -> Tensor:
    """Draw among the tokens `order` [B, N], likeliest first, that top-k and top-p keep."""
    whole = top_p.masked_fill(top_p >= 1, torch.inf).unsqueeze(-1)  # rounding must not cut the tail
    kept = (cumulated - likeliest <= whole).sum(-1, keepdim=True).minimum(top_k.unsqueeze(-1))
    place = _invert(cumulated, cumulated.gather(-1, kept - 1), uniform)
    return order.gather(-1, place.unsqueeze(-1)).squeeze(-1)
