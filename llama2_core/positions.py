"""Where a token stands: rotary turns (arXiv 2104.09864), stretched or not, and the absolute positions of ablations.

Shapes: B batch, T time, H heads, E head width, D dim.
"""

import torch
from torch import Tensor

from llama2_core.config import ModelConfig


def rotary_table(config: ModelConfig, length: int) -> Tensor:
    """Return cos and sin of every position and frequency, float32 [length, E / 2, 2].

    Position interpolation (arXiv 2306.15595) divides the positions. NTK raises the base so that the slowest wave is
    stretched to `length` and the fastest keeps its own; lengths that the model was made for are left alone.
    """
    theta, scaling, width = config.rope_theta, config.rope_scaling, config.head_dim
    places = torch.arange(length, dtype=torch.float32)
    if scaling and scaling.method == "linear":
        places = places / scaling.factor
    elif scaling and length > scaling.original_seq_len:
        stretch = scaling.factor * length / scaling.original_seq_len - (scaling.factor - 1)
        theta *= stretch ** (width / (width - 2))
    frequencies = theta ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.outer(places, frequencies)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def turns(table: Tensor) -> Tensor:
    """Return rows of the rotary table [B or 1, T, E / 2, 2] as factors of all heads, [B or 1, T, 1, E / 2, 2]."""
    return table.unsqueeze(-3)


def sinusoid_table(dim: int, length: int) -> Tensor:
    """Return the absolute positions of arXiv 1706.03762, sines before cosines, float32 [length, D]."""
    frequencies = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def position_table(config: ModelConfig) -> Tensor:
    """Return the table of a model's longest sequence; learned positions are weights and need none."""
    match config.variant.positions:
        case "rotary":
            return rotary_table(config, config.max_seq_len)
        case "sinusoidal":
            return sinusoid_table(config.dim, config.max_seq_len)
        case "learned":
            return torch.empty(0)


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate adjacent pairs of x [B, T, H, E], complex numbers, by rotary float32 [B or 1, T, 1, E / 2, 2]."""
    pairs = x.float().view(*x.shape[:-1], -1, 2)
    if torch.compiler.is_compiling():  # inductor has no complex numbers; eager kernels are fastest with them
        (a, b), (cos, sin) = pairs.unbind(-1), rotary.unbind(-1)
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotary))
    return turned.view(x.shape).type_as(x)
