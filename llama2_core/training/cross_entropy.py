"""Cross-entropy through the output layer, without the logits of all positions: loss and gradients are made together,
a chunk of positions at a time, as in Liger Kernel (arXiv 2410.10989).

Shapes: N positions, C of a chunk, D dim, V vocabulary, or the slice of it that this process has.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from llama2_core.footprint import CHUNK_BYTES, PIECE
from llama2_core.linear import product

IGNORED = -100
"""The target of a position that is not counted."""


def fused_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    label_smoothing: float = 0.0,
    group: dist.ProcessGroup | None = None,
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return the summed loss in nats of states [N, D], and each position's [N] without gradient, both float32.

    `weight` is the output layer's [V, D], `targets` int64 [N]. Of a vocabulary that is cut over the processes of a
    group, `weight` is this one's slice, which begins with token `first`.
    """
    slopes = torch.is_grad_enabled()
    wanted = slopes and hidden.requires_grad, slopes and weight.requires_grad
    return _FusedCrossEntropy.apply(hidden, weight, targets, label_smoothing, group, first, wanted)  # type: ignore


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        smoothing: float,
        group: dist.ProcessGroup | None,
        first: int,
        wanted: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor]:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        matrix = weight.to(dtype)
        losses = hidden.new_zeros(len(hidden), dtype=torch.float32)
        of_hidden = torch.zeros_like(hidden) if wanted[0] else None
        of_weight = torch.empty_like(weight, dtype=torch.float32) if wanted[1] else None
        counted = (targets != IGNORED).nonzero().squeeze(1)
        for number, chunk in enumerate(counted.split(max(1, CHUNK_BYTES[kind] // (4 * len(weight))))):
            answers = targets[chunk] - first
            losses[chunk], slopes = _pass(
                hidden[chunk].to(dtype), matrix, answers, smoothing, group, of_weight, number == 0
            )
            if of_hidden is not None:
                of_hidden[chunk] = product(slopes, matrix.T).to(hidden.dtype)
            del slopes  # before the next chunk's are made
        if of_hidden is not None and group:
            dist.all_reduce(of_hidden, group=group)
        ctx.gradients = of_hidden, of_weight if of_weight is None else of_weight.to(weight.dtype)
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("The gradients of fused_cross_entropy are scaled in place: go backward once")
        gradients, ctx.gradients = ctx.gradients, None
        if upstream[0].is_cuda or upstream[0] != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(upstream[0])
        return *gradients, None, None, None, None, None


def _pass(
    states: Tensor,
    matrix: Tensor,
    targets: Tensor,
    smoothing: float,
    group: dist.ProcessGroup | None,
    of_weight: Tensor | None,
    first: bool,
) -> tuple[Tensor, Tensor]:
    """Return a chunk's losses [C] and slopes [C, V], and begin the weight's gradient or add to it."""
    logits = product(states, matrix).float()
    losses = _losses(logits, targets, smoothing, group)
    slopes = logits.to(states.dtype)
    if of_weight is not None and of_weight.dtype == slopes.dtype:  # MKL takes slopes as they lie
        of_weight.addmm_(slopes.T, states, beta=0.0 if first else 1.0)
    elif of_weight is not None:
        for part, piece in zip(of_weight.split(PIECE), slopes.split(PIECE, 1), strict=True):
            slope = product(piece.T, states.T)
            part.copy_(slope) if first else part.add_(slope)
    return losses, slopes


def _losses(logits: Tensor, targets: Tensor, smoothing: float, group: dist.ProcessGroup | None) -> Tensor:
    """Return the losses [C] of float32 logits [C, V], and overwrite these with the slopes of their sum."""
    vocabulary, own = logits.shape[1], (targets >= 0) & (targets < logits.shape[1])
    places = targets.clamp(0, vocabulary - 1).unsqueeze(1)
    answers = logits.gather(1, places).squeeze(1) * own
    means = logits.mean(1) if smoothing else torch.zeros_like(answers)
    largest = logits.amax(1)
    shares = torch.softmax(logits, 1, out=logits)
    scales = largest - shares.amax(1).log()  # log-sum-exp: a logit less the log of its share
    if group:
        local = scales
        scales = _log_sum_exp(local, group)
        shares.mul_((local - scales).exp_().unsqueeze(1))
        vocabulary *= dist.get_world_size(group)
        both = torch.stack([answers, means / dist.get_world_size(group)])
        dist.all_reduce(both, group=group)
        answers, means = both
    if smoothing:
        shares.sub_(smoothing / vocabulary)
    shares.scatter_add_(1, places, (own * (smoothing - 1.0)).unsqueeze(1))
    return scales - (1.0 - smoothing) * answers - smoothing * means


def _log_sum_exp(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return the logarithm of the sum over a group of the exponentials of each process's values."""
    largest = values.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    total = (values - largest).exp_()
    dist.all_reduce(total, group=group)
    return largest + total.log_()
