"""What is minimised. Each takes a model and a batch and returns sums. Shapes: B rows, T time, V vocabulary."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from llama2_core.training.loop import Loss


@dataclass(frozen=True)
class TokenBatch:
    """Rows of tokens int64 [B, T + 1], and which of the T predictions count, bool [B, T]."""

    tokens: Tensor
    loss_mask: Tensor


def next_token_objective(model: nn.Module, batch: TokenBatch, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy in nats of the next token where the mask says so: pretraining and SFT.

    Llama 2 sections 2.2 and 3.1: in SFT the mask is zero on prompts.
    """
    logits = model(batch.tokens[:, :-1])
    mask = batch.loss_mask
    targets = batch.tokens[:, 1:].masked_fill(~mask, -100)
    total = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="sum", label_smoothing=label_smoothing
    )
    return Loss(total=total, count=int(mask.sum()))
