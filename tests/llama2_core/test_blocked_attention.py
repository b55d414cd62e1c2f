"""Causal attention of bfloat16 in blocks equals torch's, to bfloat16's rounding, and gradients too."""

import pytest
import torch
import torch.nn.functional as F

from llama2_core.blocked_attention import BLOCK, LONGEST, BlockedAttention, is_for
from llama2_core.config import ModelConfig
from llama2_core.model import Transformer, attend, initialise

UNIT = 2**-8
"""Of a bfloat16 between 1 and 2."""


def inputs(length: int, dtype: torch.dtype, heads: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    made = [torch.randn(3, length, heads, 64, generator=generator).bfloat16() for _ in range(4)]
    return [x.to(dtype).transpose(1, 2).detach().requires_grad_() for x in made]


def results(attention, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    q, k, v, above = tensors
    out = attention(q, k, v)
    out.backward(above.detach())
    return [x.detach().double() for x in (out, q.grad, k.grad, v.grad)]


@pytest.mark.parametrize("length", [BLOCK, BLOCK + 1, 2 * BLOCK - 1, 3 * BLOCK])
def test_equals_exact_attention(length: int) -> None:
    def fused(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    exact = results(fused, inputs(length, torch.float64))
    found = results(BlockedAttention.apply, inputs(length, torch.bfloat16))
    for mine, true in zip(found, exact, strict=True):
        assert ((mine - true).norm() / true.norm()).item() < 1.5 * UNIT


def test_in_double_precision_it_is_exact() -> None:
    for mine, true in zip(
        results(BlockedAttention.apply, inputs(300, torch.float64)),
        results(
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
            inputs(300, torch.float64),
        ),
        strict=True,
    ):
        torch.testing.assert_close(mine, true, rtol=1e-6, atol=1e-6)


def test_only_where_it_is_faster() -> None:
    q, k, _, _ = (x.transpose(1, 2) for x in inputs(BLOCK, torch.bfloat16))
    assert is_for(q, k)
    assert not is_for(q.float(), k.float())
    assert not is_for(q.detach(), k)
    assert not is_for(q[:, 1:], k[:, 1:])
    assert not is_for(q, k[:, :, :1])
    long = torch.empty(1, LONGEST + 1, 1, 64, dtype=torch.bfloat16, requires_grad=True)
    assert not is_for(long, long)


def test_a_model_attends_to_nothing_ahead() -> None:
    """A later token changes nothing before it, in training with autocast, where attention is made of blocks."""
    config = ModelConfig(vocab_size=64, dim=128, n_layers=1, n_heads=2, n_kv_heads=2, max_seq_len=256)
    model = Transformer(config)
    initialise(model, config, torch.Generator().manual_seed(0))
    tokens = torch.randint(64, (1, 200), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[0, 150] = (changed[0, 150] + 1) % 64
    with torch.autocast("cpu", torch.bfloat16):
        before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :150], after[:, :150])
    assert not torch.equal(before[:, 150:], after[:, 150:])


def test_the_model_takes_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr("llama2_core.model.BlockedAttention.apply", lambda *x: taken.append(1) or x[2])
    q, k, v, _ = (x.transpose(1, 2) for x in inputs(BLOCK, torch.bfloat16))
    attend(q, k, v, None, 0.0)
    attend(q.float(), k.float(), v.float(), None, 0.0)
    assert taken == [1]
