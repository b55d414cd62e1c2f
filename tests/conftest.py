"""Small real things that many tests need."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from llama2_core.config import ModelConfig
from llama2_core.data.mixture import Segment
from llama2_core.model import ScalarModel, Transformer, initialise
from llama2_core.tokenizer import Tokenizer, train_tokenizer
from llama2_core.training.checkpoint import save_model
from storage.shards import ShardWriter
from tasks.mixture import write_mixture

torch.set_num_threads(2)
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

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


@pytest.fixture(scope="session")
def drawn(tokenizer: Tokenizer) -> Callable[[int, type[Transformer] | type[ScalarModel], Path], dict]:
    """Write a small model of a seed, of weights large enough to tell its answers apart; return no summary."""
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=32, n_layers=1, n_heads=4, n_kv_heads=2, multiple_of=16, max_seq_len=96
    )  # fmt: skip

    def write(seed: int, kind: type[Transformer] | type[ScalarModel], directory: Path) -> dict:
        model = kind(shape)
        initialise(model, shape, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(5 if parameter.dim() > 1 else 1)
        save_model(directory, model, tokenizer)
        return {}

    return write


@pytest.fixture(scope="session")
def write_tokens(tokenizer: Tokenizer) -> Callable[[Path, np.ndarray], None]:
    """Write what the tokens stage writes: rows to train on, the first eight of them to validate on."""

    def write(directory: Path, rows: np.ndarray) -> None:
        begins = np.zeros(rows.shape, dtype=bool)
        for name, part in (("train", rows), ("validation", rows[:8])):
            with ShardWriter(
                directory / f"{name}-00000.parquet", rows.shape[1], tokenizer.vocab_size
            ) as shard:
                shard.add(part, begins[: len(part)])
                shard.about = {"source": "test"}
        write_mixture(directory, [Segment(source="test", first_row=0, rows=len(rows), draws=len(rows))])

    return write


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


@pytest.fixture
def serve_gguf() -> Callable[..., str]:
    """Put a GGUF file into llama.cpp's own server and return its address; skips where it is not installed."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp, which holds llama.cpp, is not installed")
    servers = []

    def serve(path: Path, context: int = 128) -> str:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.port, params.verbosity = context, 1, 0, 0
        params.cpuparams.n_threads = 1
        servers.append(xllamacpp.Server(params))
        return servers[-1].listening_address

    return serve
