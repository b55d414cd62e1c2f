"""Parameters, activations and memory of a rank: by hand on a tiny model, and as torch builds it."""

import pytest
import torch

from llama2_core.config import LoRAConfig, ModelConfig, Variant
from llama2_core.footprint import (
    Dtype,
    Network,
    Setup,
    activation_bytes,
    adapter_count,
    cache_bytes,
    linear_layers,
    memory,
    parameter_count,
)
from llama2_core.lora import add_adapters
from llama2_core.model import ScalarModel, Transformer
from llama2_core.presets import LLAMA_7B, PRESETS
from llama2_core.training.checkpoint import trained

# A block: wq and wo 16 each, wk and wv 8 each, w1, w2 and w3 40 each, two norms of 4: 176. Outside: 84.
CONFIG = ModelConfig(vocab_size=10, dim=4, n_layers=2, n_heads=2, n_kv_heads=1, multiple_of=1, max_seq_len=8)
NETWORK = Network(config=CONFIG)
LORA = LoRAConfig(rank=2, targets=("wq", "w2"))
SETUP = Setup(dtype="bfloat16", row_tokens=8, micro_rows=2, most_ranks=4)


def with_(setup: Setup, **changes: object) -> Setup:
    return setup.model_copy(update=changes)


def test_parameters_by_hand() -> None:
    assert parameter_count(CONFIG) == 2 * 176 + 84
    assert parameter_count(CONFIG.model_copy(update={"tied_embeddings": True})) == 2 * 176 + 44
    assert parameter_count(CONFIG, scalar=True) == 2 * 176 + 48
    assert adapter_count(CONFIG, LORA) == 2 * 2 * ((4 + 4) + (10 + 4))


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
    assert parameter_count(PRESETS[preset]) == parameters


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied_embeddings": True},
        {"n_kv_heads": 2},
        {"variant": Variant(positions="learned", norm="layer", ffn="gelu")},
    ],
)
def test_counts_are_the_built_models(changes: dict) -> None:
    config = CONFIG.model_copy(update=changes)
    for model, scalar in ((Transformer(config), False), (ScalarModel(config), True)):
        assert sum(p.numel() for p in model.parameters()) == parameter_count(config, scalar)


@pytest.mark.parametrize("targets", [("wq", "w2"), ("wk", "wv", "wo", "w1", "w3", "output")])
def test_adapter_counts_are_the_built_models(targets: tuple) -> None:
    model, lora = Transformer(CONFIG), LoRAConfig(rank=2, targets=targets)
    add_adapters(model, lora, torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in trained(model).values()) == adapter_count(CONFIG, lora)


def test_activations_by_hand() -> None:
    """A token of a layer: 6 x 4 for the stream and q, 2 x 2 for k and v, 4 x 10 for SwiGLU, 68 in all."""
    assert activation_bytes(NETWORK, 5, "bfloat16") == 5 * 2 * 68 * 2
    assert activation_bytes(NETWORK, 5, "float32") == 5 * 2 * 68 * 4
    assert activation_bytes(NETWORK, 5, "bfloat16", checkpointing=True) == 5 * (2 * 4 * 2 + 68 * 2)
    adapted = Network(
        config=CONFIG, lora=LORA
    )  # float32 inputs of wq and w2, 4 + 10 wide, and masks; 18 less
    assert activation_bytes(adapted, 5, "bfloat16") == 5 * 2 * ((68 - 18) * 2 + 14 * 5)


def test_activations_of_gpt_are_the_published_34_bytes() -> None:
    """Korthikanti et al., eq. 6 with t = 1: s b h 34 bytes a layer when attention is recomputed."""
    variant = Variant(positions="learned", norm="layer", ffn="gelu", dropout=0.1)
    gpt = ModelConfig(
        vocab_size=10, dim=64, n_layers=3, n_heads=4, n_kv_heads=4, multiple_of=1, variant=variant
    )
    assert activation_bytes(Network(config=gpt), 7, "bfloat16") == 7 * 64 * 3 * 34


