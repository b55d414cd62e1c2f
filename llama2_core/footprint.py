"""What a model takes before it is built: parameters, and the memory of one rank by component. No torch.

Shapes: D dim, L layers, H heads, K kv heads, E head width, F FFN width, V vocabulary, T tokens of a row.
"""

from collections.abc import Sequence
from math import prod
from typing import Literal

from pydantic import computed_field

from llama2_core.config import Bits, LoRAConfig, ModelConfig, Natural, Positive, Record

Dtype = Literal["float32", "bfloat16"]
BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2}
QUANTIZED_BYTES: dict[Bits, float] = {"nf4": 4.127 / 8, "int8": 1.0}
"""Of a weight in a block; doubly quantized constants add 0.127 bits (QLoRA, arXiv 2305.14314)."""
MOMENTS_BYTES, MASTER_BYTES, ADAPTER_BYTES = 8, 4, 4
"""Float32, of a trained parameter: two moments, the copy beside bfloat16 weights, an adapter's weight."""
LOGITS_BYTES = 12
"""Of a logit, float32: the log-probability that is kept, and two gradients that meet on the way back."""


class Network(Record):
    """One model of a stage."""

    config: ModelConfig
    """Shape."""
    scalar: bool = False
    """A reward or value model: one score a position instead of logits."""
    trained: bool = True
    """Whether it has gradients and moments; else it only answers."""
    lora: LoRAConfig | None = None
    """Adapters are trained, the rest is frozen."""
    bits: Bits | None = None
    """How frozen weights of the blocks are kept."""

    @property
    def parameters(self) -> int:
        return parameter_count(self.config, self.scalar)

    @property
    def trained_parameters(self) -> int:
        if self.lora:
            return adapter_count(self.config, self.lora)
        return self.parameters if self.trained else 0

    def weight_bytes(self, dtype: Dtype) -> float:
        """Return the bytes of all weights, adapters too."""
        layers = sum(map(prod, linear_layers(self.config).values())) * self.config.n_layers
        each = QUANTIZED_BYTES[self.bits] if self.bits else BYTES[dtype]
        adapters = ADAPTER_BYTES * self.trained_parameters if self.lora else 0
        return each * layers + BYTES[dtype] * (self.parameters - layers) + adapters


class Setup(Record):
    """How each rank holds a stage."""

    dtype: Dtype
    """Of weights, gradients, activations and cache; logits and moments are float32."""
    row_tokens: Positive
    """Tokens of a row: T; of a pair, 2 T."""
    micro_rows: Natural = 0
    """Rows (or pairs) in one forward pass with gradient."""
    slots: Natural = 0
    """Rows sampled at once."""
    ranks: Positive = 1
    """Processes that share weights, gradients and moments out among them (FSDP)."""
    most_ranks: Positive = 1
    """Processes that this stage can be spread over."""
    checkpointing: bool = False
    """Keep the input of each block only, and run it again on the way back."""


class Memory(Record):
    """Bytes on one rank, at most: gradients of earlier micro-batches are there already."""

    weights: int
    """Of all models, in `dtype`; adapters in float32."""
    gradients: int
    """In `dtype`; of adapters in float32."""
    moments: int
    """AdamW's, float32."""
    master: int
    """Float32 copies of bfloat16 weights."""
    gathered: int
    """Under FSDP: embeddings, output, the block at work and the next one, whole."""
    activations: int
    """Kept for the way back."""
    logits: int
    """Log-probabilities and their gradients, float32."""
    kv_cache: int
    """Keys and values while sampling, when there are no activations."""

    @computed_field
    @property
    def total(self) -> int:
        at_work = max(self.activations + self.logits, self.kv_cache)
        return self.weights + self.gradients + self.moments + self.master + self.gathered + at_work

    @computed_field
    @property
    def largest(self) -> str:
        """The component that takes most."""
        return max(self.__class__.model_fields, key=lambda name: getattr(self, name))


