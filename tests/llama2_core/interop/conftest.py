"""Small models of every kind, in every format."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llama2_core.config import ModelConfig
from llama2_core.model import Transformer, initialise
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model

LLAMA_2 = Path(__file__).resolve().parents[4] / "shared" / "data" / "llama2_tokenizer" / "tokenizer.model"


@pytest.fixture(params=["ours", "llama2"])
def any_tokenizer(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Tokenizer:
    if request.param == "ours":
        return tokenizer
    if not LLAMA_2.exists():
        pytest.skip("no ../shared/data/llama2_tokenizer")
    return Tokenizer.load(LLAMA_2)


@pytest.fixture
def shape(tokenizer: Tokenizer) -> ModelConfig:
    """Everything divides by 8, for as many model-parallel shards."""
    return ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=64, n_layers=2, n_heads=16, n_kv_heads=8, max_seq_len=128
    )


@pytest.fixture
def make(shape: ModelConfig, tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., Path]:
    """Write a model directory of random weights with the given changes of shape; no norm is all ones."""

    def made(dtype: torch.dtype = torch.float32, **changes: object) -> Path:
        config = shape.model_copy(update=changes)
        model = Transformer(config)
        generator = torch.Generator().manual_seed(0)
        initialise(model, config, generator)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(4 if parameter.dim() > 1 else 1)
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
        save_model(tmp_path / "native", model.to(dtype), tokenizer)
        return tmp_path / "native"

    return made
