"""The Transformer: its shapes, its invariants, and transformers as the oracle."""

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.models.ctrl.modeling_ctrl import positional_encoding

from llama2_core.config import ModelConfig, RopeScaling, SamplingConfig, Variant
from llama2_core.generate import Request, generate
from llama2_core.interop.huggingface import (
    halves,
    llama_config,
    rotary,
    their_name,
    weights_for_transformers,
)
from llama2_core.linear import Linear
from llama2_core.model import (
    KVCache,
    RMSNorm,
    ScalarModel,
    Transformer,
    initialise,
)
from llama2_core.positions import rotary_table, rotate, sinusoid_table, turns
from llama2_core.presets import PRESETS
from llama2_core.training.objectives import TokenBatch, next_token_objective


def as_transformers(model: Transformer) -> LlamaForCausalLM:
    """The same weights in transformers' layout: rotary pairs there are halves, not neighbours."""
    theirs = LlamaForCausalLM(LlamaConfig(**llama_config(model.config), attn_implementation="eager")).eval()
    theirs.load_state_dict(weights_for_transformers(model))
    return theirs


def random_model(config: ModelConfig, seed: int = 0) -> Transformer:
    """Norm weights unequal, logits wide."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    initialise(model, config, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


TOKENS = torch.randint(3, 300, (3, 60), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_logits_equal_transformers(config: ModelConfig, kv_heads: int) -> None:
    model = random_model(config.model_copy(update={"n_kv_heads": kv_heads}), kv_heads)
    with torch.no_grad():
        ours, theirs = model(TOKENS), as_transformers(model)(TOKENS).logits
    assert ours.std() > 0.5
    assert (ours - theirs).abs().max() < 1e-4


def test_bfloat16_differs_from_transformers_by_its_noise(config: ModelConfig) -> None:
    """As far as transformers' own bfloat16 is from its float32."""
    model = random_model(config)
    with torch.no_grad():
        exact = as_transformers(model)(TOKENS).logits
        theirs = as_transformers(model).bfloat16()(TOKENS).logits.float()
        ours = model.bfloat16()(TOKENS)
    noise = (theirs - exact).square().mean().sqrt()
    assert 0 < (ours - theirs).square().mean().sqrt() < 2 * noise


@pytest.mark.parametrize("scaling", ["linear", "ntk"])
@pytest.mark.parametrize("length", [20, 32, 33, 60])
def test_scaled_positions_equal_transformers(config: ModelConfig, scaling: str, length: int) -> None:
    """Interpolation is its "linear", NTK its "dynamic": below, at and above the trained length of 32."""
    scaled = RopeScaling.model_validate({"method": scaling, "factor": 2.0, "original_seq_len": 32})
    model = random_model(config.model_copy(update={"rope_scaling": scaled}))
    plain = random_model(config)
    tokens = TOKENS[:, :length]
    with torch.no_grad():
        ours, theirs = model(tokens), as_transformers(model)(tokens).logits
        unscaled = plain(tokens)
    assert (ours - theirs).abs().max() < 1e-4
    changes = scaling == "linear" or length > 32
    assert ((ours - unscaled).abs().max() > 1e-3) == changes


def test_a_model_with_ntk_generates_as_its_longest_sequence_is_read(config: ModelConfig) -> None:
    scaled = RopeScaling(method="ntk", factor=2.0, original_seq_len=16)
    model = random_model(config.model_copy(update={"rope_scaling": scaled}))
    whole = SamplingConfig(temperature=0.0, max_new_tokens=config.max_seq_len)
    ((_, done),) = generate(model, [Request([1, 5], 0, whole)], eos_id=-1)
    tokens = [1, 5, *done.tokens]
    with torch.no_grad():
        assert model(torch.tensor([tokens]))[0, 1:-1].argmax(-1).tolist() == done.tokens


