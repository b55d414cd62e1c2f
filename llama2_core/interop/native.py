"""Our own model directory: config.json, model.safetensors (or shards and their index), tokenizer.model."""

from pathlib import Path

from llama2_core.config import ModelConfig
from llama2_core.interop.source import OpenModel, checked, read_record
from llama2_core.tensors import read_safetensors, write_safetensors
from llama2_core.tokenizer import Tokenizer


def read(directory: Path) -> OpenModel:
    config = read_record(ModelConfig, directory / "config.json")
    pieces = directory / "tokenizer.model"
    return checked(config, Tokenizer.load(pieces), read_safetensors(directory), pieces)


def write(model: OpenModel, directory: Path, shards: int | None = None) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write_safetensors(directory, model.tensors, shards)
    (directory / "tokenizer.model").write_bytes(model.tokenizer.model)
    (directory / "config.json").write_text(model.config.model_dump_json(indent=2) + "\n")
