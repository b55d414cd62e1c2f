"""Processes: one, or torchrun's many. Everything here is right in both cases.

Sharded tensors are imported where they are met: that takes a second, and a single process needs none of it.
"""

import os
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore

Said = TypeVar("Said")
COLLECTIVE_SLACK = 1.1
"""The watchdog, which shows stacks, is to speak before the process group does."""


def start(silence_seconds: float = 600.0) -> None:
    """Join the process group when torchrun started us: gloo on CPU, NCCL beside it on GPU."""
    if "RANK" in os.environ and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(device())
        timeout = timedelta(seconds=silence_seconds * COLLECTIVE_SLACK)
        dist.init_process_group(backend, timeout=timeout, **_meeting())


def _meeting() -> dict[str, Any]:
    """Return where ranks find each other: in a file when we are told of one, else in torchrun's store."""
    file = os.environ.get("RENDEZVOUS_FILE")
    if not file:
        return {}
    ranks = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    return {"store": FileStore(file, ranks["world_size"]), **ranks}


def stop() -> None:
    """Leave the process group together; a rank that left early makes the others abort at exit."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """Return the GPU that torchrun meant for this process, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def sum_across_ranks(values: Tensor) -> Tensor:
    """Return values summed over ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def any_rank(flag: bool) -> bool:
    """Return whether the flag is set on any rank; all must call."""
    return bool(sum_across_ranks(torch.tensor(int(flag)))) if world_size() > 1 else flag


def from_rank_zero(value: Said) -> Said:
    """Return what rank 0 says; all must call."""
    if world_size() == 1:
        return value
    said = [value]
    dist.broadcast_object_list(said, device=torch.device("cpu"))
    return said[0]


def from_all_ranks(value: Said) -> list[Said]:
    """Return what every rank says, in their order; all must call."""
    if world_size() == 1:
        return [value]
    said: list[Any] = [None] * world_size()
    dist.all_gather_object(said, value)
    return said


def reshard(model: nn.Module) -> None:
    """Free what a forward pass without a backward one left gathered: the parameters outside the blocks."""
    if world_size() > 1:
        from torch.distributed.fsdp import FSDPModule  # noqa: PLC0415

        if isinstance(model, FSDPModule):
            model.reshard()


def full(tensor: Tensor) -> Tensor:
    """Return the whole of a possibly sharded tensor; every rank must call."""
    if world_size() > 1:
        from torch.distributed.tensor import DTensor  # noqa: PLC0415

        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor


def like(value: Tensor, target: Tensor) -> Tensor:
    """Lay out a whole tensor, the same on every rank, as the target is: same device, same sharding."""
    value = value.to(target.device, target.dtype)
    if world_size() > 1:
        from torch.distributed.tensor import DTensor, distribute_tensor  # noqa: PLC0415

        if isinstance(target, DTensor):
            return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    return value