def saved_bytes(model: Transformer, tokens: torch.Tensor) -> int:
    """What autograd keeps of the blocks, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), model.table)}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    x, rotary = model.embed(tokens)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for layer, block in enumerate(model.layers):
            x = block(x, rotary, None, layer)
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("ffn", ["swiglu", "gelu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_what_autograd_keeps(dtype: Dtype, ffn: str, kv_heads: int) -> None:
    """To 2%, what norms and attention sum up. LayerNorm, for a CPU's RMSNorm is not fused and keeps D more.

    Adapters: what A makes is 6% of a layer this narrow; in float32 without dropout neighbours share an input.
    """
    variant = Variant.model_validate({"ffn": ffn, "norm": "layer"})
    shape = {"n_layers": 8, "n_heads": 4, "n_kv_heads": kv_heads, "multiple_of": 32, "max_seq_len": 32}
    config = ModelConfig(vocab_size=64, dim=64, variant=variant, **shape)
    model, tokens = Transformer(config).to(getattr(torch, dtype)), torch.zeros(2, 32, dtype=torch.long)
    planned = activation_bytes(Network(config=config), 64, dtype)
    assert planned <= saved_bytes(model, tokens) < 1.02 * planned
    lora = LoRAConfig.model_validate({"dropout": 0, "targets": tuple(linear_layers(config))})
    add_adapters(model, lora, torch.Generator().manual_seed(0))
    planned = activation_bytes(Network(config=config, lora=lora), 64, dtype)
    least = 0.85 if dtype == "float32" else 1
    assert least * planned < saved_bytes(model, tokens) < 1.06 * planned


def test_cache_by_hand_and_the_7b_models() -> None:
    assert cache_bytes(CONFIG, 5, "float32") == 2 * 2 * 1 * 2 * 5 * 4
    assert cache_bytes(LLAMA_7B, 4096, "bfloat16") == 2 << 30


def test_memory_by_hand() -> None:
    found = memory([NETWORK], SETUP)
    assert (found.weights, found.gradients, found.moments, found.master) == (872, 872, 3488, 1744)
    assert found.weights + found.gradients + found.moments + found.master == 16 * 436
    assert (found.activations, found.logits) == (2 * 8 * 2 * 136, 2 * 8 * 10 * 12)
    assert (found.gathered, found.kv_cache) == (0, 0)
    assert (found.total, found.largest) == (16 * 436 + 4352 + 1920, "activations")


def test_memory_in_float32_has_no_master_copy() -> None:
    found = memory([NETWORK], with_(SETUP, dtype="float32"))
    assert (found.weights, found.gradients, found.moments, found.master) == (1744, 1744, 3488, 0)
    assert (found.activations, found.logits) == (2 * 4352, 1920)


def test_fsdp_divides_weights_gradients_and_optimizer_only() -> None:
    one, four = memory([NETWORK], SETUP), memory([NETWORK], with_(SETUP, ranks=4))
    for name in ("weights", "gradients", "moments", "master"):
        assert getattr(four, name) * 4 == getattr(one, name)
    assert (four.activations, four.logits) == (one.activations, one.logits)
    assert four.gathered == (84 + 2 * 176) * 2


def test_frozen_models_have_weights_only_and_adapters_train_in_float32() -> None:
    frozen = memory([Network(config=CONFIG, trained=False)], SETUP)
    assert frozen.total == frozen.weights == 872
    adapted = memory([Network(config=CONFIG, lora=LORA, bits="nf4")], SETUP)
    assert adapted.weights == round(336 * 4.127 / 8 + 100 * 2 + 88 * 4)  # 336 of 436 are in linear layers
    assert (adapted.gradients, adapted.moments, adapted.master) == (88 * 4, 88 * 8, 0)


def test_a_reward_model_has_no_logits_and_the_cache_is_never_beside_activations() -> None:
    reward = memory([Network(config=CONFIG, scalar=True)], SETUP)
    assert (reward.logits, reward.weights) == (0, 400 * 2)
    ppo = memory([NETWORK], with_(SETUP, slots=50))  # 8 bytes x 50 x 8 tokens x 2 against 4352 + 1920
    assert ppo.kv_cache == 6400
    assert ppo.total == 16 * 436 + 6400
