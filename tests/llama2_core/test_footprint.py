"""Parameters, activations and memory of a rank: by hand on a tiny model, and as torch builds it."""

import itertools

import pytest
import torch

from llama2_core.config import LoRAConfig, ModelConfig, Precision, Variant
from llama2_core.footprint import (
    FRAGMENTS,
    Network,
    Setup,
    activation_bytes,
    adapter_count,
    cache_bytes,
    linear_layers,
    loss_bytes,
    memory,
    parameter_count,
)
from llama2_core.lora import add_adapters
from llama2_core.model import ScalarModel, Transformer
from llama2_core.presets import LLAMA_7B, PRESETS
from llama2_core.training.checkpoint import trained
from llama2_core.training.cross_entropy import fused_cross_entropy

# A block: wq and wo 16 each, wk and wv 8 each, w1, w2 and w3 40 each, two norms of 4: 176. Outside: 84.
CONFIG = ModelConfig(vocab_size=10, dim=4, n_layers=2, n_heads=2, n_kv_heads=1, multiple_of=1, max_seq_len=8)
NETWORK = Network(config=CONFIG)
LORA = LoRAConfig(rank=2, targets=("wq", "w2"))
SETUP = Setup(precision="bfloat16", row_tokens=8, micro_rows=2, most_ranks=4)
FIVE = Setup(precision="float32", row_tokens=5, micro_rows=1)
"""Five tokens."""


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
    assert activation_bytes(NETWORK, FIVE) == 5 * 2 * 68 * 4
    sharded = with_(FIVE, precision="bfloat16", ranks=2)
    assert activation_bytes(NETWORK, sharded) == 5 * 2 * 68 * 2
    kept = with_(sharded, checkpointing=True)
    assert activation_bytes(NETWORK, kept) == 5 * (2 * 4 * 2 + 68 * 2)
    adapted = Network(
        config=CONFIG, lora=LORA
    )  # float32 inputs of wq and w2, 4 + 10 wide, and masks; 18 less
    assert activation_bytes(adapted, sharded) == 5 * 2 * ((68 - 18) * 2 + 14 * 5)


def test_one_process_keeps_its_stream_in_float32() -> None:
    """Both norms' inputs, 8 of the 68, take 2 bytes more."""
    assert activation_bytes(NETWORK, with_(FIVE, precision="bfloat16")) == 5 * 2 * (68 * 2 + 8 * 2)


def test_a_cpu_keeps_more() -> None:
    """Normed inputs in float32, 8; in bfloat16 narrow heads' q, k, v and answer in float32, and wo's input, 4."""
    on_cpu = with_(FIVE, device="cpu")
    assert activation_bytes(NETWORK, on_cpu) == 5 * 2 * (68 + 8) * 4
    assert activation_bytes(NETWORK, with_(on_cpu, precision="bfloat16")) == 5 * 2 * (
        (8 + 8 + 12) * 4 + (4 + 48) * 2
    )


def test_activations_of_gpt_are_the_published_34_bytes() -> None:
    """Korthikanti et al., eq. 6 with t = 1: s b h 34 bytes a layer when attention is recomputed."""
    variant = Variant(positions="learned", norm="layer", ffn="gelu", dropout=0.1)
    gpt = ModelConfig(
        vocab_size=10, dim=64, n_layers=3, n_heads=4, n_kv_heads=4, multiple_of=1, variant=variant
    )
    setup = Setup(precision="bfloat16", row_tokens=7, micro_rows=1, ranks=2)
    assert activation_bytes(Network(config=gpt), setup) == 7 * 64 * 3 * 34


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


