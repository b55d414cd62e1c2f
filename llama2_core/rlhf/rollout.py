"""Rollouts: what the policy said, with every mask built once. Shapes: B rows, T tokens, T - 1 predictions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llama2_core.config import SamplingConfig
from llama2_core.generate import Completion, Request, generate, pad_right
from llama2_core.model import Transformer
from llama2_core.training import distributed

Share = tuple[int, int]
"""Which part of a batch a process learns from, and of how many."""


@dataclass(frozen=True)
class Rollout:
    """Prompts and sampled responses, right-padded.

    tokens int64 [B, T]; mask bool [B, T - 1] marks the predictions that made the response (its EOS included);
    last int64 [B] is the response's last place in `tokens`; ended bool [B] tells whether EOS came in time. A response
    that was cut off is an episode like any other: its last token gets the score, and nothing is expected after it.
    sampled float32 [B, T - 1] holds the sampler's log-probabilities, before temperature, where it drew the token.
    """

    tokens: Tensor
    mask: Tensor
    last: Tensor
    ended: Tensor
    sampled: Tensor

    @property
    def drawn(self) -> Tensor:
        """Which predictions are of the response, by the mask or by the sampler, bool [B, T - 1]."""
        return self.mask | (self.sampled != 0)

    def rows(self, index: Tensor) -> "Rollout":
        """Return some rows, cut behind the last token of the longest."""
        last = self.last[index]
        width = int(last.max()) + 1
        mask, sampled = self.mask[index, : width - 1], self.sampled[index, : width - 1]
        return Rollout(self.tokens[index, :width], mask, last, self.ended[index], sampled)

    def by_length(self, index: Tensor, rows: int) -> tuple[Tensor, ...]:
        """Split an index into parts of at most `rows` rows of like length."""
        return index[self.last[index].argsort(stable=True)].split(rows)

    def mini_batches(
        self, mini_batch_rows: int, micro_rows: int, share: Share = (0, 1)
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield a process' share of the mini-batches in order, each as the rows of its micro-batches.

        All shares are as large, for sharded models are called by all: one that lacks a row has the first again.
        """
        rank, ranks = share
        for rows in torch.arange(len(self.last), device=self.last.device).split(mini_batch_rows):
            own = torch.cat([rows, rows[:1].expand(-len(rows) % ranks)])[rank::ranks]
            yield self.by_length(own, micro_rows)


def assemble(prompts: Sequence[Sequence[int]], completions: Sequence[Completion], eos_id: int) -> Rollout:
    """Join prompts and responses; a response that ended gets its EOS."""
    answers = [[*said.tokens, *[eos_id] * said.ended] for said in completions]
    tokens = pad_right([[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)], eos_id)
    starts = torch.tensor([len(prompt) for prompt in prompts]).unsqueeze(1)
    ends = starts + torch.tensor([len(answer) for answer in answers]).unsqueeze(1)
    places = torch.arange(1, tokens.shape[1]).unsqueeze(0)  # prediction j is of the token at place j + 1
    mask = (places >= starts) & (places < ends)
    sampled = torch.zeros(mask.shape)
    for row, (prompt, said) in enumerate(zip(prompts, completions, strict=True)):
        sampled[row, len(prompt) - 1 : len(prompt) - 1 + len(said.logprobs)] = torch.tensor(said.logprobs)
    return Rollout(tokens, mask, (ends - 1).squeeze(1), torch.tensor([c.ended for c in completions]), sampled)


def roll_out(
    policy: Transformer,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    config: SamplingConfig,
    eos_id: int,
    slots: int,
) -> Rollout:
    """Sample one response a prompt from the policy, each process its share; all know all of them."""
    rank, ranks = distributed.rank(), distributed.world_size()
    requests = [Request(prompt, seed, config) for prompt, seed in zip(prompts, seeds, strict=True)]
    own = distributed.from_all_ranks(dict(generate(policy, requests[rank::ranks], eos_id, slots)))
    completions = [own[index % ranks][index // ranks] for index in range(len(prompts))]
    return assemble(prompts, completions, eos_id)


def token_logprobs(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Return log p(token t + 1 | tokens to t), float32 [B, T - 1]."""
    return -F.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")


def chosen_logprobs(logits: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
    """Return log p [N] of the tokens [B, T] that predictions [B, T - 1] of N places are of, from logits [N, V]."""
    return -F.cross_entropy(logits, tokens[:, 1:][places], reduction="none")


def spread(found: Tensor, places: Tensor) -> Tensor:
    """Return what was found at N places as [B, T - 1], zero elsewhere."""
    return torch.zeros_like(places, dtype=found.dtype).masked_scatter(places, found)
