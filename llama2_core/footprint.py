"""What a model takes before it is built: parameters, and the memory of one rank by component. No torch.

Shapes: D dim, L layers, H heads, K kv heads, E head width, F FFN width, V vocabulary, T tokens of a row.
"""

from collections.abc import Sequence
from math import prod
from typing import Literal

from pydantic import computed_field

from llama2_core.config import Bits, LoRAConfig, ModelConfig, Natural, Positive, Precision, Record

Device = Literal["cpu", "cuda"]
BYTES: dict[Precision, int] = {"float32": 4, "bfloat16": 2}
QUANTIZED_BYTES: dict[Bits, float] = {"nf4": 4.127 / 8, "int8": 1.0}
"""Of a weight in a block; doubly quantized constants add 0.127 bits (QLoRA, arXiv 2305.14314)."""
WEIGHT_BYTES = GRADIENT_BYTES = 4
MOMENTS_BYTES = 8
"""Float32, of a parameter: weights always, gradients and AdamW's two moments of what is trained."""
WHOLE_LOGITS_BYTES = 12
"""Of a logit in PPO, float32: the log-probability that is kept, and two gradients that meet on the way back."""
CHUNK_BYTES: dict[str, int] = {"cpu": 30 * 2**20, "cuda": 512 * 2**20}
"""Of the float32 logits that pretraining and SFT have at once."""
PIECE = 4096
"""Tokens whose output weights get their gradient at once: it is added while it is in the cache."""
NARROW = 64
"""Heads narrower than this a CPU attends with in float32: its kernel for bfloat16 is up to three times slower."""
FRAGMENTS = 0.21
"""What glibc leaves unused between blocks, of activations and loss; measured (benchmarks/planner.py)."""


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

    @property
    def layer_parameters(self) -> int:
        """Of the linear layers of all blocks."""
        return sum(map(prod, linear_layers(self.config).values())) * self.config.n_layers

    def weight_bytes(self) -> float:
        """Return the bytes of all weights, adapters too."""
        each = QUANTIZED_BYTES[self.bits] if self.bits else WEIGHT_BYTES
        rest = self.parameters - self.layer_parameters + (self.trained_parameters if self.lora else 0)
        return each * self.layer_parameters + WEIGHT_BYTES * rest


class Setup(Record):
    """How each rank holds a stage."""

    precision: Precision
    """Of products and what they keep; weights, gradients, moments and caches are float32."""
    device: Device = "cuda"
    """A CPU's RMSNorm is not fused, and its allocator leaves gaps."""
    row_tokens: Positive
    """Tokens of a row: T; of a pair, 2 T."""
    micro_rows: Natural = 0
    """Rows (or pairs) in one forward pass with gradient."""
    micro_batches: Positive = 1
    """Forward passes of an update: with several, the gradients of earlier ones lie beside the activations."""
    whole_logits: bool = False
    """PPO's; pretraining and SFT make the loss chunk by chunk."""
    slots: Natural = 0
    """Rows sampled at once."""
    ranks: Positive = 1
    """Processes that share weights, gradients and moments out among them (FSDP)."""
    most_ranks: Positive = 1
    """Processes that this stage can be spread over."""
    checkpointing: bool = False
    """Keep the input of each block only, and run it again on the way back."""

    @property
    def adjustable(self) -> bool:
        """Whether checkpointing and bfloat16 can be turned on: sampling and PPO have neither."""
        return self.micro_rows > 0 and not self.whole_logits

    @property
    def tokens(self) -> int:
        """Of one forward pass with gradient."""
        return self.micro_rows * self.row_tokens


class Memory(Record):
    """Bytes on one rank, at most."""

    weights: int
    """Of all models."""
    gradients: int
    """Of all that is trained."""
    moments: int
    """AdamW's."""
    casts: int
    """In bfloat16 on one process: the linear layers' weights, cast once a forward pass."""
    gathered: int
    """Under FSDP: embeddings, output, the block at work and the next one, whole."""
    activations: int
    """Kept for the way back."""
    loss: int
    """Logits and what is made of them."""
    fragments: int
    """Gaps that a CPU's allocator leaves."""
    kv_cache: int
    """Keys and values while sampling, when there are neither activations nor gradients."""
    accumulating: bool
    """Whether gradients are there when activations are at their most."""

    @computed_field
    @property
    def total(self) -> int:
        forward = self.activations + self.loss + self.fragments
        training = forward + self.gradients if self.accumulating else max(forward, self.gradients)
        return self.weights + self.moments + self.casts + self.gathered + max(training, self.kv_cache)

    @computed_field
    @property
    def largest(self) -> str:
        """The component that takes most."""
        return max(COMPONENTS, key=lambda name: getattr(self, name))


COMPONENTS = [name for name in Memory.model_fields if name != "accumulating"]


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


