"""Attention of rows to a beginning that they share: its keys and values are read once for all rows.

Shapes: B rows, P tokens of the stem, S own slots, H query heads, K kv heads, G = H / K, E head width.
"""

import torch
from torch import Tensor


def attend_behind(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, stem_keys: Tensor, stem_values: Tensor
) -> Tensor:
    """Return the values [B, 1, H, E] that one query a row, [B, 1, H, E], sees in a stem [1, P, K, E] and in its row.

    Own keys and values are [B, S, K, E], of which `visible`, bool [B, 1, 1, S], says what is seen; all of it when None.
    """
    rows, _, heads, width = q.shape
    q = (q * width**-0.5).view(rows, k.shape[2], -1, width)  # [B, K, G, E]
    stem_scores = q.transpose(0, 1).flatten(1, 2) @ stem_keys[0].permute(
        1, 2, 0
    )  # [K, B G, P]: one product a head
    scores = q @ k.permute(0, 2, 3, 1)
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    scores = torch.cat([stem_scores, scores.transpose(0, 1).flatten(1, 2)], -1)
    shares = scores.float().softmax(-1).type_as(v)
    of_stem, own = shares.tensor_split([stem_keys.shape[1]], dim=-1)
    seen_of_stem = of_stem @ stem_values[0].transpose(0, 1)
    seen = own.unflatten(1, (rows, -1)).transpose(0, 1) @ v.transpose(1, 2)
    return (seen + seen_of_stem.unflatten(1, (rows, -1)).transpose(0, 1)).reshape(rows, 1, heads, width)
