"""What a model attends to: the largest attention of the network between tokens, as in Llama 2 Figure 10.

Shapes: B batch, T time, D dim, H query heads, E head width.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from llama2_core.model import Attention, Block, Transformer
from llama2_core.positions import rotate


@torch.inference_mode()
def strongest_attention(model: Transformer, tokens: Sequence[int]) -> Tensor:
    """Return, float32 [T, T], the most that any head of any layer gives from each place (row) to each up to it."""
    x, rotary = model.embed(torch.tensor([tokens], device=model.tok_embeddings.weight.device))
    strongest = torch.zeros(len(tokens), len(tokens), device=x.device)
    for block in cast(list[Block], model.layers):
        weights = attention_weights(block.attention, block.attention_norm(x), rotary)
        strongest = torch.maximum(strongest, weights[0].amax(0))
        x = block(x, rotary, None, 0)
    return strongest


def attention_weights(attention: Attention, x: Tensor, rotary: Tensor | None) -> Tensor:
    """Return each head's causal attention, float32 [B, H, T, T], over normed states [B, T, D]."""
    rows, length, _ = x.shape
    q, k = (project(x).view(rows, length, -1, attention.head_dim) for project in (attention.wq, attention.wk))
    if rotary is not None:
        q, k = rotate(q, rotary), rotate(k, rotary)
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    scores = torch.einsum("bqhe,bkhe->bhqk", q, k).float() / math.sqrt(attention.head_dim)
    later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1)


def binned(attention: Tensor, size: int) -> Tensor:
    """Return the maximum over squares of `size` neighbouring tokens, [T, T] to [ceil(T / size), the same]."""
    return F.max_pool2d(attention[None], size, ceil_mode=True)[0]
