"""Causal attention in bfloat16 on a CPU, whose fused kernel is slower than the products it is made of.

Shapes: B rows, H heads, T time, E head width; a block is `BLOCK` queries and the keys up to its last.
"""

from typing import Any

import torch
from torch import Tensor

BLOCK = 128
LONGEST = 1024
"""From about here on the fused kernel is as fast, and it rounds scores less."""


def is_for(q: Tensor, k: Tensor) -> bool:
    """Return whether causal attention of these [B, T, H, E] is made here."""
    here = q.is_cpu and q.dtype == torch.bfloat16 and q.requires_grad
    return here and q.shape == k.shape and BLOCK <= q.shape[1] <= LONGEST


class BlockedAttention(torch.autograd.Function):
    """Values [B, H, T, E] that queries see by keys and values of the same shape; scores are rounded to bfloat16."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scaled, k, v = (q * q.shape[-1] ** -0.5).contiguous(), k.contiguous(), v.contiguous()
        ctx.save_for_backward(scaled, k, v)
        return torch.cat([_shares(scaled, k, block) @ v[:, :, : block.stop] for block in _blocks(q)], 2)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        gradient = upstream[0].contiguous()
        of_q = torch.empty_like(q)
        of_k, of_v = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
        for block in _blocks(q):
            seen, above = slice(block.stop), gradient[:, :, block]
            shares = _shares(q, k, block)
            of_v[:, :, seen] += shares.mT @ above
            of_shares = above @ v[:, :, seen].mT
            of_scores = torch.ops.aten._softmax_backward_data(of_shares, shares, -1, shares.dtype)
            of_q[:, :, block] = of_scores @ k[:, :, seen]
            of_k[:, :, seen] += of_scores.mT @ q[:, :, block]
        return of_q * q.shape[-1] ** -0.5, of_k.type_as(k), of_v.type_as(v)


def _blocks(q: Tensor) -> list[slice]:
    length = q.shape[2]
    return [slice(first, min(first + BLOCK, length)) for first in range(0, length, BLOCK)]


def _shares(q: Tensor, k: Tensor, block: slice) -> Tensor:
    """Return the weights [B, H, block, keys] with which scaled queries of a block see the keys up to its end."""
    scores = q[:, :, block] @ k[:, :, : block.stop].mT
    corner = scores[..., block.start :]
    corner.masked_fill_(torch.ones(corner.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return torch.softmax(scores, -1, out=scores)  # out: autocast would widen it
