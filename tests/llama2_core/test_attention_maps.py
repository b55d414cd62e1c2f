"""The attention that is drawn is the attention that the model computes."""

import torch

from llama2_core.attention_maps import attention_weights, binned, strongest_attention
from llama2_core.model import Transformer

TOKENS = [1, 17, 5, 9, 33, 8, 120]


def test_weights_times_values_are_the_layers_output(model: Transformer) -> None:
    with torch.no_grad():
        x, rotary = model.embed(torch.tensor([TOKENS]))
        layer = model.layers[0].attention
        states = model.layers[0].attention_norm(x)
        weights = attention_weights(layer, states, rotary)
        values = layer.wv(states).view(1, len(TOKENS), 2, 8).repeat_interleave(2, dim=2)
        mixed = torch.einsum("bhqk,bkhe->bqhe", weights, values).reshape(1, len(TOKENS), 32)
        torch.testing.assert_close(layer.wo(mixed), layer(states, rotary, None, 0), atol=1e-5, rtol=1e-4)
        assert weights.shape == (1, 4, len(TOKENS), len(TOKENS))


def test_the_strongest_is_causal_and_over_all_layers(model: Transformer) -> None:
    strongest = strongest_attention(model, TOKENS)
    with torch.no_grad():
        x, rotary = model.embed(torch.tensor([TOKENS]))
        per_layer = []
        for block in model.layers:
            per_layer.append(attention_weights(block.attention, block.attention_norm(x), rotary)[0])
            x = block(x, rotary, None, 0)
        torch.testing.assert_close(model.norm(x), model.hidden(torch.tensor([TOKENS])))
    torch.testing.assert_close(strongest, torch.cat(per_layer).amax(0))
    assert strongest.triu(1).eq(0).all() and strongest[0, 0] == 1


def test_bins_hold_their_largest() -> None:
    attention = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.5, 0.25, 0.125]])
    assert binned(attention, 2).tolist() == [[1.0, 0.0], [0.5, 0.125]]
