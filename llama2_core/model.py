"""The Llama 2 Transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU. Llama 2 section 2.2.

Parameter names are Meta's. Shapes: B batch, T time, D dim, H query heads, K kv heads, E head width, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama2_core.config import ModelConfig


class RMSNorm(nn.Module):
    """x / rms(x), computed in float32, then scaled by a weight."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).type_as(x) * self.weight


def rotary_table(head_dim: int, length: int, theta: float) -> Tensor:
    """Return cos and sin of every position and frequency, float32 [length, head_dim / 2, 2]."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate adjacent pairs of x [B, T, H, E] by rotary [B or 1, T, E / 2, 2], in float32."""
    pairs = x.float().unflatten(-1, (-1, 2))
    cos, sin = rotary.unsqueeze(2).unbind(-1)
    even, odd = pairs.unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).type_as(x)


class KVCache:
    """Keys and values of every layer, [layers, B, capacity, K, E]; slot t of a row holds its position t."""

    def __init__(self, config: ModelConfig, rows: int, capacity: int, like: Tensor) -> None:
        shape = (config.n_layers, rows, capacity, config.n_kv_heads, config.head_dim)
        self.keys = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = torch.zeros_like(self.keys)

    def extend(self, layer: int, positions: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values [B, T, K, E] at positions [B, T]; return the layer's up to the last position."""
        rows = torch.arange(len(positions), device=positions.device).unsqueeze(1)
        self.keys[layer, rows, positions] = keys
        self.values[layer, rows, positions] = values
        end = int(positions.max()) + 1
        return self.keys[layer, :, :end], self.values[layer, :, :end]

    def replace_rows(self, rows: Tensor, other: "KVCache", other_rows: Tensor) -> None:
        """Copy rows of a shorter cache over the given rows of this one."""
        capacity = other.keys.shape[2]
        self.keys[:, rows, :capacity] = other.keys[:, other_rows]
        self.values[:, rows, :capacity] = other.values[:, other_rows]


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.wq = nn.Linear(config.dim, config.n_heads * config.head_dim, bias=False)
        self.wk = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wv = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wo = nn.Linear(config.n_heads * config.head_dim, config.dim, bias=False)

    def forward(
        self, x: Tensor, rotary: Tensor, cache: KVCache | None, layer: int, positions: Tensor | None
    ) -> Tensor:
        q = rotate(self.wq(x).unflatten(-1, (self.n_heads, self.head_dim)), rotary)
        k = rotate(self.wk(x).unflatten(-1, (self.n_kv_heads, self.head_dim)), rotary)
        v = self.wv(x).unflatten(-1, (self.n_kv_heads, self.head_dim))
        visible = None
        if cache is not None and positions is not None:
            k, v = cache.extend(layer, positions, k, v)
            slots = torch.arange(k.shape[1], device=x.device)
            visible = (slots <= positions.unsqueeze(-1)).unsqueeze(1)  # [B, 1, T, slots]
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=visible,
            is_causal=visible is None,
            enable_gqa=self.n_heads != self.n_kv_heads,
        )
        return self.wo(out.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_dim, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(
        self, x: Tensor, rotary: Tensor, cache: KVCache | None, layer: int, positions: Tensor | None
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotary, cache, layer, positions)
        return x + self.feed_forward(self.ffn_norm(x))


class Transformer(nn.Module):
    """Tokens [B, T] to logits [B, T, V]; `hidden` stops before the output layer."""

    rotary: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.tied_embeddings:
            self.output.weight = self.tok_embeddings.weight
        table = rotary_table(config.head_dim, config.max_seq_len, config.rope_theta)
        self.register_buffer("rotary", table, persistent=False)

    def hidden(self, tokens: Tensor, cache: KVCache | None = None, positions: Tensor | None = None) -> Tensor:
        """Return the final normed states [B, T, D] of tokens [B, T].

        Without a cache the rows start at position 0. With one, `positions` [B, T] says where each token stands
        in its row, and every earlier position of the row must be in the cache.
        """
        rotary = self.rotary[: tokens.shape[1]].unsqueeze(0) if positions is None else self.rotary[positions]
        x = self.tok_embeddings(tokens)
        for layer, block in enumerate(self.layers):
            x = block(x, rotary, cache, layer, positions)
        return self.norm(x)

    def forward(
        self, tokens: Tensor, cache: KVCache | None = None, positions: Tensor | None = None
    ) -> Tensor:
        return self.output(self.hidden(tokens, cache, positions)).float()


class ScalarModel(nn.Module):
    """A Transformer whose language head is swapped for one number a position: a reward or value model.

    Llama 2 section 3.2.2. Tokens [B, T] to scores float32 [B, T].
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.transformer = Transformer(config.model_copy(update={"tied_embeddings": True}))
        self.score = nn.Linear(config.dim, 1, bias=False)

    @property
    def config(self) -> ModelConfig:
        return self.transformer.config

    def forward(self, tokens: Tensor) -> Tensor:
        return self.score(self.transformer.hidden(tokens)).squeeze(-1).float()


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig, generator: torch.Generator) -> None:
    """Fill the weights in place. The paper prints no scheme; this is GPT-2's, as in llama2.c.

    | tensor                              | distribution                  |
    |-------------------------------------|-------------------------------|
    | norm weights                        | 1                             |
    | wo, w2 (outputs to the residual)    | N(0, 0.02 / sqrt(2 n_layers)) |
    | every other matrix                  | N(0, 0.02)                    |
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            residual = name.endswith(("wo.weight", "w2.weight"))
            std = 0.02 / math.sqrt(2 * config.n_layers) if residual else 0.02
            parameter.normal_(0.0, std, generator=generator)
