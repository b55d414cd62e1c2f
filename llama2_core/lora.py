"""Low-rank adapters (arXiv 2106.09685): W x + (alpha / r) B A x, where only A and B are trained.

An adapter is kept in PEFT's format, see `interop/peft.py`. Shapes: I in, O out, R rank.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama2_core.config import LoRAConfig
from llama2_core.errors import ConfigError
from llama2_core.model import Transformer
from llama2_core.training import checkpoint, distributed


class LoRALinear(nn.Module):
    """A frozen linear layer with an adapter beside it. A is drawn as nn.Linear's weights are, B starts at zero."""

    def __init__(self, base: nn.Linear, config: LoRAConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        self.scale = config.alpha / config.rank
        self.dropout = nn.Dropout(config.dropout)
        parts = first_weights(base, config.rank, generator)
        self.lora_a, self.lora_b = (nn.Parameter(part.to(base.weight.device)) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(self.dropout(x).type_as(self.lora_a), self.lora_a)
        return self.base(x) + (self.scale * F.linear(low, self.lora_b)).type_as(x)


def first_weights(base: nn.Linear, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return A [R, I] and B [O, R] of a new adapter, on the CPU."""
    bound = 1 / math.sqrt(base.in_features)
    a = torch.empty(rank, base.in_features, device="cpu").uniform_(-bound, bound, generator=generator)
    return a, torch.zeros(base.out_features, rank, device="cpu")


def add_adapters(model: Transformer, config: LoRAConfig, generator: torch.Generator) -> None:
    """Freeze the model and put an adapter on each linear layer that `config.targets` names.

    Raises ConfigError when a target names no layer, or an output layer whose weight is the embeddings'.
    """
    if "output" in config.targets and model.config.tied_embeddings:
        raise ConfigError(
            "lora.targets: 'output' shares its weight with the embeddings in this model (tied_embeddings), "
            "which an adapter cannot change: leave it out"
        )
    model.requires_grad_(False)
    for target in config.targets:
        parents = [
            module for module in model.modules() if isinstance(getattr(module, target, None), nn.Linear)
        ]
        if not parents:
            raise ConfigError(f"lora.targets: the model has no linear layer {target!r}")
        for parent in parents:
            setattr(parent, target, LoRALinear(getattr(parent, target), config, generator))


@torch.no_grad()
def fill_adapted(
    model: nn.Module, fill: Callable[[Any], None], config: LoRAConfig, generator: torch.Generator
) -> None:
    """Fill an adapted model, whole or sharded, and give it the adapters that `add_adapters` draws."""
    fill(model)
    for target in config.targets:
        for name, layer in model.named_modules():
            if isinstance(layer, LoRALinear) and name.split(".")[-1] == target:
                values = first_weights(layer.base, config.rank, generator)
                for parameter, value in zip((layer.lora_a, layer.lora_b), values, strict=True):
                    parameter.copy_(distributed.like(value, parameter))


def adapter_weights(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A [R, I] and B [O, R] of every adapter, by the name of the weight that they change; all ranks call."""
    tensors = checkpoint.whole(checkpoint.trained(model))
    return {
        f"{name}.weight": (tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"])
        for name, module in model.named_modules()
        if isinstance(module, LoRALinear)
    }


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return all weights on the CPU with the adapters merged in, named as without them; all ranks must call."""
    tensors = checkpoint.whole(dict(model.named_parameters()))
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            base, a, b = (tensors.pop(f"{name}.{part}") for part in ("base.weight", "lora_a", "lora_b"))
            tensors[f"{name}.weight"] = base + module.scale * b @ a
    return tensors
