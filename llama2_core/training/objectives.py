"""What is minimised. Each takes a model and a batch and returns sums. Shapes: B rows, T time, V vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llama2_core.model import Transformer
from llama2_core.training.cross_entropy import IGNORED, fused_cross_entropy
from llama2_core.training.loop import Loss, Objective

PIECE = 512
"""Positions whose logits exist at once, where the output layer has an adapter."""


@dataclass(frozen=True)
class TokenBatch:
    """Rows of tokens int64 [B, T + 1], and which of the T predictions count, bool [B, T]."""

    tokens: Tensor
    loss_mask: Tensor
    begins: Tensor | None = None
    """Where a document begins, bool [B, T + 1], when documents of a row are to be kept apart."""
    sources: Tensor | None = None
    """Number of each row's source, int64 [B], when losses are to be told apart."""


def token_objective(label_smoothing: float = 0.0, sources: Sequence[str] = ()) -> Objective:
    """Return the objective of pretraining and SFT, with the mean loss of each source beside it."""
    return partial(next_token_objective, label_smoothing=label_smoothing, sources=sources)


def next_token_objective(
    model: nn.Module, batch: TokenBatch, label_smoothing: float = 0.0, sources: Sequence[str] = ()
) -> Loss:
    """Cross-entropy in nats of the next token where the mask says so: pretraining and SFT.

    Llama 2 sections 2.2 and 3.1: in SFT the mask is zero on prompts.
    """
    assert isinstance(model, Transformer)
    begins = None if batch.begins is None else batch.begins[:, :-1]
    hidden = model.hidden(batch.tokens[:, :-1], begins=begins)
    targets = batch.tokens[:, 1:].masked_fill(~batch.loss_mask, IGNORED)
    total, losses = output_loss(model.output, hidden.flatten(0, 1), targets.flatten(), label_smoothing)
    metrics = {}
    if sources and batch.sources is not None:
        losses, counts = losses.view(targets.shape).sum(1), batch.loss_mask.sum(1)
        numbers = batch.sources.unsqueeze(0) == torch.arange(len(sources), device=losses.device).unsqueeze(1)
        for name, own in zip(sources, numbers, strict=True):
            metrics[f"loss/{name}"] = ((losses * own).sum(), (counts * own).sum())
    return Loss(total, int(batch.loss_mask.sum()), metrics)


def output_loss(
    output: nn.Module, hidden: Tensor, targets: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the summed loss of states [N, D] through the output layer, and that of each, without all logits."""
    if not isinstance(output, nn.Linear):  # it has an adapter
        return _in_pieces(output, hidden, targets, label_smoothing)
    weight, group, first = output.weight, None, 0
    if hasattr(weight, "placements"):  # cut by tensor parallelism: each process has some of the vocabulary
        sharded: Any = weight
        weight, mesh = sharded.to_local(), sharded.device_mesh
        group, first = mesh.get_group(), mesh.get_local_rank() * len(weight)
    return fused_cross_entropy(hidden, weight, targets, label_smoothing, group, first)


def _in_pieces(
    output: nn.Module, hidden: Tensor, targets: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Run the layer again on the way back, a piece at a time."""

    def losses_of(states: Tensor, answers: Tensor) -> Tensor:
        logits = output(states).float()
        return F.cross_entropy(logits, answers, reduction="none", label_smoothing=label_smoothing)

    pieces = zip(hidden.split(PIECE), targets.split(PIECE), strict=True)
    losses = torch.cat([checkpoint(losses_of, *piece, use_reentrant=False) for piece in pieces])
    return losses.sum(), losses.detach()