def test_layer_norm_gelu_and_learned_positions_are_gpt2_without_biases(config: ModelConfig) -> None:
    variant = Variant(positions="learned", norm="layer", ffn="gelu")
    ours = random_model(config.model_copy(update={"n_kv_heads": 4, "variant": variant}))
    made = ours.config
    assert made.ffn_dim == 4 * made.dim
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=made.vocab_size,
            n_positions=made.max_seq_len,
            n_embd=made.dim,
            n_layer=made.n_layers,
            n_head=made.n_heads,
            activation_function="gelu",
            layer_norm_epsilon=made.norm_eps,
            tie_word_embeddings=False,
        )
    ).eval()
    names = {
        "tok_embeddings": "transformer.wte",
        "pos_embeddings": "transformer.wpe",
        "norm": "transformer.ln_f",
    }
    state = {name: torch.zeros_like(value) for name, value in theirs.state_dict().items()}
    weights = {name.removesuffix(".weight"): value for name, value in ours.state_dict().items()}
    for name, theirs_name in names.items():
        state[f"{theirs_name}.weight"] = weights[name]
    state["lm_head.weight"] = weights["output"]
    for layer in range(made.n_layers):
        prefix, block = f"transformer.h.{layer}", f"layers.{layer}"
        qkv = [weights[f"{block}.attention.{name}"] for name in ("wq", "wk", "wv")]
        state[f"{prefix}.attn.c_attn.weight"] = torch.cat(qkv).T
        state[f"{prefix}.attn.c_proj.weight"] = weights[f"{block}.attention.wo"].T
        state[f"{prefix}.mlp.c_fc.weight"] = weights[f"{block}.feed_forward.w1"].T
        state[f"{prefix}.mlp.c_proj.weight"] = weights[f"{block}.feed_forward.w2"].T
        state[f"{prefix}.ln_1.weight"] = weights[f"{block}.attention_norm"]
        state[f"{prefix}.ln_2.weight"] = weights[f"{block}.ffn_norm"]
    theirs.load_state_dict(state)
    with torch.no_grad():
        assert (ours(TOKENS) - theirs(TOKENS).logits).abs().max() < 1e-4


def test_layer_norm_and_gelu_with_rotary_positions_are_gpt_neox_without_biases(config: ModelConfig) -> None:
    ours = random_model(
        config.model_copy(update={"n_kv_heads": 4, "variant": Variant(norm="layer", ffn="gelu")})
    )
    made = ours.config
    theirs = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=made.vocab_size,
            hidden_size=made.dim,
            num_hidden_layers=made.n_layers,
            num_attention_heads=made.n_heads,
            intermediate_size=made.ffn_dim,
            max_position_embeddings=made.max_seq_len,
            layer_norm_eps=made.norm_eps,
            hidden_act="gelu",
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
            use_parallel_residual=False,
            tie_word_embeddings=False,
        )
    ).eval()
    weights = {name.removesuffix(".weight"): value for name, value in ours.state_dict().items()}
    state = {name: torch.zeros_like(value) for name, value in theirs.state_dict().items()}
    state["gpt_neox.embed_in.weight"] = weights["tok_embeddings"]
    state["gpt_neox.final_layer_norm.weight"] = weights["norm"]
    state["embed_out.weight" if "embed_out.weight" in state else "lm_head.weight"] = weights["output"]
    change = halves(made)
    for layer in range(made.n_layers):
        prefix, block = f"gpt_neox.layers.{layer}", f"layers.{layer}"
        q, k, v = (weights[f"{block}.attention.{name}"] for name in ("wq", "wk", "wv"))
        by_head = [part.view(made.n_heads, made.head_dim, made.dim) for part in (change(q), change(k), v)]
        state[f"{prefix}.attention.query_key_value.weight"] = torch.cat(by_head, 1).flatten(0, 1)
        state[f"{prefix}.attention.dense.weight"] = weights[f"{block}.attention.wo"]
        state[f"{prefix}.mlp.dense_h_to_4h.weight"] = weights[f"{block}.feed_forward.w1"]
        state[f"{prefix}.mlp.dense_4h_to_h.weight"] = weights[f"{block}.feed_forward.w2"]
        state[f"{prefix}.input_layernorm.weight"] = weights[f"{block}.attention_norm"]
        state[f"{prefix}.post_attention_layernorm.weight"] = weights[f"{block}.ffn_norm"]
    theirs.load_state_dict(state)
    with torch.no_grad():
        assert (ours(TOKENS) - theirs(TOKENS).logits).abs().max() < 1e-4


def test_sinusoids_are_the_attention_papers(config: ModelConfig) -> None:
    torch.testing.assert_close(
        sinusoid_table(16, 30), positional_encoding(30, 16, torch.float32), atol=1e-5, rtol=0
    )
    plain = random_model(config)
    absolute = config.model_copy(update={"variant": Variant(positions="sinusoidal")})
    model = random_model(absolute)
    with torch.no_grad():
        assert (model(TOKENS) - plain(TOKENS)).abs().max() > 0.1
        same = torch.full((1, 10), 7)
        assert (model(same)[0, 0] - model(same)[0, 9]).abs().max() > 1e-3, (
            "positions must tell equal tokens apart"
        )


