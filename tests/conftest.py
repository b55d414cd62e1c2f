"""Small real things that many tests need."""

import pytest
import torch

from llama2_core.config import ModelConfig
from llama2_core.model import Transformer, initialise
from llama2_core.tokenizer import Tokenizer, train_tokenizer

torch.set_num_threads(2)

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "the",
    "dog",
    "ran",
    "to",
    "the",
    "red",
    "house",
    "with",
    "seven",
    "apples",
    "and",
    "nine",
    "pears",
    "today",
]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    sentences = [
        " ".join(WORDS[i:] + WORDS[:i]) + f" {i} plus {i} is {2 * i}." for i in range(len(WORDS))
    ] * 5
    return train_tokenizer(sentences, 320, ["[INST]", "[/INST]"])


@pytest.fixture
def config(tokenizer: Tokenizer) -> ModelConfig:
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        dim=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        multiple_of=16,
        max_seq_len=64,
    )


@pytest.fixture
def model(config: ModelConfig) -> Transformer:
    made = Transformer(config)
    initialise(made, config, torch.Generator().manual_seed(0))
    with torch.no_grad():  # wide enough that the logits differ clearly
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return made
