"""Attention behind a stem, against one softmax over stem and row."""

import pytest
import torch
import torch.nn.functional as F

from llama2_core.shared_attention import attend_behind


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_two_parts_are_weighed_as_one(kv_heads: int, masked: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    rows, slots, stem, heads, width = 3, 5, 7, 4, 8
    q = torch.randn(rows, 1, heads, width, generator=draw)
    k, v = torch.randn(2, rows, slots, kv_heads, width, generator=draw)
    stem_k, stem_v = 3 * torch.randn(2, 1, stem, kv_heads, width, generator=draw)
    seen = torch.tensor([5, 1, 3])
    visible = (torch.arange(slots) < seen.unsqueeze(1))[:, None, None] if masked else None
    keys, values = (
        torch.cat([part.expand(rows, -1, -1, -1), own], 1) for part, own in ((stem_k, k), (stem_v, v))
    )
    mask = None if visible is None else F.pad(visible, (stem, 0), value=True)
    expected = F.scaled_dot_product_attention(
        q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask, enable_gqa=True
    )
    found = attend_behind(q, k, v, visible, stem_k, stem_v)
    torch.testing.assert_close(found, expected.transpose(1, 2), atol=1e-6, rtol=1e-5)
