"""The Llama 2 Transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU. Llama 2 section 2.2.

Parameter names are Meta's. Shapes: B batch, T time, D dim, H query heads, K kv heads, E head width, V vocabulary.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama2_core import blocked_attention
from llama2_core.blocked_attention import BlockedAttention
from llama2_core.cache import DocumentWindow, KVCache, TreeCache, Window
from llama2_core.config import ModelConfig
from llama2_core.footprint import NARROW
from llama2_core.linear import Linear
from llama2_core.positions import position_table, rotary_table, rotate, turns
from llama2_core.shared_attention import attend_behind


def make_norm(config: ModelConfig) -> nn.Module:
    if config.variant.norm == "layer":
        return nn.LayerNorm(config.dim, config.norm_eps, bias=False)
    return RMSNorm(config.dim, config.norm_eps)


def make_dropout(config: ModelConfig) -> nn.Module:
    return nn.Dropout(config.variant.dropout) if config.variant.dropout else nn.Identity()


class RMSNorm(nn.Module):
    """x / rms(x), scaled by a weight; computed in float32, rounded once."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rounded(x: Tensor) -> Tensor:
    """Round once to autocast's type what several matrices are multiplied with: autocast would do it for each."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def attend(q: Tensor, k: Tensor, v: Tensor, window: Window | None, dropout: float) -> Tensor:
    """Return the values [B, T, H, E] that queries [B, T, H, E] see by keys and values [B, slots, K, E]."""
    if q.is_cpu and torch.is_autocast_enabled("cpu") and q.shape[-1] < NARROW:
        with torch.autocast("cpu", enabled=False):
            return attend(q.float(), k.float(), v.float(), window, dropout).type_as(v)
    if window is None and not dropout and blocked_attention.is_for(q, k):
        return BlockedAttention.apply(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)  # type: ignore
    return F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=window.visible if window else None,
        dropout_p=dropout,
        is_causal=window is None,
        enable_gqa=q.shape[2] != k.shape[2],
    ).transpose(1, 2)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.dropout = config.variant.dropout
        self.wq = Linear(config.dim, config.n_heads * config.head_dim)
        self.wk = Linear(config.dim, config.n_kv_heads * config.head_dim)
        self.wv = Linear(config.dim, config.n_kv_heads * config.head_dim)
        self.wo = Linear(config.n_heads * config.head_dim, config.dim)

    def forward(self, x: Tensor, rotary: Tensor | None, window: Window | None, layer: int) -> Tensor:
        rows, length, _ = x.shape
        x = rounded(x)
        q, k, v = (
            project(x).view(rows, length, -1, self.head_dim) for project in (self.wq, self.wk, self.wv)
        )
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        if window:
            k, v = window.extend(layer, k, v)
        if length == 1 and window and (stem := window.stem):
            out = attend_behind(q, k, v, window.visible, *stem.of(layer))
        else:
            out = attend(q, k, v, window, self.dropout if self.training else 0.0)
        return self.wo(out.reshape(rows, length, -1))


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x). The GELU variant has no gate: w2(gelu(w1 x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = Linear(config.dim, config.ffn_dim)
        self.w2 = Linear(config.ffn_dim, config.dim)
        self.w3 = Linear(config.dim, config.ffn_dim) if config.variant.ffn == "swiglu" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.w3 is None:
            return self.w2(F.gelu(self.w1(x)))
        x = rounded(x)
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = make_norm(config)
        self.ffn_norm = make_norm(config)
        self.dropout = make_dropout(config)

    def forward(self, x: Tensor, rotary: Tensor | None, window: Window | None, layer: int) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, window, layer))
        return x + self.dropout(self.feed_forward(self.ffn_norm(x)))


class Transformer(nn.Module):
    """Tokens [B, T] to logits [B, T, V], or [N, V] of N places; `hidden` stops before the output layer."""

    table: Tensor
    """Of rotary or sinusoidal positions up to the longest sequence."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        if config.variant.positions == "learned":
            self.pos_embeddings = nn.Embedding(config.max_seq_len, config.dim)
        self.register_buffer("table", position_table(config), persistent=False)
        self.dropout = make_dropout(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = make_norm(config)
        self.output = Linear(config.dim, config.vocab_size)
        if config.tied_embeddings:
            self.output.weight = self.tok_embeddings.weight

    def _apply(self, fn, recurse=True):
        """Move the table with the weights, but keep it float32: bfloat16 cannot tell far positions apart.

        It is in no file, so it is made when a model on the meta device gets memory; tied weights stay one.
        """
        table = self.table
        super()._apply(fn, recurse)
        if not self.table.is_meta:
            made = position_table(self.config) if table.is_meta else table
            self.table = made.to(self.table.device)
        if self.config.tied_embeddings:
            self.output.weight = self.tok_embeddings.weight
        return self

    def hidden(
        self,
        tokens: Tensor,
        cache: KVCache | TreeCache | None = None,
        positions: Tensor | None = None,
        begins: Tensor | None = None,
    ) -> Tensor:
        """Return the final normed states [B, T, D] of tokens [B, T].

        Without a cache the rows start at position 0. With one, `positions` [B, T] says where each token stands
        in its row, and every earlier position of the row must be in the cache. With `begins`, bool [B, T], each
        document of a packed row starts at position 0 and sees nothing of the others.
        """
        window: Window | None = cache.at(positions) if cache and positions is not None else None
        if begins is not None:
            window = DocumentWindow(begins)
            positions = window.positions
        x, rotary = self.embed(tokens, positions)
        for layer, block in enumerate(self.layers):
            x = block(x, rotary, window, layer if cache else 0)  # else each layer is compiled anew
        return self.norm(x)

    def embed(self, tokens: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the first states [B, T, D], and the turns of the heads when positions rotate."""
        x, rotary, length = self.tok_embeddings(tokens), None, tokens.shape[1]
        places = torch.arange(length, device=tokens.device)[None] if positions is None else positions
        match self.config.variant.positions:
            case "rotary" if positions is None:
                rotary = turns(self._table_for(length)[None, :length])
            case "rotary":
                rotary = turns(self.table[positions])
            case "sinusoidal":
                x = x + self.table[places].type_as(x)
            case "learned":
                x = x + self.pos_embeddings(places)
        return self.dropout(x), rotary

    def _table_for(self, length: int) -> Tensor:
        """NTK's base follows the length of the call. A cache holds rotated keys: there it stays the longest's."""
        scaling = self.config.rope_scaling
        if scaling and scaling.method == "ntk":
            return rotary_table(self.config, length).to(self.table.device)
        return self.table

    def forward(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        positions: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Return float32 logits everywhere, or at the places alone that a bool [B, T] marks."""
        states = self.hidden(tokens, cache, positions)
        return self.output(states if places is None else states[places]).float()


class ScalarModel(nn.Module):
    """A Transformer whose language head is swapped for one number a position: a reward or value model.

    Llama 2 section 3.2.2. Tokens [B, T] to scores float32 [B, T], or [B] at the last token of each row, int64 [B].
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.transformer = Transformer(config.model_copy(update={"tied_embeddings": True}))
        self.score = Linear(config.dim, 1)

    @property
    def config(self) -> ModelConfig:
        return self.transformer.config

    def forward(self, tokens: Tensor, last: Tensor | None = None) -> Tensor:
        hidden = self.transformer.hidden(tokens)
        if last is not None:
            hidden = hidden[torch.arange(len(last), device=last.device), last]
        return self.score(hidden).squeeze(-1).float()


def initial_weights(
    model: nn.Module, config: ModelConfig, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """Yield a value for every parameter. The paper prints no scheme; this is GPT-2's, as in llama2.c.

    | tensor                              | distribution                  |
    |-------------------------------------|-------------------------------|
    | norm weights                        | 1                             |
    | wo, w2 (outputs to the residual)    | N(0, 0.02 / sqrt(2 n_layers)) |
    | every other matrix                  | N(0, 0.02)                    |
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            yield name, torch.ones(parameter.shape)
        else:
            residual = name.endswith(("wo.weight", "w2.weight"))
            std = 0.02 / math.sqrt(2 * config.n_layers) if residual else 0.02
            yield name, torch.empty(parameter.shape).normal_(0.0, std, generator=generator)


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig, generator: torch.Generator) -> None:
    """Fill the weights in place with `initial_weights`."""
    parameters = dict(model.named_parameters())
    for name, value in initial_weights(model, config, generator):
        parameters[name].copy_(value)