def test_greedy_continuations_equal_transformers(config: ModelConfig) -> None:
    """200 tokens, from prompts of unequal length, all in one batch of ours."""
    model = random_model(config.model_copy(update={"max_seq_len": 256}))
    prompts = [TOKENS[0, :3].tolist(), TOKENS[1, :40].tolist(), TOKENS[2, :17].tolist()]
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=200)
    done = dict(generate(model, [Request(prompt, 0, greedy) for prompt in prompts], eos_id=-1))
    theirs = as_transformers(model)
    theirs.generation_config.eos_token_id = None
    for index, prompt in enumerate(prompts):
        whole = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            max_new_tokens=200,
            do_sample=False,
        )
        assert done[index].tokens == whole[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_gradients_equal_transformers(config: ModelConfig, kv_heads: int) -> None:
    model = random_model(config.model_copy(update={"n_kv_heads": kv_heads}))
    theirs = as_transformers(model)
    loss = next_token_objective(model, TokenBatch(TOKENS, torch.ones_like(TOKENS[:, 1:], dtype=torch.bool)))
    (loss.total / loss.count).backward()
    theirs(TOKENS, labels=TOKENS).loss.backward()
    change = halves(model.config)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        ours = change(parameter.grad) if rotary(name) else parameter.grad
        torch.testing.assert_close(ours, theirs.get_parameter(their_name(name)).grad, atol=1e-4, rtol=0)


def test_dropout_is_for_training_only(config: ModelConfig) -> None:
    model = random_model(config.model_copy(update={"variant": Variant(dropout=0.5)}))
    plain = random_model(config)
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), plain(TOKENS))
        model.train()
        assert (model(TOKENS) - model(TOKENS)).abs().max() > 0.1


def test_label_smoothing_by_hand(model: Transformer) -> None:
    """Smoothing s spreads s of the target evenly: (1 - s) nll + s mean(-log p)."""
    batch = TokenBatch(TOKENS[:1, :10], torch.ones(1, 9, dtype=torch.bool))
    logprobs = model(batch.tokens[:, :-1])[0].log_softmax(-1)
    nll = -logprobs.gather(-1, batch.tokens[0, 1:, None]).sum()
    expected = 0.9 * nll - 0.1 * logprobs.mean(-1).sum()
    torch.testing.assert_close(next_token_objective(model, batch, label_smoothing=0.1).total, expected)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("0.9M", 918_656),
        ("5M", 5_115_072),
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
        ("5M", 512),
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
    table = rotary_table(ModelConfig(vocab_size=8, dim=2, n_heads=1, n_kv_heads=1), 3).unsqueeze(0)
    x = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    angle = torch.arange(3.0)
    torch.testing.assert_close(rotate(x, turns(table))[0, :, 0], torch.stack([angle.cos(), angle.sin()], -1))


def test_the_future_is_invisible(model: Transformer) -> None:
    tokens = torch.arange(20).unsqueeze(0)
    changed = tokens.clone()
    changed[0, 12:] += 5
    difference = (model(tokens) - model(changed)).abs().amax(-1)[0]
    assert difference[:12].max() == 0
    assert difference[12:].min() > 0


@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal"])
def test_cached_logits_equal_uncached(config: ModelConfig, positions: str) -> None:
    variant = Variant.model_validate({"positions": positions})
    model = random_model(config.model_copy(update={"variant": variant}))
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


def test_training_in_bfloat16_is_as_near_as_transformers(config: ModelConfig) -> None:
    """Gradients under autocast, beside float32's: attention of narrow heads is even done in float32."""
    model = random_model(config)
    theirs = as_transformers(model)
    batch = TokenBatch(TOKENS, torch.ones_like(TOKENS[:, 1:], dtype=torch.bool))
    slopes = []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = next_token_objective(model, batch)
            their_loss = theirs(TOKENS, labels=TOKENS).loss * loss.count
        slopes.append(torch.autograd.grad(loss.total, model.norm.weight)[0])
        slopes.append(torch.autograd.grad(their_loss, theirs.model.norm.weight)[0])
    exact, their_exact, ours, others = slopes
    assert 0 < (ours - exact).norm() < 1.5 * (others - their_exact).norm()


@pytest.mark.parametrize("frozen", [False, True])
def test_linear_equals_torchs_with_and_without_a_frozen_weight(frozen: bool) -> None:
    layer = Linear(24, 40).requires_grad_(not frozen)
    x = torch.randn(3, 7, 24, requires_grad=True)
    wanted = [x] if frozen else [x, layer.weight]
    ours, theirs = layer(x), F.linear(x, layer.weight)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), wanted),
        torch.autograd.grad((theirs * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_a_compiled_block_equals_an_eager_one(config: ModelConfig) -> None:
    """Rotary positions are complex numbers in one and pairs in the other."""
    model, compiled = random_model(config), random_model(config)
    for block in compiled.layers:
        block.compile(dynamic=False)
    batch = TokenBatch(TOKENS, torch.ones_like(TOKENS[:, 1:], dtype=torch.bool))
    for one in (model, compiled):
        next_token_objective(one, batch).total.backward()
    for ours, theirs in zip(compiled.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-3, rtol=1e-4)
