"""Keys and values that are kept, and what the queries of one forward pass see of them.

Shapes: B rows, T tokens, K kv heads, E head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from llama2_core.config import ModelConfig


class KVCache:
    """Keys and values of every layer, [layers, B, K, capacity, E]; slot t of a row holds its position t.

    Behind a stem, a cache of one row with which all rows begin, it holds the t-th position after it.
    """

    def __init__(
        self, config: ModelConfig, rows: int, capacity: int, like: Tensor, stem: "KVCache | None" = None
    ) -> None:
        self.stem = stem
        shape = (config.n_layers, rows, config.n_kv_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = torch.zeros_like(self.keys)

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def of(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values, views [B, capacity, K, E]."""
        return self.keys[layer].transpose(1, 2), self.values[layer].transpose(1, 2)

    def at(self, positions: Tensor) -> "CacheWindow":
        """Return the window through which a forward pass of tokens at these positions [B, T] sees the cache."""
        return CacheWindow(self, positions - (self.stem.capacity if self.stem else 0))

    def replace_rows(self, rows: Tensor, other: "KVCache", other_rows: Tensor) -> None:
        """Copy rows of a shorter cache over the given rows of this one."""
        self.keys[:, rows, :, : other.capacity] = other.keys[:, other_rows]
        self.values[:, rows, :, : other.capacity] = other.values[:, other_rows]

    def keep_rows(self, rows: Tensor) -> None:
        """Drop every other row."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


def behind(stem: KVCache | None, visible: Tensor | None) -> Tensor | None:
    """Return what rows see, bool [B, 1, T, slots], with the stem before it; a single query attends to it apart."""
    if stem is None or visible is None or visible.shape[2] == 1:
        return visible
    return F.pad(visible, (stem.capacity, 0), value=True)


def joined(
    stem: KVCache | None, layer: int, queries: int, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """Return a layer's keys and values [B, slots, K, E], with the stem's before them, as `behind` has it."""
    if stem is None or queries == 1:
        return keys, values
    parts = ((stem.keys[layer], keys), (stem.values[layer], values))
    joined_keys, joined_values = (
        torch.cat([of.expand(len(own), -1, -1, -1), own.transpose(1, 2)], 2).transpose(1, 2)
        for of, own in parts
    )
    return joined_keys, joined_values


class CacheWindow:
    """What one forward pass writes to a cache, and reads of it: each position sees those up to itself."""

    def __init__(self, cache: KVCache, positions: Tensor) -> None:
        self.stem = cache.stem
        end = int(positions.max()) + 1
        self.keys, self.values = (
            of[:, :, :, :end].transpose(2, 3).unbind() for of in (cache.keys, cache.values)
        )
        self.places = torch.arange(len(positions), device=positions.device).unsqueeze(1), positions
        slots = torch.arange(end, device=positions.device)
        alone = positions.numel() == 1  # the newest position of the only row sees everything
        visible = None if alone else (slots <= positions.unsqueeze(-1)).unsqueeze(1)  # [B, 1, T, slots]
        self.visible = behind(self.stem, visible)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's keys and values [B, T, K, E]; return all of them up to the last position."""
        self.keys[layer][self.places] = keys
        self.values[layer][self.places] = values
        return joined(self.stem, layer, keys.shape[1], self.keys[layer], self.values[layer])


class TreeCache:
    """What rows see in which each token follows its ancestors: bool [B, T, T], behind a stem that all rows share.

    Nothing is kept of the rows themselves.
    """

    def __init__(self, ancestors: Tensor, stem: KVCache | None) -> None:
        self.visible, self.stem = behind(stem, ancestors.unsqueeze(1)), stem

    def at(self, positions: Tensor) -> "TreeCache":
        return self

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return joined(self.stem, layer, keys.shape[1], keys, values)


class DocumentWindow:
    """What packed rows see: each position those of its own document up to itself. `begins` is bool [B, T]."""

    stem = None

    def __init__(self, begins: Tensor) -> None:
        places, documents = torch.arange(begins.shape[1], device=begins.device), begins.cumsum(1)
        self.positions = places - (places * begins).cummax(1).values
        """In the document, [B, T]."""
        self.visible = (documents.unsqueeze(2) == documents.unsqueeze(1)).tril().unsqueeze(1)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return keys, values


Window = CacheWindow | TreeCache | DocumentWindow
