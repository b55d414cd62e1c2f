"""Distribution, kept outside the model: one process, or torchrun's many with FSDP2.

Sharding is imported where it is needed: it takes a second, and a single process needs none of it.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llama2_core.model import Block


def start(timeout_seconds: float = 600.0) -> None:
    """Join the process group when torchrun started us: gloo on CPU, NCCL on GPU."""
    if "RANK" in os.environ and not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))


def stop() -> None:
    """Leave the process group together; a rank that left early makes the others abort at exit."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_across_ranks(values: Tensor) -> Tensor:
    """Return values summed over ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def shard(model: nn.Module) -> nn.Module:
    """Shard parameters, gradients and optimizer state over ranks, a block at a time (FSDP2); one rank: nothing."""
    if world_size() > 1:
        from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

        for module in model.modules():
            if isinstance(module, Block):
                fully_shard(module)
        fully_shard(model)
    return model


def full(tensor: Tensor) -> Tensor:
    """Return the whole of a possibly sharded tensor; every rank must call."""
    if world_size() > 1:
        from torch.distributed.tensor import DTensor  # noqa: PLC0415

        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor


def like(value: Tensor, target: Tensor) -> Tensor:
    """Lay out a whole tensor as the target is: same device, same sharding."""
    value = value.to(target.device, target.dtype)
    if world_size() > 1:
        from torch.distributed.tensor import DTensor, distribute_tensor  # noqa: PLC0415

        if isinstance(target, DTensor):
            return distribute_tensor(value, target.device_mesh, target.placements)
    return value
