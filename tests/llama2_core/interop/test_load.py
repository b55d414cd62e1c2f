"""Loading to use: any data type, one place in memory, the same logits."""

from pathlib import Path

import pytest
import torch
from torch import nn

from llama2_core.cache import KVCache
from llama2_core.config import ModelConfig, Variant
from llama2_core.interop.convert import load
from llama2_core.model import Transformer, initialise
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model

TOKENS = torch.randint(3, 300, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied_embeddings": True},
        {"variant": Variant(positions="learned", norm="layer")},
        {"variant": Variant(positions="sinusoidal")},
    ],
)
def test_a_loaded_model_has_the_logits_and_the_type_that_was_asked_for(
    changes: dict, config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = Transformer(config.model_copy(update=changes))
    initialise(model, model.config, torch.Generator().manual_seed(0))
    save_model(tmp_path / "model", model, tokenizer)
    loaded, _ = load(tmp_path / "model")
    half, _ = load(tmp_path / "model", dtype=torch.bfloat16)
    with torch.no_grad():
        expected = model(TOKENS)
        assert torch.equal(loaded(TOKENS), expected)
        assert torch.equal(half(TOKENS), model.to(torch.bfloat16)(TOKENS))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.table, loaded.table) and half.table.dtype == torch.float32
    assert len(list(half.parameters())) == len(list(model.parameters())), "ties are kept"
    cache = KVCache(half.config, 2, 24, half.tok_embeddings.weight)
    assert cache.keys.dtype == torch.bfloat16


def test_nothing_is_drawn_to_be_overwritten(
    model: Transformer, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "model", model, tokenizer)
    filled = []
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda weight, **_: filled.append(weight))
    load(tmp_path / "model")
    assert sum(weight.numel() for weight in filled if not weight.is_meta) <= model.config.dim
