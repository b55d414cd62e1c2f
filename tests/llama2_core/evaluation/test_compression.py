"""Bits a character, by hand: a model that knows nothing takes log2 V a token."""

import math

import pytest
import torch

from llama2_core.config import ModelConfig
from llama2_core.evaluation.compression import compress, windows
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer

TEXTS = ["the cat sat on a mat", "seven apples and nine pears today"]


def test_windows_complete_each_token_once() -> None:
    assert list(windows([1, 5, 6, 7, 8, 9], 2)) == [([1], [5, 6]), ([6], [7, 8]), ([8], [9])]
    assert list(windows([1], 4)) == []


@pytest.mark.parametrize("window", [3, 64])
def test_a_model_without_knowledge(config: ModelConfig, tokenizer: Tokenizer, window: int) -> None:
    model = Transformer(config).eval()
    with torch.no_grad():
        model.output.weight.zero_()
    found = compress(model, tokenizer, TEXTS, window)
    tokens = sum(map(len, tokenizer.encode_many(TEXTS)))
    assert (found.characters, found.tokens) == (53, tokens)
    assert found.characters_per_token == 53 / tokens
    assert found.bits_per_character == pytest.approx(tokens * math.log2(config.vocab_size) / 53, rel=1e-5)


def test_one_window_is_the_likelihood_of_the_text(model: Transformer, tokenizer: Tokenizer) -> None:
    ids = torch.tensor([tokenizer.encode(TEXTS[0], bos=True)])
    with torch.no_grad():
        logprobs = model.eval()(ids[:, :-1]).log_softmax(-1).gather(2, ids[:, 1:].unsqueeze(2))
    assert compress(model, tokenizer, TEXTS[:1], 64).nats == pytest.approx(-logprobs.sum().item(), rel=1e-5)
