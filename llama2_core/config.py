"""Every value the method can be told, as frozen records. Torch-free, so that forms and schemas load fast."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NaturalFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """A frozen record that refuses unknown fields; the string under a field is its description everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RopeScaling(Record):
    """How rotary positions are stretched beyond the length that a model was trained at."""

    method: Literal["linear", "ntk"]
    """Position interpolation divides the positions; NTK raises the base with the length."""
    factor: Annotated[float, Field(ge=1)]
    """Interpolation's divisor; NTK's strength."""
    original_seq_len: Positive = 4096
    """Longest sequence of the model's training, up to which NTK changes nothing."""


class Variant(Record):
    """What Llama 2 does without, for ablations. The defaults are Llama 2's; other formats know nothing else."""

    positions: Literal["rotary", "learned", "sinusoidal"] = "rotary"
    """Rotary, or absolute: added to the embeddings."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm, or LayerNorm without bias."""
    ffn: Literal["swiglu", "gelu"] = "swiglu"
    """SwiGLU, or two matrices with GELU between them and a width of 4 dim."""
    dropout: Share = 0.0
    """Of embeddings, attention and residual branches, in training."""


class ModelConfig(Record):
    """The shape of a Llama 2 Transformer. Llama 2 section 2.2 and Table 1."""

    vocab_size: Positive
    """Number of token ids, the tokenizer's pieces."""
    dim: Positive = 4096
    """Width of the residual stream."""
    n_layers: Positive = 32
    """Transformer blocks."""
    n_heads: Positive = 32
    """Query heads."""
    n_kv_heads: Positive = 32
    """Key and value heads: equal to n_heads is MHA, 1 is MQA, between is GQA (8 at 34B and 70B)."""
    multiple_of: Positive = 256
    """The FFN's hidden width is rounded up to a multiple of this."""
    ffn_dim_multiplier: PositiveFloat = 1.0
    """Widens the FFN: 1.3 at 70B."""
    norm_eps: PositiveFloat = 1e-5
    """RMSNorm epsilon."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the rotary frequencies."""
    max_seq_len: Positive = 4096
    """Longest sequence. Llama 2 section 2.2: 4096."""
    tied_embeddings: bool = False
    """Share input and output embeddings. Llama 2 does not; small models save a tenth of their weights by it."""
    rope_scaling: RopeScaling | None = None
    """Longer contexts than were trained."""
    variant: Variant = Variant()
    """Departures from Llama 2."""

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def ffn_dim(self) -> int:
        """Hidden width: 4 dim, for SwiGLU 2/3 of it, times the multiplier, rounded up to `multiple_of`."""
        width = 4 * self.dim if self.variant.ffn == "gelu" else int(2 * (4 * self.dim) / 3)
        hidden = int(self.ffn_dim_multiplier * width)
        return self.multiple_of * ((hidden + self.multiple_of - 1) // self.multiple_of)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.n_heads or self.head_dim % 2:
            raise ValueError(f"dim {self.dim} must be n_heads {self.n_heads} times an even head width")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} must be a multiple of n_kv_heads {self.n_kv_heads}")
        return self


class OptimizerConfig(Record):
    """AdamW and its schedule. Llama 2 section 2.2."""

    peak_learning_rate: PositiveFloat = 3e-4
    """Highest learning rate. Llama 2 Table 1: 3e-4 for 7B and 13B."""
    beta1: Share = 0.9
    """AdamW beta1. Llama 2 section 2.2."""
    beta2: Share = 0.95
    """AdamW beta2. Llama 2 section 2.2."""
    eps: PositiveFloat = 1e-5
    """AdamW epsilon. Llama 2 section 2.2."""
    weight_decay: NaturalFloat = 0.1
    """Decoupled weight decay of matrices; norms are spared. Llama 2 section 2.2."""
    clip_norm: PositiveFloat = 1.0
    """Largest global gradient norm. Llama 2 section 2.2."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Cosine for pretraining, SFT and reward models; constant for PPO."""
    warmup_steps: Natural = 2000
    """Steps of linear warm-up. Llama 2 section 2.2."""
    final_learning_rate_share: Share = 0.1
    """Where the cosine ends, as a share of the peak. Llama 2 section 2.2."""


Precision = Literal["float32", "bfloat16"]
"""Of matrix products and activations in training; weights, gradients, moments and losses are always float32."""


class LoopConfig(Record):
    """One training run: how many updates, of how many rows, by which optimizer."""

    steps: Positive
    """Optimizer updates."""
    rows: Positive
    """Rows (sequences, or pairs for a reward model) in one update, over all processes."""
    precision: Precision = "float32"
    """Of matrix products and activations; the master weights are float32."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer and schedule."""


