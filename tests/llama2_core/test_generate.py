"""Sampling: the nucleus by hand, and answers that depend on nothing but prompt, seed and settings."""

import math
import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llama2_core import generate as module
from llama2_core.config import ModelConfig, SamplingConfig
from llama2_core.errors import ConfigError, DataError
from llama2_core.generate import Completion, Request, generate, stream
from llama2_core.interop.huggingface import llama_config, weights_for_transformers
from llama2_core.model import Transformer
from llama2_core.sampling import CANDIDATES, discourage, sample_tokens
from llama2_core.tokenizer import Tokenizer

GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=10)
FREE = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=12)


def draw(
    logits: torch.Tensor,
    uniform: list[float],
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 10**9,
) -> list[int]:
    count = len(logits)
    return sample_tokens(
        logits,
        torch.full((count,), temperature),
        torch.full((count,), top_p),
        torch.full((count,), top_k),
        torch.tensor(uniform),
    ).tolist()


def test_nucleus_by_hand() -> None:
    """0.5, 0.3, 0.2 at top_p 0.6: the third is dropped, the rest is 0.625 and 0.375."""
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(3, 3)
    assert draw(logits, [0.0, 0.62, 0.63], top_p=0.6) == [1, 1, 2]


def test_top_k_by_hand() -> None:
    """The likeliest two of 0.5, 0.3, 0.2 are again 0.625 and 0.375; the likeliest one is certain."""
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(3, 3)
    assert draw(logits, [0.0, 0.62, 0.63], top_k=2) == [1, 1, 2]
    assert draw(logits, [0.0, 0.5, 0.99], top_k=1) == [1, 1, 1]


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 0.6}, {}])
def test_the_largest_share_draws_the_last_token_that_is_kept(settings: dict) -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log()
    expected = {"top_k": 0, "top_p": 1}.get(next(iter(settings), ""), 2)
    assert draw(logits, [1.0], **settings) == [expected]


