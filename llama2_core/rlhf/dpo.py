"""Direct preference optimization: a policy learns from comparisons, without a reward model (arXiv 2305.18290).

Not in Llama 2: an arm to compare with. Shapes: B pairs, T tokens, T - 1 predictions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama2_core.generate import pad_right
from llama2_core.rlhf.pairs import Pair
from llama2_core.rlhf.rollout import chosen_logprobs, spread
from llama2_core.training.loop import Loss


@dataclass(frozen=True)
class AnswerBatch:
    """Chosen rows above rejected rows: tokens int64 [2 B, T], which predictions are of the answer, bool [2 B, T - 1],
    and the log-probability of each answer under the reference, float32 [2 B]."""

    tokens: Tensor
    mask: Tensor
    reference: Tensor


def answer_batch(pairs: Sequence[Pair], reference: Tensor) -> AnswerBatch:
    """Make a batch of pairs and of what the reference says of their answers, float32 [B, 2], chosen first."""
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    tokens = pad_right(rows)
    starts = torch.tensor([pair.prompt_tokens for pair in pairs] * 2).unsqueeze(1)
    ends = torch.tensor([len(row) for row in rows]).unsqueeze(1)
    places = torch.arange(1, tokens.shape[1]).unsqueeze(0)  # prediction j is of the token at place j + 1
    return AnswerBatch(tokens, (places >= starts) & (places < ends), reference.t().flatten())


def answer_logprobs(model: Any, batch: AnswerBatch) -> Tensor:
    """Return the summed log-probability of each row's answer, its EOS included, float32 [2 B].

    Logits are made of the answers' places alone: prompts are most of a comparison.
    """
    logits = model(batch.tokens[:, :-1], places=batch.mask)
    return spread(chosen_logprobs(logits, batch.tokens, batch.mask), batch.mask).sum(1)


def dpo_loss(log_ratios: Tensor, beta: float) -> Tensor:
    """Return -log sigmoid(beta (chosen - rejected)) a pair, [B], of log policy / reference [2 B]. Their eq. 7."""
    chosen, rejected = log_ratios.chunk(2)
    return -F.logsigmoid(beta * (chosen - rejected))


def dpo_objective(beta: float) -> Callable[[nn.Module, Any], Loss]:
    """Return the objective of a policy over an AnswerBatch; counts pairs.

    An answer's implicit reward is beta log policy / reference; accuracy is how often the chosen one's is higher.
    """

    def objective(model: nn.Module, batch: AnswerBatch) -> Loss:
        log_ratios = answer_logprobs(model, batch) - batch.reference
        total = dpo_loss(log_ratios, beta).sum()
        chosen, rejected = (beta * log_ratios.detach()).chunk(2)
        metrics = {
            "accuracy": (chosen > rejected).sum(),
            "reward_margin": (chosen - rejected).sum(),
            "chosen_reward": chosen.sum(),
            "rejected_reward": rejected.sum(),
        }
        return Loss(total, len(chosen), {name: (value, len(chosen)) for name, value in metrics.items()})

    return objective
