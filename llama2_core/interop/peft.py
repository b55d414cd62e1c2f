"""Adapters in PEFT's format: adapter_config.json and adapter_model.safetensors, under transformers' names.

The rows of B on wq and wk are permuted as those of the weights themselves are. Older adapters are pickles, which are
read too, without running code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save_file
from torch import Tensor

from llama2_core.config import LoRAConfig, ModelConfig
from llama2_core.errors import CheckpointError
from llama2_core.interop.huggingface import NAMES, halves, neighbours, rotary, their_name
from llama2_core.interop.source import OpenModel, read_record
from llama2_core.tensors import LazyTensor, open_pickle, open_safetensors, write_json

PREFIX = "base_model.model."
FILE, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
MODULES = {ours.rpartition(".")[2]: theirs.rpartition(".")[2] for ours, theirs in NAMES.items()}
"""Our name of a linear layer -> transformers'."""


class Config(BaseModel):
    """The fields of adapter_config.json that change what the adapter does; other kinds are refused."""

    model_config = ConfigDict(frozen=True)

    peft_type: Literal["LORA"]
    r: int
    lora_alpha: float
    use_rslora: Literal[False] = False
    use_dora: Literal[False] = False
    bias: Literal["none"] = "none"
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    modules_to_save: list[str] | None = None


def write_adapter(
    directory: Path, adapter: Mapping[str, tuple[Tensor, Tensor]], lora: LoRAConfig, config: ModelConfig
) -> None:
    """Write an adapter, A [R, I] and B [O, R] by Meta's name of the weight, as `PeftModel.from_pretrained` reads it."""
    directory.mkdir(parents=True, exist_ok=True)
    change = halves(config)
    tensors = {}
    for name, (a, b) in adapter.items():
        module = PREFIX + their_name(name).removesuffix(".weight")
        tensors[f"{module}.lora_A.weight"] = a.contiguous()
        tensors[f"{module}.lora_B.weight"] = (change(b) if rotary(name) else b).contiguous()
    save_file(tensors, directory / FILE, metadata={"format": "pt"})
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": [MODULES[target] for target in lora.targets],
        "bias": "none",
        "inference_mode": True,
    }
    write_json(directory / "adapter_config.json", fields)


def with_adapter(model: OpenModel, directory: Path) -> OpenModel:
    """Return the model with an adapter merged into each weight as it is loaded; chain calls to merge several.

    Raises CheckpointError naming the file and what in it does not fit the model.
    """
    old = (directory / PICKLE).is_file() and not (directory / FILE).is_file()
    path = directory / (PICKLE if old else FILE)
    config = read_record(Config, directory / "adapter_config.json")
    if config.rank_pattern or config.alpha_pattern or config.modules_to_save:
        raise CheckpointError(
            f"{directory / 'adapter_config.json'}: only one rank for all layers is supported"
        )
    parts = open_pickle(path) if old else open_safetensors(path)
    tensors = dict(model.tensors)
    for name, tensor in model.tensors.items():
        module = PREFIX + their_name(name).removesuffix(".weight")
        found = [parts.pop(f"{module}.lora_{side}.weight", None) for side in "AB"]
        if found == [None, None]:
            continue
        a, b = found
        shapes = [part and part.shape for part in found]
        if a is None or b is None or shapes != [(config.r, tensor.shape[1]), (tensor.shape[0], config.r)]:
            raise CheckpointError(
                f"{path}: the adapter of {name} has A and B of {shapes}, expected "
                f"{[(config.r, tensor.shape[1]), (tensor.shape[0], config.r)]}"
            )
        tensors[name] = _merged(name, tensor, a, b, config.lora_alpha / config.r, model.config)
    if parts:
        raise CheckpointError(f"{path}: tensor {next(iter(parts))} belongs to no layer of this model")
    return OpenModel(model.config, model.tokenizer, tensors)


def _merged(
    name: str, tensor: LazyTensor, a: LazyTensor, b: LazyTensor, scale: float, config: ModelConfig
) -> LazyTensor:
    change = neighbours(config) if rotary(name) else lambda rows: rows

    def merge(weight: Tensor) -> Tensor:
        with torch.no_grad():
            return (weight.float() + scale * change(b.load().float()) @ a.load().float()).to(weight.dtype)

    return tensor.through(merge)
