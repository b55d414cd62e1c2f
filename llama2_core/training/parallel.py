"""How a model is run, kept outside the model: tensor parallelism, checkpointing, compilation, sharding, in this order.

A model comes without memory (on torch's meta device), is arranged, and filled tensor by tensor: no process ever
holds more than its shard and one tensor.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from llama2_core.config import MeshConfig, ModelConfig, Precision
from llama2_core.errors import ConfigError
from llama2_core.model import Block, ScalarModel, Transformer
from llama2_core.training import distributed

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Said = TypeVar("Said")
COLUMNS, ROWS = ("wq", "wk", "wv", "w1", "w3"), ("wo", "w2")
"""Linear layers of a block that are cut by output and by input (Megatron, arXiv 1909.08053)."""


def data_share(mesh: MeshConfig) -> tuple[int, int]:
    """Return which part of a batch this process reads, and of how many; tensor-parallel ones read the same."""
    return distributed.rank() // mesh.tensor, distributed.world_size() // mesh.tensor


def refuse_mesh(mesh: MeshConfig, world_size: int, config: ModelConfig, adapted: bool) -> None:
    """Raise ConfigError for a mesh that the processes or the model do not fit."""
    groups = mesh.replicate * mesh.tensor
    if world_size % groups:
        raise ConfigError(
            f"mesh: replicate {mesh.replicate} x tensor {mesh.tensor} does not divide {world_size} processes"
        )
    if world_size == 1 and mesh.cpu_offload:
        raise ConfigError("mesh.cpu_offload keeps shards in CPU memory: it needs two processes or more")
    if mesh.tensor > 1 and adapted:
        raise ConfigError(
            "mesh.tensor does not cut adapters: leave it 1 with lora; weights are sharded all the same"
        )
    for name in ("n_kv_heads", "ffn_dim", "vocab_size"):
        if getattr(config, name) % mesh.tensor:
            raise ConfigError(
                f"mesh.tensor {mesh.tensor} does not divide the model's {name} {getattr(config, name)}"
            )


def arrange(
    model: nn.Module,
    mesh: MeshConfig,
    precision: Precision = "float32",
    checkpointing: bool = False,
    compiled: bool = False,
    whole: Collection[nn.Parameter] = (),
) -> nn.Module:
    """Prepare a model for training, in place; nothing of it changes what is learned, but for rounding.

    `whole` are parameters that are not sharded: another model has them too.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    grid = _grid(mesh) if distributed.world_size() > 1 else None
    if grid and mesh.tensor > 1:
        _cut(model, blocks, grid["tensor"])
    for block in blocks:
        if checkpointing:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if compiled:
            block.compile(dynamic=False)
    if grid:
        _shard(model, blocks, grid, mesh, precision, set(whole))
    return model


def autocasting(said: Callable[[Any, Any], Said], precision: Precision) -> Callable[[Any, Any], Said]:
    """Return an objective, or what else is said of a model and a batch, with products cast as they are met.

    Sharded weights come in bfloat16 already.
    """
    if precision == "float32" or distributed.world_size() > 1:
        return said

    def cast(model: Any, batch: Any) -> Said:
        with torch.autocast(distributed.device().type, torch.bfloat16):
            return said(model, batch)

    return cast


def _grid(mesh: MeshConfig) -> "DeviceMesh":
    from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415

    shards = distributed.world_size() // (mesh.replicate * mesh.tensor)
    names = ("replicate", "shard", "tensor")
    shape = (mesh.replicate, shards, mesh.tensor)
    return init_device_mesh(distributed.device().type, shape, mesh_dim_names=names)


def _cut(model: nn.Module, blocks: list[Block], group: "DeviceMesh") -> None:
    from torch.distributed.tensor import Replicate  # noqa: PLC0415
    from torch.distributed.tensor.parallel import (  # noqa: PLC0415
        ColwiseParallel,
        ParallelStyle,
        RowwiseParallel,
        parallelize_module,
    )

    plan: dict[str, ParallelStyle] = {f"*.{name}": ColwiseParallel() for name in COLUMNS}
    plan |= {f"*.{name}": RowwiseParallel() for name in ROWS}
    for block in blocks:
        parallelize_module(block, group, plan)
    trunk = model.transformer if isinstance(model, ScalarModel) else model
    assert isinstance(trunk, Transformer)
    ends: dict[str, ParallelStyle] = {
        "tok_embeddings": RowwiseParallel(input_layouts=Replicate()),
        "output": ColwiseParallel(output_layouts=Replicate()),
    }
    parallelize_module(trunk, group, ends)
    if trunk.config.tied_embeddings:
        trunk.output.weight = trunk.tok_embeddings.weight


def _shard(
    model: nn.Module,
    blocks: list[Block],
    grid: "DeviceMesh",
    mesh: MeshConfig,
    precision: Precision,
    whole: set[nn.Parameter],
) -> None:
    """FSDP2, a block at a time. Weights are gathered in the precision, gradients summed in float32."""
    from torch.distributed.fsdp import (  # noqa: PLC0415
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    dtype = torch.bfloat16 if precision == "bfloat16" else None
    options = {
        "mesh": grid["replicate", "shard"] if mesh.replicate > 1 else grid["shard"],
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        ),
        "offload_policy": CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
        if mesh.cpu_offload
        else OffloadPolicy(),
        "ignored_params": whole,
    }
    for block in blocks:
        fully_shard(block, **options)
    fully_shard(model, **options)
    if isinstance(model, Transformer):
        register_fsdp_forward_method(model, "hidden")
