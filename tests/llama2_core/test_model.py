"""The Transformer: its shapes, its invariants, and transformers as the oracle."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llama2_core.config import ModelConfig
from llama2_core.interop.huggingface import halves, llama_config, rotary, their_name
from llama2_core.model import KVCache, RMSNorm, ScalarModel, Transformer, initialise, rotary_table, rotate
from llama2_core.presets import PRESETS


def as_transformers(model: Transformer) -> LlamaForCausalLM:
    """The same weights in transformers' layout: rotary pairs there are halves, not neighbours."""
    theirs = LlamaForCausalLM(LlamaConfig(**llama_config(model.config), attn_implementation="eager")).eval()
    change = halves(model.config)
    weights = model.state_dict().items()
    theirs.load_state_dict({their_name(name): change(w) if rotary(name) else w for name, w in weights})
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
        ("0.9M", 918_656),
        ("15M", 15_191_712),
        ("110M", 109_529_856),
        ("1.1B", 1_100_048_384),
        ("7B", 6_738_415_616),
        ("13B", 13_015_864_320),
        ("34B", 33_743_970_304),
        ("70B", 68_976_648_192),
    ],
)
def test_preset_parameter_counts(preset: str, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in Transformer(PRESETS[preset]).parameters()) == parameters


@pytest.mark.parametrize(
    ("preset", "width"),
    [
        ("15M", 768),
        ("110M", 2048),
        ("1.1B", 5632),
        ("7B", 11008),
        ("13B", 13824),
        ("34B", 22016),
        ("70B", 28672),
    ],
)
def test_preset_ffn_widths(preset: str, width: int) -> None:
    assert PRESETS[preset].ffn_dim == width


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