def activation_bytes(network: Network, setup: Setup) -> int:
    """Return what a forward pass keeps; checkpointed, each block's input and all of one block.

    Counted as in Korthikanti et al. (arXiv 2205.05198, section 4.1) for these blocks: both norms' inputs, the
    inputs of q, k and v, of wo and of the FFN, and q are D wide, k and v K E; SwiGLU keeps four tensors F
    wide, GELU two. Fused attention keeps no scores. With GELU, dropout (a byte a mask) and bfloat16 that is
    their 34 D a layer. A frozen layer keeps no input, its adapter a float32 copy of it, and a mask.
    One process keeps the stream, the norms' inputs, in float32; a CPU keeps normed inputs before their scale
    too, and where heads are narrow q, k, v and the answer in float32.
    """
    config, lora, size = network.config, network.lora, BYTES[setup.precision]
    on_cpu, stream = setup.device == "cpu", 4 if setup.ranks == 1 else size
    heads = 2 * config.dim + 2 * config.n_kv_heads * config.head_dim  # q, the answer, k and v
    block = 2 * config.dim * stream + heads * size
    block += (2 * config.dim + config.ffn_dim * (4 if config.variant.ffn == "swiglu" else 2)) * size
    if on_cpu and config.variant.norm == "rms":
        block += 2 * config.dim * 4
    if on_cpu and size < 4 and config.head_dim < NARROW:
        block += heads * 4 - (heads - config.dim) * size  # of the answer wo's input stays
    block += 2 * config.dim if config.variant.dropout else 0
    if lora:
        inputs = sum(inputs for name, (inputs, _) in linear_layers(config).items() if name in lora.targets)
        block += inputs * (4 + (lora.dropout > 0)) - (2 * config.dim + config.ffn_dim) * size
    if setup.checkpointing:
        return setup.tokens * (config.n_layers * config.dim * stream + block)
    return setup.tokens * config.n_layers * block


def loss_bytes(network: Network, setup: Setup) -> int:
    """Return what a forward pass has at once on its way from the last states to the loss.

    The last norm's input, states and their gradient [T, D], the output's gradient [V, D], and for a chunk of C
    positions logits [C, V], states and product [C, D]; a CPU turns over bfloat16's chunk or weight. PPO keeps
    the logits of answers, planned as if prompts had none.
    """
    if network.scalar:
        return 0
    dim, vocabulary = network.config.dim, network.config.vocab_size
    tokens, size = setup.tokens, BYTES[setup.precision]
    if setup.whole_logits:
        return WHOLE_LOGITS_BYTES * tokens * vocabulary
    chunk = min(tokens, max(1, CHUNK_BYTES[setup.device] // (4 * vocabulary)))
    both = 4 if size == 4 else 4 + size  # float32, and its cast
    turns = setup.device == "cpu" and size < 4
    turned = max(min(vocabulary, PIECE) * chunk, vocabulary * dim) * size if turns else 0
    matrix = dim * vocabulary * both  # the gradient, and the cast weight
    return tokens * dim * (4 + 2 * size) + chunk * (vocabulary * both + 2 * dim * size) + turned + matrix


def cache_bytes(config: ModelConfig, tokens: int) -> int:
    """Return the bytes of keys and values of so many tokens, float32: 2 L K E each."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * tokens * 4


def gathered_bytes(networks: Sequence[Network], setup: Setup) -> int:
    """Return the bytes that one rank of several holds whole, of the largest model; where it samples, of the policy.

    Adapters of PPO change weights that judges share: those are whole too.
    """
    if setup.ranks == 1:
        return 0
    if setup.slots:
        whole = [network for network in networks if network.lora] or networks[:1]
        return round(sum(network.weight_bytes() for network in whole))
    parts = (root_count(n.config, n.scalar) + 2 * block_count(n.config) for n in networks)
    return max(parts) * BYTES[setup.precision]


def memory(networks: Sequence[Network], setup: Setup) -> Memory:
    """Return the memory of one rank; the first network is the one that samples."""
    trained = [network for network in networks if network.trained]
    parameters = sum(network.trained_parameters for network in trained)
    casting = setup.precision == "bfloat16" and setup.ranks == 1
    activations = sum(activation_bytes(network, setup) for network in trained)
    loss = sum(loss_bytes(network, setup) for network in trained)

    def share(total: float) -> int:
        return round(total / setup.ranks)

    return Memory(
        weights=share(sum(network.weight_bytes() for network in networks)),
        gradients=share(GRADIENT_BYTES * parameters),
        moments=share(MOMENTS_BYTES * parameters),
        casts=sum(2 * network.layer_parameters for network in trained if casting and not network.bits),
        gathered=gathered_bytes(networks, setup),
        activations=activations,
        loss=loss,
        fragments=round(FRAGMENTS * (activations + loss)) if setup.device == "cpu" else 0,
        kv_cache=cache_bytes(networks[0].config, setup.slots * setup.row_tokens),
        accumulating=setup.micro_batches > 1,
    )
