"""Float32 products on a CPU by oneDNN.

torch asks oneDNN for bfloat16, but MKL for float32, which uses AVX-512 on Intel's processors alone: on others this is
twice as fast. Everything else (other types, GPUs, autocast, weights cut by tensor parallelism, generation) goes torch's
usual way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """x W^T of x [..., width], without bias: a convolution of width 1, which torch gives to oneDNN both ways."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        plain = type(weight) is nn.Parameter and not torch.is_autocast_enabled("cpu")
        if not (plain and torch.is_grad_enabled() and in_onednn(input, weight)):
            return F.linear(input, weight)
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
