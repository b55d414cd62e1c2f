"""Sampling: the nucleus by hand, and answers that depend on nothing but prompt and seed."""

import pytest
import torch

from llama2_core.config import SamplingConfig
from llama2_core.errors import DataError
from llama2_core.generate import Request, generate, sample_tokens
from llama2_core.model import Transformer


def test_nucleus_by_hand() -> None:
    """0.5, 0.3, 0.2 at top_p 0.6: the third is dropped, the rest is 0.625 and 0.375."""
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(3, 3)
    uniform = torch.tensor([0.0, 0.62, 0.63])
    assert sample_tokens(logits, torch.ones(3), 0.6, uniform).tolist() == [1, 1, 2]


def test_temperature_zero_is_greedy() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.3]])
    assert sample_tokens(logits, torch.zeros(1), 1.0, torch.tensor([0.99])).tolist() == [1]


def greedy_uncached(model: Transformer, prompt: list[int], count: int, eos: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        token = int(model(torch.tensor([tokens]))[0, -1].argmax())
        if token == eos:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


def test_greedy_equals_the_uncached_model(model: Transformer) -> None:
    prompts = [[1, 5, 9], [1, 7], [1, 20, 30, 40, 50], [1, 8, 8]]
    requests = [Request(prompt, seed, 0.0) for seed, prompt in enumerate(prompts)]
    done = dict(generate(model, requests, SamplingConfig(max_new_tokens=10), eos_id=2, slots=2))
    for index, prompt in enumerate(prompts):
        assert done[index].tokens == greedy_uncached(model, prompt, 10, 2)


def test_slots_do_not_change_what_is_said(model: Transformer) -> None:
    requests = [Request([1, 5 + i % 7], 100 + i, 1.0) for i in range(23)]
    config = SamplingConfig(max_new_tokens=12, top_p=1.0)
    few, many = (dict(generate(model, requests, config, 2, slots)) for slots in (3, 64))
    assert {i: c.tokens for i, c in few.items()} == {i: c.tokens for i, c in many.items()}
    assert len({tuple(c.tokens) for c in few.values()}) > 5


def test_a_prompt_without_room_is_named(model: Transformer) -> None:
    with pytest.raises(DataError, match="prompt 0 has 64 tokens"):
        list(generate(model, [Request([1] * 64, 0, 1.0)], SamplingConfig(), 2))


def test_samples_of_one_prompt_share_its_prefill_and_differ(model: Transformer) -> None:
    requests = [Request([1, 5, 9 + i // 4], i, 1.0) for i in range(8)]
    config = SamplingConfig(max_new_tokens=12, top_p=1.0)
    together = dict(generate(model, requests, config, 2, slots=8))
    for index, request in enumerate(requests):
        alone = dict(generate(model, [request], config, 2))[0]
        assert together[index].tokens == alone.tokens
    assert len({tuple(together[index].tokens) for index in range(4)}) > 1
