"""Rollouts: what the policy said, with every mask built once. Shapes: B rows, T tokens, T - 1 predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llama2_core.config import SamplingConfig
from llama2_core.generate import Request, generate, pad_right
from llama2_core.model import Transformer


@dataclass(frozen=True)
class Rollout:
    """Prompts and sampled responses, right-padded.

    tokens int64 [B, T]; mask bool [B, T - 1] marks the predictions that made the response (its EOS included);
    last int64 [B] is the response's last place in `tokens`; ended bool [B] tells whether EOS came in time.
    """

    tokens: Tensor
    mask: Tensor
    last: Tensor
    ended: Tensor

    def rows(self, index: Tensor) -> "Rollout":
        """Return some rows, cut behind the last token of the longest."""
        last = self.last[index]
        width = int(last.max()) + 1
        return Rollout(self.tokens[index, :width], self.mask[index, : width - 1], last, self.ended[index])

    def by_length(self, index: Tensor, rows: int) -> tuple[Tensor, ...]:
        """Split an index into parts of at most `rows` rows of like length."""
        return index[self.last[index].argsort(stable=True)].split(rows)


def assemble(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], ended: Sequence[bool], eos_id: int
) -> Rollout:
    """Join prompts and responses; a response that ended gets its EOS."""
    answers = [[*response, *[eos_id] * end] for response, end in zip(responses, ended, strict=True)]
    tokens = pad_right([[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)], eos_id)
    starts = torch.tensor([len(prompt) for prompt in prompts]).unsqueeze(1)
    ends = starts + torch.tensor([len(answer) for answer in answers]).unsqueeze(1)
    places = torch.arange(1, tokens.shape[1]).unsqueeze(0)  # prediction j is of the token at place j + 1
    mask = (places >= starts) & (places < ends)
    return Rollout(tokens, mask, (ends - 1).squeeze(1), torch.tensor(list(ended)))


def roll_out(
    policy: Transformer,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    config: SamplingConfig,
    eos_id: int,
    slots: int,
) -> Rollout:
    """Sample one response a prompt from the policy."""
    requests = [Request(prompt, seed, config) for prompt, seed in zip(prompts, seeds, strict=True)]
    completions = dict(generate(policy, requests, eos_id, slots))
    ordered = [completions[index] for index in range(len(prompts))]
    return assemble(prompts, [c.tokens for c in ordered], [c.ended for c in ordered], eos_id)


def token_logprobs(model: torch.nn.Module, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log p(token t + 1 | tokens to t) under the tempered model, float32 [B, T - 1]."""
    logits = model(tokens[:, :-1]) / temperature
    return -F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
