"""The Transformer: its shapes, its invariants, and transformers as the oracle."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llama2_core.config import ModelConfig
from llama2_core.model import KVCache, RMSNorm, ScalarModel, Transformer, initialise, rotary_table, rotate
from llama2_core.presets import LLAMA_7B, LLAMA_13B, LLAMA_34B, LLAMA_70B, TINY_0_9M

NAMES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def as_transformers(model: Transformer) -> LlamaForCausalLM:
    """The same weights in transformers' layout: rotary pairs there are halves, not neighbours."""
    c = model.config
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.dim,
            intermediate_size=c.ffn_dim,
            num_hidden_layers=c.n_layers,
            num_attention_heads=c.n_heads,
            num_key_value_heads=c.n_kv_heads,
            rms_norm_eps=c.norm_eps,
            max_position_embeddings=c.max_seq_len,
            attn_implementation="eager",
        )
    ).eval()
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("layers."):
            _, layer, rest = name.split(".", 2)
            part = rest.removesuffix(".weight")
            if part in ("attention.wq", "attention.wk"):
                tensor = tensor.view(-1, c.head_dim // 2, 2, c.dim).transpose(1, 2).reshape(tensor.shape)
            state[f"model.layers.{layer}.{NAMES[part]}.weight"] = tensor
    state["model.embed_tokens.weight"] = model.tok_embeddings.weight
    state["model.norm.weight"] = model.norm.weight
    state["lm_head.weight"] = model.output.weight
    theirs.load_state_dict(state)
    return theirs


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_logits_equal_transformers(config: ModelConfig, kv_heads: int) -> None:
    config = config.model_copy(update={"n_kv_heads": kv_heads})
    model = Transformer(config)
    initialise(model, config, torch.Generator().manual_seed(kv_heads))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
        tokens = torch.randint(config.vocab_size, (3, 40), generator=torch.Generator().manual_seed(1))
        ours, theirs = model(tokens), as_transformers(model)(tokens).logits
    assert ours.std() > 0.05
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        (LLAMA_7B, 6_738_415_616),
        (LLAMA_13B, 13_015_864_320),
        (LLAMA_34B, 33_743_970_304),
        (LLAMA_70B, 68_976_648_192),
        (TINY_0_9M, 918_656),
    ],
)
def test_preset_parameter_counts(preset: ModelConfig, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in Transformer(preset).parameters()) == parameters


def test_rms_norm_by_hand() -> None:
    norm = RMSNorm(2, eps=0.0)
    torch.testing.assert_close(norm(torch.tensor([3.0, 4.0])), torch.tensor([3.0, 4.0]) / 12.5**0.5)


def test_rotary_turns_neighbouring_pairs() -> None:
    table = rotary_table(head_dim=2, length=3, theta=10000.0).unsqueeze(0)
    x = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    angle = torch.arange(3.0)
    torch.testing.assert_close(rotate(x, table)[0, :, 0], torch.stack([angle.cos(), angle.sin()], -1))


def test_the_future_is_invisible(model: Transformer) -> None:
    tokens = torch.arange(20).unsqueeze(0)
    changed = tokens.clone()
    changed[0, 12:] += 5
    difference = (model(tokens) - model(changed)).abs().amax(-1)[0]
    assert difference[:12].max() == 0
    assert difference[12:].min() > 0


def test_cached_logits_equal_uncached(model: Transformer) -> None:
    tokens = torch.randint(model.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(2))
    cache = KVCache(model.config, 2, 16, model.tok_embeddings.weight)
    positions = torch.arange(12).expand(2, 12)
    with torch.no_grad():
        parts = [model(tokens[:, :7], cache, positions[:, :7])]
        parts += [model(tokens[:, t : t + 1], cache, positions[:, t : t + 1]) for t in range(7, 12)]
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens), atol=1e-5, rtol=1e-5)


def test_grouped_heads_equal_repeated_heads(config: ModelConfig, model: Transformer) -> None:
    """GQA is MHA whose key and value heads are repeated."""
    wide = Transformer(config.model_copy(update={"n_kv_heads": config.n_heads}))
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith(("wk.weight", "wv.weight")):
            heads = tensor.view(config.n_kv_heads, config.head_dim, config.dim)
            state[name] = heads.repeat_interleave(config.n_heads // config.n_kv_heads, 0).flatten(0, 1)
    wide.load_state_dict(state)
    tokens = torch.arange(16).unsqueeze(0)
    torch.testing.assert_close(wide(tokens), model(tokens), atol=1e-5, rtol=1e-5)


def test_a_scalar_model_gives_a_number_a_position(config: ModelConfig) -> None:
    assert ScalarModel(config)(torch.zeros(2, 5, dtype=torch.long)).shape == (2, 5)


def test_a_config_that_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of n_kv_heads"):
        ModelConfig(vocab_size=8, dim=32, n_heads=4, n_kv_heads=3)
