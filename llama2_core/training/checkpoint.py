"""Models on disk: config.json, model.safetensors (or shards and their index) and tokenizer.model."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llama2_core.config import ModelConfig
from llama2_core.errors import CheckpointError
from llama2_core.interop.source import read_record
from llama2_core.model import ScalarModel, Transformer
from llama2_core.tensors import WHOLE, LazyTensor, read_safetensors
from llama2_core.tokenizer import Tokenizer
from llama2_core.training import distributed


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are not frozen, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def whole(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the parameters' values, unsharded and on the CPU; all ranks must call."""
    return {name: distributed.full(p.detach()).cpu().contiguous() for name, p in parameters.items()}


def load_weights(
    parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, LazyTensor], source: Path
) -> None:
    """Copy tensors into parameters, one at a time. Raises CheckpointError naming file and tensor that misfit."""
    for name in parameters.keys() - tensors.keys():
        raise CheckpointError(f"{source}: tensor {name} is missing")
    for name in tensors.keys() - parameters.keys():
        raise CheckpointError(f"{source}: tensor {name} is not part of this model")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if tensors[name].shape != tuple(parameter.shape):
                raise CheckpointError(
                    f"{source}: tensor {name} is {list(tensors[name].shape)}, expected {list(parameter.shape)}"
                )
            parameter.copy_(distributed.like(tensors[name].load(), parameter))


def save_model(directory: Path, model: Transformer | ScalarModel, tokenizer: Tokenizer) -> None:
    """Write a model directory; rank 0 writes, all ranks must call."""
    save_weights(directory, whole(dict(model.named_parameters())), model.config, tokenizer)


def save_weights(
    directory: Path, tensors: dict[str, Tensor], config: ModelConfig, tokenizer: Tokenizer
) -> None:
    """Write a model directory on rank 0."""
    if distributed.rank() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(tensors, directory / WHOLE)
        (directory / "tokenizer.model").write_bytes(tokenizer.model)
        (directory / "config.json").write_text(config.model_dump_json(indent=2) + "\n")


def load_config(directory: Path) -> ModelConfig:
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: missing, so {directory} is not a model directory")
    return read_record(ModelConfig, path)


def load_policy(directory: Path) -> tuple[Transformer, Tokenizer]:
    """Load a language model and its tokenizer."""
    model = Transformer(load_config(directory))
    fill_policy(model, directory)
    return model.eval(), Tokenizer.load(directory / "tokenizer.model")


def load_reward_model(directory: Path) -> tuple[ScalarModel, Tokenizer]:
    """Load a scalar model; from a language model's directory, with a zero score head (Llama 2 section 3.2.2)."""
    model = ScalarModel(load_config(directory))
    fill_reward_model(model, directory)
    return model.eval(), Tokenizer.load(directory / "tokenizer.model")


def stored(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that a model directory has, by its names: adapters are left out."""
    adapters = ("lora_a", "lora_b")
    named = {name: p for name, p in model.named_parameters() if not name.endswith(adapters)}
    return {name.replace(".base.", "."): parameter for name, parameter in named.items()}


def fill_policy(model: Transformer, directory: Path) -> None:
    """Give a language model, whole or sharded, the weights of a directory."""
    load_weights(stored(model), read_safetensors(directory), directory / WHOLE)


def fill_reward_model(model: ScalarModel, directory: Path) -> None:
    """Give a scalar model, whole or sharded, the weights of a scalar or a language model's directory."""
    parameters, tensors = stored(model), read_safetensors(directory)
    if "score.weight" not in tensors:
        tensors = {f"transformer.{name}": t for name, t in tensors.items() if name != "output.weight"}
        with torch.no_grad():
            parameters.pop("score.weight").zero_()
    load_weights(parameters, tensors, directory / WHOLE)
