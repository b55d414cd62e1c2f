"""A model opened from any format: its shape, its tokenizer, and its tensors under Meta's names, still on disk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError

from llama2_core.config import ModelConfig
from llama2_core.errors import CheckpointError
from llama2_core.model import Transformer
from llama2_core.tensors import LazyTensor, read_json
from llama2_core.tokenizer import Tokenizer

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class OpenModel:
    """What every reader returns and every writer takes; tensors in the order of the Transformer's parameters."""

    config: ModelConfig
    tokenizer: Tokenizer
    tensors: Mapping[str, LazyTensor]

    @property
    def dtype(self) -> torch.dtype:
        """That of the embeddings: norms may be kept wider."""
        return self.tensors["tok_embeddings.weight"].dtype

    @property
    def file(self) -> Path:
        """The first of its files, to name it by."""
        return self.tensors["tok_embeddings.weight"].file


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter, a tied one once, under its first name."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in Transformer(config).named_parameters()}


def checked(
    config: ModelConfig,
    tokenizer: Tokenizer,
    tensors: Mapping[str, LazyTensor],
    source: Path,
    their_name: Callable[[str], str] = str,
) -> OpenModel:
    """Return the model when its parts fit each other; `source` is the tokenizer's file.

    Raises CheckpointError naming the file, the tensor as it is called there, what was expected and what was found.
    """
    expected = shapes(config)
    files = sorted({str(tensor.file) for tensor in tensors.values()}) or [str(source)]
    for name in [name for name in tensors if name not in expected]:
        raise CheckpointError(
            f"{tensors[name].file}: tensor {name} is not part of a Llama 2 language model; "
            "convert a model without it"
        )
    for name in [name for name in expected if name not in tensors]:
        raise CheckpointError(
            f"{' to '.join(dict.fromkeys((files[0], files[-1])))}: tensor {their_name(name)} "
            f"{list(expected[name])} is missing; restore it"
        )
    rows, file = tensors["tok_embeddings.weight"].shape[0], tensors["tok_embeddings.weight"].file
    if rows != tokenizer.vocab_size:
        raise CheckpointError(
            f"{file}: tensor {their_name('tok_embeddings.weight')} has {rows} rows, expected "
            f"{tokenizer.vocab_size}, the pieces of {source}: put the tokenizer of this model there"
        )
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{tensors[name].file}: tensor {their_name(name)} is {list(tensors[name].shape)}, expected "
                f"{list(shape)} by the model's configuration; take both from one model"
            )
    return OpenModel(config, tokenizer, {name: tensors[name] for name in expected})


def renamed(name: str, names: Mapping[str, str], blocks: str) -> str:
    """Return another format's name of a tensor, given Meta's, by its names of modules and of the list of blocks."""
    module = name.removesuffix(".weight")
    if not module.startswith("layers."):
        return f"{names[module]}.weight"
    _, layer, rest = module.split(".", 2)
    return f"{blocks}.{layer}.{names[rest]}.weight"


def read_record(kind: type[Model], path: Path) -> Model:
    """Read a JSON file as a record; raises CheckpointError as `validated` does."""
    return validated(kind, read_json(path), path)


def validated(kind: type[Model], content: Mapping[str, Any], path: Path) -> Model:
    """Return content as a record. Raises CheckpointError naming the file, its field and what is wrong there."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[:3]  # a tokenizer can have thousands
        problems = [": ".join((".".join(map(str, e["loc"])), e["msg"])).lstrip(": ") for e in first]
        raise CheckpointError(f"{path}: {'; '.join(problems)}") from error


def with_ffn(config: ModelConfig, ffn_dim: int) -> ModelConfig:
    """Return the config with a rule that gives this FFN width; Llama 2's own two rules are tried first."""
    rules = [(256, 1.0), (4096, 1.3), *((2**power, 1.0) for power in reversed(range(13)))]
    rules.append((1, (ffn_dim + 0.5) / int(8 * config.dim / 3)))
    for multiple_of, multiplier in rules:
        update = {"multiple_of": multiple_of, "ffn_dim_multiplier": multiplier}
        if (found := config.model_copy(update=update)).ffn_dim == ffn_dim:
            return found
    raise CheckpointError(f"no FFN rule gives a width of {ffn_dim} at dim {config.dim}")
