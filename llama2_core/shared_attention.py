"""Attention of rows to a beginning that they share: its keys and values are read once for all rows.

Shapes: B rows, T queries, P tokens of the stem, S own slots, H query heads, K kv heads, G = H / K, E head width.
"""

import torch
from torch import Tensor


def attend_behind(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, stem_keys: Tensor, stem_values: Tensor
) -> Tensor:
    """Return the values [B, T, H, E] that queries [B, T, H, E] see in a stem [1, P, K, E] and in their own row.

    Own keys and values are [B, S, K, E], of which `visible`, bool [B, 1, T, S], says what is seen; all of it when None.
    The two parts are weighed by the logarithms of their sums of exponentials, as if the softmax were one.
    """
    rows, length, heads, width = q.shape
    kv_heads = k.shape[2]
    q = q.view(rows, length, kv_heads, heads // kv_heads, width) * width**-0.5
    of_stem = q.permute(2, 0, 1, 3, 4).reshape(kv_heads, -1, width)  # [K, B T G, E]: all rows at once
    stem_scores = (of_stem @ stem_keys[0].permute(1, 2, 0)).float()
    stem_sums = stem_scores.logsumexp(-1, keepdim=True)
    stem_seen = (stem_scores - stem_sums).exp().type_as(v) @ stem_values[0].transpose(0, 1)
    stem_seen = stem_seen.view(kv_heads, rows, length, -1, width).permute(1, 0, 3, 2, 4)  # [B, K, G, T, E]
    stem_sums = stem_sums.view(kv_heads, rows, length, -1, 1).permute(1, 0, 3, 2, 4)
    own = q.permute(0, 2, 3, 1, 4)  # [B, K, G, T, E]
    scores = (own.flatten(2, 3) @ k.permute(0, 2, 3, 1)).float().unflatten(2, own.shape[2:4])
    if visible is not None:
        scores = scores.masked_fill(~visible.unsqueeze(1), -torch.inf)
    sums = scores.logsumexp(-1, keepdim=True)
    seen = (scores - sums).exp().type_as(v).flatten(2, 3) @ v.transpose(1, 2)
    share = (stem_sums - sums).sigmoid().type_as(v)
    merged = stem_seen * share + seen.unflatten(2, own.shape[2:4]) * (1 - share)
    return merged.permute(0, 3, 1, 2, 4).reshape(rows, length, heads, width)