def linear_layers(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return inputs and outputs of every linear layer of a block, by Meta's names."""
    dim, ffn, keys = config.dim, config.ffn_dim, config.n_kv_heads * config.head_dim
    layers = {"wq": (dim, dim), "wk": (dim, keys), "wv": (dim, keys), "wo": (dim, dim)}
    layers |= {"w1": (dim, ffn), "w2": (ffn, dim)}
    return layers | ({"w3": (dim, ffn)} if config.variant.ffn == "swiglu" else {})


def block_count(config: ModelConfig) -> int:
    return sum(map(prod, linear_layers(config).values())) + 2 * config.dim


def root_count(config: ModelConfig, scalar: bool = False) -> int:
    """Return the parameters outside the blocks: embeddings, last norm, head."""
    learned = config.max_seq_len if config.variant.positions == "learned" else 0
    outputs = 1 if scalar else 0 if config.tied_embeddings else config.vocab_size
    return config.dim * (config.vocab_size + learned + 1 + outputs)


def parameter_count(config: ModelConfig, scalar: bool = False) -> int:
    return config.n_layers * block_count(config) + root_count(config, scalar)


def adapter_count(config: ModelConfig, lora: LoRAConfig) -> int:
    """Return the parameters of A [R, I] and B [O, R] on every target."""
    layers = linear_layers(config)
    blocks = sum(sum(layers[target]) for target in lora.targets if target in layers)
    output = config.dim + config.vocab_size if "output" in lora.targets else 0
    return lora.rank * (config.n_layers * blocks + output)


def activation_bytes(network: Network, tokens: int, dtype: Dtype, checkpointing: bool = False) -> int:
    """Return what a forward pass over so many tokens keeps; checkpointed, each block's input and all of one.

    Counted as in Korthikanti et al. (arXiv 2205.05198, section 4.1) for these blocks: both norms' inputs, the
    inputs of q, k and v, of wo and of the FFN, and q are D wide, k and v K E; SwiGLU keeps four tensors F
    wide, GELU two. Fused attention keeps no scores. With GELU, dropout (a byte a mask) and bfloat16 that is
    their 34 D a layer. A frozen layer keeps no input, its adapter a float32 copy of it, and a mask.
    """
    config, lora, size = network.config, network.lora, BYTES[dtype]
    hidden = config.ffn_dim * (4 if config.variant.ffn == "swiglu" else 2)
    width = 6 * config.dim + 2 * config.n_kv_heads * config.head_dim + hidden
    block = width * size + (2 * config.dim if config.variant.dropout else 0)
    if lora:
        inputs = sum(inputs for name, (inputs, _) in linear_layers(config).items() if name in lora.targets)
        block += inputs * (ADAPTER_BYTES + (lora.dropout > 0)) - (2 * config.dim + config.ffn_dim) * size
    if checkpointing:
        return tokens * (config.n_layers * config.dim * size + block)
    return tokens * config.n_layers * block


def cache_bytes(config: ModelConfig, tokens: int, dtype: Dtype) -> int:
    """Return the bytes of keys and values of so many tokens: 2 L K E each."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * tokens * BYTES[dtype]


def gathered_bytes(networks: Sequence[Network], setup: Setup) -> int:
    """Return the bytes that one rank of several holds whole, of the largest model."""
    if setup.ranks == 1:
        return 0
    whole = (root_count(n.config, n.scalar) + 2 * block_count(n.config) for n in networks)
    return max(whole) * BYTES[setup.dtype]


def memory(networks: Sequence[Network], setup: Setup) -> Memory:
    """Return the memory of one rank; the first network is the one that samples.

    Mixed precision is counted as in ZeRO (arXiv 1910.02054, section 3.1): 2 + 2 + 12 bytes a parameter.
    """
    size, tokens = BYTES[setup.dtype], setup.micro_rows * setup.row_tokens
    trained = [network for network in networks if network.trained]
    full = sum(network.trained_parameters for network in trained if not network.lora)
    adapters = sum(network.trained_parameters for network in trained if network.lora)

    def share(total: float) -> int:
        return round(total / setup.ranks)

    return Memory(
        weights=share(sum(network.weight_bytes(setup.dtype) for network in networks)),
        gradients=share(size * full + ADAPTER_BYTES * adapters),
        moments=share(MOMENTS_BYTES * (full + adapters)),
        master=share(MASTER_BYTES * full) if setup.dtype == "bfloat16" else 0,
        gathered=gathered_bytes(networks, setup),
        activations=sum(
            activation_bytes(network, tokens, setup.dtype, setup.checkpointing) for network in trained
        ),
        logits=sum(LOGITS_BYTES * tokens * n.config.vocab_size for n in trained if not n.scalar),
        kv_cache=cache_bytes(networks[0].config, setup.slots * setup.row_tokens, setup.dtype),
    )