def shaped(norm: str, ffn: str, kv_heads: int) -> ModelConfig:
    variant = Variant.model_validate({"ffn": ffn, "norm": norm})
    shape = {"n_layers": 8, "n_heads": 4, "n_kv_heads": kv_heads, "multiple_of": 32, "max_seq_len": 32}
    return ModelConfig(vocab_size=64, dim=64, variant=variant, **shape)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("ffn", ["swiglu", "gelu"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_are_what_autograd_keeps(precision: Precision, ffn: str, kv_heads: int) -> None:
    """To 2%, what norms and attention sum up; all in the precision, as sharded. LayerNorm is fused on a CPU too.

    Adapters: what A makes is 6% of a layer this narrow; in float32 without dropout neighbours share an input.
    """
    config = shaped("layer", ffn, kv_heads)
    model, tokens = Transformer(config).to(getattr(torch, precision)), torch.zeros(2, 32, dtype=torch.long)
    setup = Setup(precision=precision, row_tokens=64, micro_rows=1, ranks=2)
    planned = activation_bytes(Network(config=config), setup)
    assert planned <= saved_bytes(model, tokens) < 1.02 * planned
    lora = LoRAConfig.model_validate({"dropout": 0, "targets": tuple(linear_layers(config))})
    add_adapters(model, lora, torch.Generator().manual_seed(0))
    planned = activation_bytes(Network(config=config, lora=lora), setup)
    least = 0.85 if precision == "float32" else 1
    assert least * planned < saved_bytes(model, tokens) < 1.06 * planned


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_of_one_cpu_are_what_autograd_keeps(precision: Precision, norm: str) -> None:
    config, setup = (
        shaped(norm, "swiglu", 2),
        Setup(precision=precision, device="cpu", row_tokens=64, micro_rows=1),
    )
    model, tokens = Transformer(config), torch.zeros(2, 32, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        kept = saved_bytes(model, tokens)
    network = Network(config=config)
    planned = activation_bytes(network, setup) + memory([network], setup).casts
    assert planned <= kept < 1.03 * planned


@pytest.mark.parametrize(("tokens", "vocabulary"), [(3000, 1024), (2048, 8192)])
def test_the_loss_takes_what_is_planned(tokens: int, vocabulary: int) -> None:
    """To 5%, as torch counts what it allocates, of what comes on top of the states."""
    hidden, weight = (torch.rand(size, 64, requires_grad=True) for size in (tokens, vocabulary))
    targets = torch.randint(vocabulary, (tokens,))
    events = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=events, profile_memory=True) as seen:
        kept = fused_cross_entropy(hidden, weight, targets)
    sizes = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    totals = itertools.accumulate(
        event.nbytes() for event in sorted(sizes, key=lambda event: event.start_ns())
    )
    config = ModelConfig(vocab_size=vocabulary, dim=64, n_layers=1, n_heads=1, n_kv_heads=1, multiple_of=1)
    setup = Setup(precision="float32", device="cpu", row_tokens=tokens, micro_rows=1)
    states = 2 * tokens * 64 * 4  # the last norm's input and its result
    assert max(totals) == pytest.approx(loss_bytes(Network(config=config), setup) - states, rel=0.05)
    assert kept[0].isfinite()


def test_cache_by_hand_and_the_7b_models() -> None:
    assert cache_bytes(CONFIG, 5) == 2 * 2 * 1 * 2 * 5 * 4
    assert cache_bytes(LLAMA_7B, 4096) == 4 << 30


def test_memory_by_hand() -> None:
    """16 tokens; logits [16, 10] in float32 and bfloat16, the output's gradient [10, 4] and its cast weight."""
    found = memory([NETWORK], SETUP)
    assert (found.weights, found.gradients, found.moments) == (4 * 436, 4 * 436, 8 * 436)
    assert found.casts == 2 * 336
    assert found.activations == 16 * 2 * (68 * 2 + 8 * 2)
    assert found.loss == 16 * 4 * (4 + 2 * 2) + 16 * 10 * 6 + 16 * 2 * 4 * 2 + 40 * 6
    assert (found.gathered, found.kv_cache, found.fragments) == (0, 0, 0)
    assert found.total == 12 * 436 + 672 + 4864 + 1968
    assert found.largest == "activations"


def test_gradients_lie_beside_activations_when_there_are_earlier_ones() -> None:
    """Else they come as activations go: what is more of both counts."""
    first, later = memory([NETWORK], SETUP), memory([NETWORK], with_(SETUP, micro_batches=2))
    assert later.total - first.total == first.gradients
    small = memory([NETWORK], with_(SETUP, row_tokens=1, micro_rows=1))
    assert small.total == 16 * 436 + 672


def test_memory_in_float32_has_no_casts() -> None:
    found = memory([NETWORK], with_(SETUP, precision="float32"))
    assert (found.weights, found.gradients, found.moments, found.casts) == (1744, 1744, 3488, 0)
    assert (found.activations, found.loss) == (
        16 * 2 * 68 * 4,
        16 * 4 * 12 + 16 * 10 * 4 + 16 * 2 * 4 * 4 + 40 * 4,
    )


def test_ppo_keeps_all_logits() -> None:
    assert memory([NETWORK], with_(SETUP, whole_logits=True)).loss == 16 * 10 * 12


def test_a_cpu_leaves_gaps() -> None:
    found = memory([NETWORK], with_(SETUP, device="cpu"))
    assert found.fragments == round(FRAGMENTS * (found.activations + found.loss))


def test_fsdp_divides_weights_gradients_and_optimizer_only() -> None:
    one, four = memory([NETWORK], SETUP), memory([NETWORK], with_(SETUP, ranks=4))
    for name in ("weights", "gradients", "moments"):
        assert getattr(four, name) * 4 == getattr(one, name)
    assert (four.activations, four.loss, four.casts) == (16 * 2 * 68 * 2, one.loss, 0)
    assert four.gathered == (84 + 2 * 176) * 2


def test_frozen_models_have_weights_only_and_adapters_train_in_float32() -> None:
    frozen = memory([Network(config=CONFIG, trained=False)], SETUP)
    assert frozen.total == frozen.weights == 4 * 436
    adapted = memory([Network(config=CONFIG, lora=LORA, bits="nf4")], SETUP)
    assert adapted.weights == round(336 * 4.127 / 8 + 100 * 4 + 88 * 4)  # 336 of 436 are in linear layers
    assert (adapted.gradients, adapted.moments, adapted.casts) == (88 * 4, 88 * 8, 0)


def test_a_reward_model_has_no_logits_and_the_cache_is_never_beside_activations() -> None:
    reward = memory([Network(config=CONFIG, scalar=True)], SETUP)
    assert (reward.loss, reward.weights) == (0, 400 * 4)
    ppo = memory([NETWORK], with_(SETUP, slots=50))  # 16 bytes x 50 x 8 tokens x 2 against 4864 + 1968
    assert ppo.kv_cache == 12800
    assert ppo.total == 12 * 436 + 672 + 12800
