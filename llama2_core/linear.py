"""Float32 products on a CPU by oneDNN.

torch asks oneDNN for bfloat16, but MKL for float32, which uses AVX-512 on Intel's processors alone: on others this is
twice as fast. Everything else (other types, GPUs, autocast, weights cut by tensor parallelism, compiled generation,
small products) goes torch's usual way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST = 2**21
"""Multiplications of a product without gradient that is worth the 10 microseconds which a call of oneDNN costs more."""


class Linear(nn.Linear):
    """x W^T of x [..., width], without bias."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight)


def linear(input: Tensor, weight: Tensor) -> Tensor:
    """Return x W^T of x [..., K] and W [N, K]; with gradient as a convolution of width 1: oneDNN makes it both ways."""
    whole = type(weight) in (Tensor, nn.Parameter) and not torch.is_autocast_enabled("cpu")
    if not (whole and in_onednn(input, weight)):
        return F.linear(input, weight)
    if not torch.is_grad_enabled():
        small = input.numel() * len(weight) < LEAST or torch.compiler.is_compiling()
        return F.linear(input, weight) if small else product(input, weight)
    image = input.reshape(1, -1, 1, input.shape[-1]).permute(0, 3, 1, 2)  # channels last
    out = F.conv2d(image, weight[:, :, None, None])
    return out.permute(0, 2, 3, 1).reshape(*input.shape[:-1], -1)


def in_onednn(a: Tensor, b: Tensor) -> bool:
    """Return whether a product of these is one that oneDNN is to make."""
    same = a.dtype == b.dtype == torch.float32
    return a.is_cpu and same and a.numel() > 0 and torch.backends.mkldnn.is_available()


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a b^T of a [..., K] and b [N, K] of any strides, without gradient. Not to be compiled."""
    if in_onednn(a, b):
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return F.linear(a, b)
