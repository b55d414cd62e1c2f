"""Adapters: by hand, through the training loop, with PEFT as the oracle, on quantized weights."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from llama2_core.config import LoopConfig, LoRAConfig, ModelConfig, OptimizerConfig
from llama2_core.errors import CheckpointError, ConfigError
from llama2_core.interop import huggingface, native
from llama2_core.interop.convert import load
from llama2_core.interop.peft import with_adapter, write_adapter
from llama2_core.lora import LoRALinear, adapter_weights, add_adapters, fill_adapted
from llama2_core.model import Transformer
from llama2_core.quantized import quantize
from llama2_core.tokenizer import Tokenizer
from llama2_core.training import checkpoint, snapshots
from llama2_core.training.loop import TrainState, train
from llama2_core.training.objectives import TokenBatch, next_token_objective
from llama2_core.training.optim import adamw
from llama2_core.training.snapshots import Snapshots

TOKENS = torch.randint(3, 300, (8, 24), generator=torch.Generator().manual_seed(1))
BATCH = TokenBatch(TOKENS, torch.ones_like(TOKENS[:, 1:], dtype=torch.bool))
LOOP = LoopConfig(
    steps=30, rows=8, optimizer=OptimizerConfig(peak_learning_rate=2e-2, warmup_steps=2, weight_decay=0.0)
)
LORA = LoRAConfig(rank=4, alpha=8.0, dropout=0.0)


def adapted(model: Transformer, config: LoRAConfig = LORA, seed: int = 5) -> Transformer:
    """An adapter that does something, without training."""
    add_adapters(model, config, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoRALinear):
                module.lora_b.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
    return model


@pytest.fixture
def saved(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    checkpoint.save_model(tmp_path / "base", model, tokenizer)
    return tmp_path / "base"


def fit(model: Transformer, steps: int = 30) -> list[float]:
    state = TrainState(model, adamw(model, LOOP.optimizer))
    loop = LOOP.model_copy(update={"steps": steps})
    return [report.loss for report in train(state, next_token_objective, lambda _: [BATCH], loop)]


def test_an_adapted_layer_by_hand() -> None:
    base = nn.Linear(2, 2, bias=False)
    layer = LoRALinear(base, LoRAConfig(rank=1, alpha=2.0, dropout=0.0), torch.Generator())
    with torch.no_grad():
        base.weight.copy_(torch.eye(2))
        layer.lora_a.copy_(torch.tensor([[1.0, 2.0]]))
        layer.lora_b.copy_(torch.tensor([[3.0], [0.0]]))
    torch.testing.assert_close(layer(torch.tensor([1.0, 1.0])), torch.tensor([1 + 2 * 3 * 3.0, 1.0]))


def test_a_new_adapter_changes_nothing_and_only_it_is_trained(model: Transformer) -> None:
    before = model(TOKENS)
    frozen = {name: p.clone() for name, p in model.named_parameters()}
    add_adapters(model, LORA, torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(TOKENS), before)
    losses = fit(model)
    assert losses[-1] < 0.7 * losses[0]
    for name, parameter in model.named_parameters():
        if "lora" not in name:
            assert torch.equal(parameter, frozen[name.replace("base.", "")]), name


def test_an_adapter_resumes_bit_for_bit_and_its_checkpoint_holds_no_frozen_weight(
    model: Transformer, tmp_path: Path
) -> None:
    initial = {name: p.clone() for name, p in model.named_parameters()}
    straight = Transformer(model.config)
    straight.load_state_dict(initial)
    for made in (model, straight):
        add_adapters(made, LORA.model_copy(update={"dropout": 0.3}), torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    fit(straight, 10)
    torch.manual_seed(1)
    state = TrainState(model, adamw(model, LOOP.optimizer))
    for report in train(
        state, next_token_objective, lambda _: [BATCH], LOOP.model_copy(update={"steps": 10})
    ):
        if report.step == 4:
            kept = Snapshots(tmp_path)
            kept.save(state, {})
            kept.wait()
            break
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert size < 3.5 * 4 * sum(p.numel() for p in checkpoint.trained(model).values()) + 20_000
    other = Transformer(model.config)
    other.load_state_dict(initial)
    add_adapters(other, LORA.model_copy(update={"dropout": 0.3}), torch.Generator().manual_seed(9))
    again = TrainState(other, adamw(other, LOOP.optimizer))
    torch.manual_seed(77)
    snapshots.load(tmp_path / "step-00000004", again)
    list(train(again, next_token_objective, lambda _: [BATCH], LOOP.model_copy(update={"steps": 10})))
    for name, (a, b) in adapter_weights(straight).items():
        assert torch.equal(a, adapter_weights(other)[name][0])
        assert torch.equal(b, adapter_weights(other)[name][1])


@pytest.mark.parametrize("targets", [("wq", "wv"), ("wq", "wk", "wv", "wo", "w1", "w2", "w3", "output")])
def test_peft_loads_our_adapter_and_agrees(
    saved: Path, model: Transformer, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    config = LoRAConfig.model_validate({**LORA.model_dump(), "targets": targets})
    huggingface.write(native.read(saved), tmp_path / "theirs")
    write_adapter(tmp_path / "adapter", adapter_weights(adapted(model, config)), config, model.config)
    theirs = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", attn_implementation="eager"),
        tmp_path / "adapter",
    )
    with torch.no_grad():
        ours, plain = model(TOKENS), load(saved)[0](TOKENS)
        assert (ours - theirs(TOKENS).logits).abs().max() < 1e-4
    assert (ours - plain).abs().max() > 0.1


def test_we_load_pefts_adapter_and_agree(saved: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    huggingface.write(native.read(saved), tmp_path / "theirs")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", attn_implementation="eager")
    settings = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "k_proj", "down_proj"])
    theirs = peft.get_peft_model(base, settings).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    theirs.save_pretrained(tmp_path / "adapter")
    ours, _ = load(saved, [tmp_path / "adapter"])
    with torch.no_grad():
        assert (ours(TOKENS) - theirs(TOKENS).logits).abs().max() < 1e-4


def test_merged_and_chained_adapters_equal_adapted_layers(
    saved: Path, model: Transformer, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "one", adapter_weights(adapted(model, seed=1)), LORA, model.config)
    merged, _ = load(saved, [tmp_path / "one"])
    with torch.no_grad():
        torch.testing.assert_close(merged(TOKENS), model(TOKENS), atol=1e-4, rtol=1e-4)
    adapted(merged, LoRAConfig(rank=2, alpha=3.0, dropout=0.0, targets=("wo", "w2")), seed=2)
    two = LoRAConfig(rank=2, alpha=3.0, targets=("wo", "w2"))
    write_adapter(tmp_path / "two", adapter_weights(merged), two, model.config)
    chained, _ = load(saved, [tmp_path / "one", tmp_path / "two"])
    with torch.no_grad():
        torch.testing.assert_close(chained(TOKENS), merged(TOKENS), atol=1e-4, rtol=1e-4)


def test_an_adapter_of_another_model_is_refused(saved: Path, config: ModelConfig, tmp_path: Path) -> None:
    wide = config.model_copy(update={"dim": 64, "n_heads": 8})
    other = Transformer(wide)
    add_adapters(other, LORA, torch.Generator())
    write_adapter(tmp_path / "adapter", adapter_weights(other), LORA, wide)
    with pytest.raises(
        CheckpointError, match=r"adapter_model.safetensors: the adapter of layers.0.attention.wq"
    ):
        with_adapter(native.read(saved), tmp_path / "adapter")
    deep = Transformer(config.model_copy(update={"n_layers": 3}))
    add_adapters(deep, LORA, torch.Generator())
    write_adapter(tmp_path / "deep", adapter_weights(deep), LORA, deep.config)
    with pytest.raises(CheckpointError, match=r"layers.2.* belongs to no layer of this model"):
        with_adapter(native.read(saved), tmp_path / "deep")


def test_a_target_that_the_model_lacks_is_refused(config: ModelConfig) -> None:
    from llama2_core.config import Variant

    model = Transformer(config.model_copy(update={"variant": Variant(ffn="gelu")}))
    with pytest.raises(ConfigError, match="no linear layer 'w3'"):
        add_adapters(model, LORA, torch.Generator())


def test_a_tied_output_layer_is_refused_before_training(config: ModelConfig) -> None:
    model = Transformer(config.model_copy(update={"tied_embeddings": True}))
    with pytest.raises(ConfigError, match=r"'output' shares its weight .* leave it out"):
        add_adapters(model, LoRAConfig(targets=("wq", "output")), torch.Generator())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("bits", "share", "noise"), [("nf4", 0.35, 0.6), ("int8", 0.6, 0.1)])
def test_adapters_learn_on_quantized_weights(
    saved: Path, config: ModelConfig, bits: str, share: float, noise: float
) -> None:
    pytest.importorskip("bitsandbytes")
    model, _ = load(saved)
    with torch.no_grad():
        exact = model(TOKENS)
    quantize(model, bits)  # type: ignore[arg-type]
    held = sum(p.numel() * p.element_size() for p in model.layers.parameters() if p.dim() > 1)
    assert held < share * 4 * sum(p.numel() for p in Transformer(config).layers.parameters() if p.dim() > 1)
    with torch.no_grad():
        error = (model(TOKENS) - exact).square().mean().sqrt() / exact.std()
    assert 0 < error < noise
    add_adapters(model, LORA, torch.Generator().manual_seed(0))
    losses = fit(model)
    assert losses[-1] < 0.7 * losses[0]


def test_without_the_package_the_error_says_what_to_install(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"pip install .*quantized"):
        quantize(model, "nf4")


def test_an_adapted_model_without_memory_is_filled_as_a_loaded_one(saved: Path) -> None:
    """So every process of many fills its shard, and none holds the whole."""
    config = LORA.model_copy(update={"targets": ("w2", "wq")})
    loaded, _ = checkpoint.load_policy(saved)
    add_adapters(loaded, config, torch.Generator().manual_seed(7))
    with torch.device("meta"):
        filled = Transformer(loaded.config)
    add_adapters(filled, config, torch.Generator().manual_seed(7))
    filled.to_empty(device="cpu")
    fill_adapted(
        filled, partial(checkpoint.fill_policy, directory=saved), config, torch.Generator().manual_seed(7)
    )
    pairs = zip(loaded.named_parameters(), filled.named_parameters(), strict=True)
    for (name, a), (other, b) in pairs:
        assert name == other and torch.equal(a, b) and a.requires_grad == b.requires_grad
