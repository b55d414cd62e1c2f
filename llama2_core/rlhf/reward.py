"""Reward models: ranking loss with margin, the safety auxiliary loss, the combined score. Llama 2 section 3.2.2.

Shapes: B pairs, T time.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama2_core.config import GRADES, Grade, RewardConfig
from llama2_core.generate import pad_right
from llama2_core.rlhf.pairs import Pair
from llama2_core.training.loop import Loss

MARGINS: dict[str, dict[Grade, float]] = {
    "none": dict.fromkeys(GRADES, 0.0),
    "small": dict(zip(GRADES, (1.0, 2 / 3, 1 / 3, 0.0), strict=True)),
    "large": dict(zip(GRADES, (3.0, 2.0, 1.0, 0.0), strict=True)),
}
"""m(r) by grade. Llama 2 Table 27."""


@dataclass(frozen=True)
class PairBatch:
    """Chosen rows above rejected rows, int64 [2 B, T]; last token's place [2 B]; margin [B]; safe [2 B] or NaN."""

    tokens: Tensor
    last: Tensor
    margin: Tensor
    safe: Tensor


def pair_batch(pairs: Sequence[Pair], margin: Literal["none", "small", "large"]) -> PairBatch:
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    labels = [pair.chosen_safe for pair in pairs] + [pair.rejected_safe for pair in pairs]
    return PairBatch(
        tokens=pad_right(rows),
        last=torch.tensor([len(row) - 1 for row in rows]),
        margin=torch.tensor([MARGINS[margin][pair.grade] for pair in pairs]),
        safe=torch.tensor([math.nan if label is None else float(label) for label in labels]),
    )


def sequence_scores(model: nn.Module, tokens: Tensor, last: Tensor) -> Tensor:
    """Return the raw score of each row, float32 [rows]: the head's value at the last token."""
    return model(tokens).gather(1, last.unsqueeze(1)).squeeze(1)


def ranking_loss(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
    """Return -log sigmoid(r_chosen - r_rejected - m(r)) a pair, [B]. Llama 2 eq. 2."""
    return -F.logsigmoid(chosen - rejected - margin)


def safety_auxiliary_loss(scores: Tensor, safe: Tensor) -> Tensor:
    """Return the cross-entropy of each raw score against its safe label, 0 where that is unknown (NaN).

    The paper names it, not its form.
    """
    labels = safe.to(scores.dtype)
    losses = F.binary_cross_entropy_with_logits(scores, labels.nan_to_num(), reduction="none")
    return losses.masked_fill(labels.isnan(), 0)


def reward_objective(config: RewardConfig) -> Callable[[nn.Module, Any], Loss]:
    """Return the objective of a reward model over a PairBatch; counts pairs."""

    def objective(model: nn.Module, batch: PairBatch) -> Loss:
        scores = sequence_scores(model, batch.tokens, batch.last)
        chosen, rejected = scores.chunk(2)
        total = ranking_loss(chosen, rejected, batch.margin).sum()
        if config.safety_auxiliary_weight:
            auxiliary = safety_auxiliary_loss(scores, batch.safe).sum() / 2
            total = total + config.safety_auxiliary_weight * auxiliary
        return Loss(total, len(chosen), {"accuracy": ((chosen > rejected).sum(), len(chosen))})

    return objective


@torch.inference_mode()
def score_rows(model: nn.Module, rows: Sequence[Sequence[int]], batch_rows: int = 128) -> list[float]:
    """Return the raw score of every row of tokens, batched by length; equal rows are scored once."""
    device = next(model.parameters()).device
    keys = [tuple(row) for row in rows]
    unique = sorted(set(keys), key=lambda key: (len(key), key))
    scores: dict[tuple[int, ...], float] = {}
    for start in range(0, len(unique), batch_rows):
        chunk = unique[start : start + batch_rows]
        last = torch.tensor([len(row) - 1 for row in chunk])
        found = sequence_scores(model, pad_right(chunk).to(device), last.to(device))
        scores |= zip(chunk, found.tolist(), strict=True)
    return [scores[key] for key in keys]


def combined_score(helpfulness: Tensor, safety: Tensor, is_safety: Tensor, threshold: float) -> Tensor:
    """Return R_c in (0, 1) from raw scores [B]: the safety model rules safety prompts and unsafe answers.

    R_c = R_s if the prompt is tagged safety or R_s < threshold, else R_h, after the sigmoid. Llama 2 section 3.2.3.
    """
    helpful, safe = helpfulness.sigmoid(), safety.sigmoid()
    return torch.where(is_safety | (safe < threshold), safe, helpful)


def whitened_logit(score: Tensor, eps: float) -> Tensor:
    """Return whiten(logit(R_c)) over the batch [B]: zero mean, unit deviation. Llama 2 section 3.2.3.

    Scores are clipped to [eps, 1 - eps] first.
    """
    logits = torch.logit(score, eps=eps)
    return (logits - logits.mean()) / (logits.std(unbiased=False) + 1e-8)