class MeshConfig(Record):
    """How processes share a model: replicate x shard x tensor. Those that `replicate` and `tensor` leave shard it."""

    replicate: Positive = 1
    """Copies of the model, each sharded over processes of its own: hybrid sharding, or plain data parallelism."""
    tensor: Positive = 1
    """Processes that share every matrix product (tensor parallelism); neighbours, so keep it within a machine."""
    cpu_offload: bool = False
    """Sharded weights, gradients and moments wait in CPU memory."""


class SamplingConfig(Record):
    """How responses are drawn. Defaults are the reference code's."""

    temperature: NaturalFloat = 0.6
    """Divides the logits; 0 is greedy."""
    top_p: Share = 0.9
    """Nucleus: the smallest set of tokens whose probability reaches this."""
    top_k: Positive | None = None
    """Most tokens to choose among."""
    repetition_penalty: PositiveFloat = 1.0
    """Makes tokens that stand in the prompt or the response less likely. The paper uses none, Llama-Chinese 1.3."""
    max_new_tokens: Positive = 256
    """Longest response."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end a response when they appear in it."""


class LoRAConfig(Record):
    """Low-rank adapters instead of full fine-tuning. Defaults are Llama-Chinese's."""

    rank: Positive = 8
    """Rank of the change of a weight."""
    alpha: PositiveFloat = 32.0
    """The change is scaled by alpha / rank."""
    dropout: Share = 0.05
    """Of the adapter's input, in training."""
    targets: tuple[Literal["wq", "wk", "wv", "wo", "w1", "w2", "w3", "output"], ...] = (
        "wq",
        "wk",
        "wv",
        "wo",
        "w1",
        "w2",
        "w3",
    )
    """Linear layers that get an adapter, by Meta's names."""


Bits = Literal["nf4", "int8"]
"""How base weights are kept under adapters: 4-bit normal float, or 8-bit integers."""


Grade = Literal["significantly better", "better", "slightly better", "negligibly better"]
GRADES: tuple[Grade, ...] = ("significantly better", "better", "slightly better", "negligibly better")
"""How much better annotators find the response that they choose. Llama 2 section 3.2.1."""


Margin = Literal["none", "small", "large"]


class RewardConfig(Record):
    """The reward model's loss. Llama 2 section 3.2.2."""

    margin: Margin = "large"
    """Margin m(r) by grade: large is 3, 2, 1, 0; small a third of it (Llama 2 Table 27)."""
    safety_auxiliary_weight: NaturalFloat = 0.0
    """Weight of the safety classification loss; the paper uses one for the safety model but prints no value."""


class PPOConfig(Record):
    """Proximal policy optimization against two reward models. Llama 2 section 3.2.3."""

    iterations: Positive = 200
    """Rollout-and-update rounds. Llama 2: 200 to 400."""
    batch_rows: Positive = 512
    """Responses sampled an iteration. Llama 2: 512."""
    mini_batch_rows: Positive = 64
    """Rows of one gradient step. Llama 2: 64."""
    micro_rows: Positive = 16
    """Most rows in one forward pass; rows of like length go together. Changes memory and speed only."""
    clip_range: PositiveFloat = 0.2
    """PPO clipping threshold. Llama 2: 0.2."""
    kl_coef: NaturalFloat = 0.01
    """KL penalty beta. Llama 2: 0.01 for 7B and 13B, 0.005 for 34B and 70B; where it begins with a `kl_target`."""
    kl_target: PositiveFloat | None = None
    """Move beta so that KL, in nats a response, comes here (arXiv 1909.08593 section 2.2). Llama 2: fixed."""
    kl_horizon: Positive = 10_000
    """With a `kl_target`: responses over which beta follows."""
    entropy_coef: NaturalFloat = 0.0
    """Weight of the policy's entropy in the objective. Not published."""
    unended_penalty: NaturalFloat = 0.0
    """Taken from the whitened reward of a response that was cut off before its end token. Not published."""
    safety_threshold: Share = 0.15
    """Below this safety score the safety model rules. Llama 2: 0.15."""
    logit_eps: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Scores come no nearer to 0 or 1 than this before the logit, or the surer reward model outshouts the other. Not
    published."""
    gamma: Share = 1.0
    """Discount. Not published."""
    gae_lambda: Share = 0.95
    """Generalised advantage estimation. Not published."""
    value_coef: NaturalFloat = 0.5
    """Weight of the value loss. Not published."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature of rollouts. Not published."""
    evaluate_every: Positive = 5
    """Iterations between looks at the held-out prompts, which decide when to stop. Not published."""
    patience: Positive = 3
    """Looks without a better held-out objective before stopping. Not published."""

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.batch_rows % self.mini_batch_rows:
            raise ValueError(
                f"batch_rows {self.batch_rows} is not a multiple of mini_batch_rows {self.mini_batch_rows}"
            )
        return self