def test_no_share_is_rounded_to_one(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []

    def watched(*arguments: torch.Tensor) -> torch.Tensor:
        shares.append(arguments[-1].item())
        return sample_tokens(*arguments)

    monkeypatch.setattr(module, "sample_tokens", watched)
    for largest in (1 - 2**-53, 0.25):
        monkeypatch.setattr(random.Random, "random", lambda _, value=largest: value)
        list(generate(model, [Request([1, 5], 0, FREE.model_copy(update={"max_new_tokens": 1}))], 2))
    assert shares == [1 - 2**-24, 0.25]


def test_temperature_zero_is_greedy() -> None:
    assert draw(torch.tensor([[0.1, 0.4, 0.3]]), [0.99], temperature=0.0) == [1]


@pytest.mark.parametrize("scale", [0.01, 3.0])
def test_a_wide_and_a_narrow_nucleus_have_the_frequencies_of_the_definition(scale: float) -> None:
    """Over 4,000 tokens a flat distribution's nucleus is sorted whole, a steep one's found among the candidates."""
    logits = scale * torch.randn(4000, generator=torch.Generator().manual_seed(0))
    probabilities, order = logits.softmax(-1).sort(descending=True)
    kept = probabilities.cumsum(-1) - probabilities <= 0.9
    assert (kept.sum() > CANDIDATES) == (scale < 1)
    allowed = set(order[kept].tolist())
    uniforms = [(i + 0.5) / 5000 for i in range(5000)]
    drawn = torch.tensor(draw(logits.expand(5000, -1), uniforms, top_p=0.9))
    assert set(drawn.tolist()) <= allowed
    expected = torch.zeros(4000).scatter(0, order, probabilities * kept / probabilities[kept].sum())
    torch.testing.assert_close(
        torch.bincount(drawn, minlength=4000) / 5000, expected, atol=2.1 / 5000, rtol=0
    )


def test_rows_of_a_batch_keep_their_own_settings() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(4, 3)
    drawn = sample_tokens(
        logits,
        torch.tensor([0.0, 1.0, 1.0, 1.0]),
        torch.tensor([1.0, 0.4, 1.0, 1.0]),
        torch.tensor([3, 3, 1, 3]),
        torch.full((4,), 0.99),
    )
    assert drawn.tolist() == [1, 1, 1, 2]


def test_a_repetition_penalty_by_hand() -> None:
    logits = torch.tensor([[3.0, -3.0, 3.0, -3.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert discourage(logits, seen, torch.tensor([1.5])).tolist() == [[2.0, -4.5, 3.0, -3.0]]


@pytest.mark.parametrize("penalty", [0.8, 1.3])
def test_a_repetition_penalty_is_transformers(model: Transformer, penalty: float) -> None:
    theirs = LlamaForCausalLM(LlamaConfig(**llama_config(model.config))).eval()
    theirs.load_state_dict(weights_for_transformers(model))
    config = SamplingConfig(temperature=0.0, repetition_penalty=penalty, max_new_tokens=30)
    prompts = [[1, 5, 9], [1, 7, 7, 12, 30]]
    done = dict(generate(model, [Request(prompt, 0, config) for prompt in prompts], eos_id=-1))
    for index, prompt in enumerate(prompts):
        expected = theirs.generate(
            torch.tensor([prompt]),
            max_new_tokens=30,
            do_sample=False,
            repetition_penalty=penalty,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert [*prompt, *done[index].tokens] == expected[0].tolist()
        assert done[index].tokens != greedy_uncached(model, prompt, 30, -1)


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
    requests = [Request(prompt, seed, GREEDY) for seed, prompt in enumerate(prompts)]
    done = dict(generate(model, requests, eos_id=2, slots=2))
    for index, prompt in enumerate(prompts):
        assert done[index].tokens == greedy_uncached(model, prompt, 10, 2)


def mixed_requests(count: int) -> list[Request]:
    """Prompts, lengths and settings all unequal."""
    draws = random.Random(7)
    return [
        Request(
            [1, *(draws.randrange(3, 300) for _ in range(draws.randint(1, 20)))],
            seed,
            SamplingConfig(
                temperature=draws.choice([0.0, 0.7, 1.0, 1.3]),
                top_p=draws.choice([0.5, 0.9, 1.0]),
                top_k=draws.choice([None, 1, 20]),
                repetition_penalty=draws.choice([1.0, 1.3]),
                max_new_tokens=draws.randint(1, 40),
            ),
        )
        for seed in range(count)
    ]


@pytest.mark.parametrize("slots", [3, 64])
def test_alone_or_among_64_a_row_says_the_same(model: Transformer, slots: int) -> None:
    requests = mixed_requests(64)
    together = dict(generate(model, requests, 2, slots))
    for index, request in enumerate(requests):
        ((_, alone),) = generate(model, [request], 2)
        assert together[index].tokens == alone.tokens, index
        assert together[index].logprobs == pytest.approx(alone.logprobs, abs=1e-5)
        assert len(alone.tokens) <= request.config.max_new_tokens
    assert len({tuple(c.tokens) for c in together.values()}) > 40


def test_samples_of_one_prompt_share_its_prefill_and_differ(model: Transformer) -> None:
    requests = [Request([1, 5, 9 + i // 4], i, FREE) for i in range(8)]
    together = dict(generate(model, requests, 2, slots=8))
    for index, request in enumerate(requests):
        assert together[index].tokens == dict(generate(model, [request], 2))[0].tokens
    assert len({tuple(together[index].tokens) for index in range(4)}) > 1


def test_log_probabilities_are_the_models_untempered_ones(model: Transformer) -> None:
    hot = SamplingConfig(temperature=1.7, top_p=0.8, top_k=50, max_new_tokens=12)
    ((_, done),) = generate(model, [Request([1, 5, 9], 3, hot)], eos_id=2)
    tokens = [1, 5, 9, *done.tokens, *[2] * done.ended]
    with torch.no_grad():
        logprobs = model(torch.tensor([tokens]))[0].log_softmax(-1)
    expected = [logprobs[place - 1, tokens[place]].item() for place in range(3, len(tokens))]
    assert done.logprobs == pytest.approx(expected, abs=1e-5)


def test_eos_ends_a_row(model: Transformer) -> None:
    ((_, free),) = generate(model, [Request([1, 5, 9], 0, GREEDY)], eos_id=-1)
    end = free.tokens[4]
    ((_, ended),) = generate(model, [Request([1, 5, 9], 0, GREEDY)], eos_id=end)
    assert ended.tokens == free.tokens[: free.tokens.index(end)]
    assert ended.finish == "eos"
    assert free == Completion(free.tokens, free.logprobs, "length")
    assert len(ended.logprobs) == len(ended.tokens) + 1


def test_a_stop_text_ends_a_row_wherever_tokens_are_cut(model: Transformer, tokenizer: Tokenizer) -> None:
    ((_, free),) = generate(model, [Request([1, 5, 9], 0, FREE)], -1)
    text = tokenizer.decode(free.tokens)
    stop = text[3:6]
    config = FREE.model_copy(update={"stop": (stop, "never said")})
    ((_, done),) = generate(model, [Request([1, 5, 9], 0, config)], -1, decode=tokenizer.decode)
    assert done.finish == "stop"
    assert done.tokens == free.tokens[: len(done.tokens)]
    assert stop in tokenizer.decode(done.tokens)
    assert stop not in tokenizer.decode(done.tokens[:-1])


def test_a_stop_text_is_found_around_control_tokens(tokenizer: Tokenizer) -> None:
    a, b = (tokenizer.encode(letter)[-1] for letter in ("7", "9"))
    drawn = [b, a, *[tokenizer.bos_id] * 5, b]
    row = module._Row(0, Request([1], 0, FREE.model_copy(update={"stop": ("79",)})), 64)
    finishes = [row.take(token, tokenizer.eos_id, tokenizer.decode) for token in drawn]
    assert finishes == [None] * 7 + ["stop"]


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 character"):
        SamplingConfig(stop=("x", ""))


def test_stop_texts_need_a_decoder(model: Transformer) -> None:
    with pytest.raises(ConfigError, match="request 0 has stop texts"):
        list(generate(model, [Request([1], 0, SamplingConfig(stop=("x",)))], 2))


def test_tokens_are_streamed_as_they_are_drawn(model: Transformer) -> None:
    requests = [Request([1, 5], 0, FREE), Request([1, 6], 1, FREE.model_copy(update={"max_new_tokens": 4}))]
    sampled = list(stream(model, requests, eos_id=-1))
    assert [s.request for s in sampled[:4]] == [0, 1, 0, 1]
    assert [s.finish for s in sampled if s.request == 1] == [None, None, None, "length"]
    assert [s.token for s in sampled if s.request == 0] == dict(generate(model, requests, -1))[0].tokens


def test_the_longest_sequence_ends_a_row(model: Transformer) -> None:
    long = SamplingConfig(max_new_tokens=500)
    ((_, done),) = generate(model, [Request([1, 5], 0, long)], eos_id=-1)
    assert len(done.tokens) == model.config.max_seq_len - 2


def test_a_prompt_without_room_is_named(model: Transformer) -> None:
    with pytest.raises(DataError, match="prompt 0 has 64 tokens"):
        list(generate(model, [Request([1] * 64, 0, FREE)], 2))


def test_the_cache_is_no_larger_than_its_rows_need(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []

    class Watched(module.KVCache):
        def __init__(self, config: ModelConfig, rows: int, capacity: int, *of: torch.Tensor) -> None:
            shapes.append((rows, capacity))
            super().__init__(config, rows, capacity, *of)

    monkeypatch.setattr(module, "KVCache", Watched)
    list(generate(model, [Request([1, 5, 6], seed, FREE) for seed in range(20)], eos_id=-1, slots=8))
    assert max(shapes) == (8, 3 + 12)
    assert math.isclose(len(shapes), 1 + 3, abs_tol=1)


def test_what_prompts_begin_with_can_be_read_once(model: Transformer) -> None:
    begin = [1, *range(20, 50)]
    config = SamplingConfig(temperature=0.0, max_new_tokens=8)
    requests = [Request([*begin, *more], 0, config) for more in ([7], [8, 9, 10], [11, 12])]
    apart = {index: said.tokens for index, said in generate(model, requests, eos_id=2, slots=2)}
    together = {
        index: said.tokens for index, said in generate(model, requests, 2, slots=2, shared=len(begin))
    }
    assert together == apart
