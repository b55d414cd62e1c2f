"""Checkpoints: safetensors and one JSON. A checkpoint is whole or it is not there.

A model directory holds config.json, model.safetensors (or shards and their index) and tokenizer.model. A training
checkpoint adds the optimizer's moments, the step, and the global random state; it is written beside and renamed
into place.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llama2_core.config import ModelConfig
from llama2_core.errors import CheckpointError
from llama2_core.interop.source import read_record
from llama2_core.model import ScalarModel, Transformer
from llama2_core.tensors import WHOLE, read_safetensors
from llama2_core.tokenizer import Tokenizer
from llama2_core.training import distributed
from llama2_core.training.loop import TrainState

KEPT = 2
"""Training checkpoints kept: the newest may be torn by a dying disk."""


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are not frozen, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def whole(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the parameters' values, unsharded and on the CPU; all ranks must call."""
    return {name: distributed.full(p.detach()).cpu().contiguous() for name, p in parameters.items()}


def load_weights(parameters: Mapping[str, nn.Parameter], tensors: dict[str, Tensor], source: Path) -> None:
    """Copy tensors into parameters. Raises CheckpointError naming tensor and file when one does not fit."""
    for name in parameters.keys() - tensors.keys():
        raise CheckpointError(f"{source}: tensor {name} is missing")
    for name in tensors.keys() - parameters.keys():
        raise CheckpointError(f"{source}: tensor {name} is not part of this model")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if tensors[name].shape != parameter.shape:
                raise CheckpointError(
                    f"{source}: tensor {name} is {list(tensors[name].shape)}, expected {list(parameter.shape)}"
                )
            parameter.copy_(distributed.like(tensors[name], parameter))


def save_model(directory: Path, model: Transformer | ScalarModel, tokenizer: Tokenizer) -> None:
    """Write a model directory; rank 0 writes, all ranks must call."""
    tensors = whole(dict(model.named_parameters()))
    if distributed.rank() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(tensors, directory / WHOLE)
        (directory / "tokenizer.model").write_bytes(tokenizer.model)
        (directory / "config.json").write_text(model.config.model_dump_json(indent=2) + "\n")


def load_config(directory: Path) -> ModelConfig:
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: missing, so {directory} is not a model directory")
    return read_record(ModelConfig, path)


def load_policy(directory: Path) -> tuple[Transformer, Tokenizer]:
    """Load a language model and its tokenizer."""
    model = Transformer(load_config(directory))
    load_weights(dict(model.named_parameters()), _read(directory), directory / WHOLE)
    return model.eval(), Tokenizer.load(directory / "tokenizer.model")


def load_reward_model(directory: Path) -> tuple[ScalarModel, Tokenizer]:
    """Load a scalar model; from a language model's directory, with a zero score head (Llama 2 section 3.2.2)."""
    model = ScalarModel(load_config(directory))
    tensors = _read(directory)
    if "score.weight" not in tensors:
        tensors = {f"transformer.{name}": t for name, t in tensors.items() if name != "output.weight"}
        tensors["score.weight"] = torch.zeros_like(model.score.weight)
    load_weights(dict(model.named_parameters()), tensors, directory / WHOLE)
    return model.eval(), Tokenizer.load(directory / "tokenizer.model")


def save_checkpoint(root: Path, state: TrainState) -> None:
    """Write root/step-N by rename and drop all but the newest; frozen weights are left out. All ranks must call."""
    parameters = trained(state.model)
    tensors = {f"model|{name}": tensor for name, tensor in whole(parameters).items()}
    for name, parameter in parameters.items():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer|{name}|{key}"] = distributed.full(value).cpu().contiguous()
    tensors["random"] = torch.get_rng_state()
    if distributed.rank() == 0:
        partial, final = root / ".partial", root / f"step-{state.step:08d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(tensors, partial / "state.safetensors")
        (partial / "state.json").write_text(json.dumps({"step": state.step}))
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in checkpoints(root)[:-KEPT]:
            shutil.rmtree(old)


def checkpoints(root: Path) -> list[Path]:
    """Return the complete checkpoints below root, oldest first."""
    return sorted(root.glob("step-*"))


def resume(root: Path, state: TrainState) -> bool:
    """Load the newest readable checkpoint below root into the state; False when there is none."""
    for path in reversed(checkpoints(root)):
        try:
            tensors = load_file(path / "state.safetensors")
            step = json.loads((path / "state.json").read_text())["step"]
        except (OSError, ValueError, KeyError, SafetensorError):
            continue
        model = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model|")}
        load_weights(trained(state.model), model, path / "state.safetensors")
        _load_optimizer(state, tensors)
        torch.set_rng_state(tensors["random"])
        state.step = step
        return True
    return False


def _load_optimizer(state: TrainState, tensors: dict[str, Tensor]) -> None:
    for name, parameter in trained(state.model).items():
        prefix = f"optimizer|{name}|"
        loaded = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        if loaded:
            state.optimizer.state[parameter] = {
                key: distributed.like(value, parameter) if value.shape == parameter.shape else value
                for key, value in loaded.items()
            }


def _read(directory: Path) -> dict[str, Tensor]:
    return {name: tensor.load() for name, tensor in read_safetensors(directory).items()}
