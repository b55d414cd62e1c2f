"""Meta's checkpoints: params.json, tokenizer.model and consolidated.NN.pth, one file a model-parallel rank.

A matrix is cut along one axis over the ranks, a norm is in every file; see `AXES`. params.json has no field for
the context (4096 is Llama 2's) nor for tied embeddings: a tied model is written with its embedding twice, and
read as tied when both are equal.
"""

from pathlib import Path

import torch

from llama2_core.config import ModelConfig, Record
from llama2_core.errors import CheckpointError, ConfigError
from llama2_core.interop.source import OpenModel, checked, read_record, validated
from llama2_core.tensors import LazyTensor, open_pickle, write_json
from llama2_core.tokenizer import Tokenizer

AXES = {
    "tok_embeddings": 1,
    "output": 0,
    "wq": 0,
    "wk": 0,
    "wv": 0,
    "wo": 1,
    "w1": 0,
    "w2": 1,
    "w3": 0,
}
"""The axis along which the model-parallel ranks share a matrix [out, in]. Reference code, model.py."""
Shards = dict[Path, dict[str, LazyTensor]]


class Params(Record):
    """params.json. A field that is not here, such as a rope scaling, would change the model: it is refused."""

    dim: int
    n_layers: int
    n_heads: int
    multiple_of: int
    norm_eps: float
    vocab_size: int = -1
    """-1: as many as the tokenizer has."""
    n_kv_heads: int | None = None
    ffn_dim_multiplier: float | None = None
    rope_theta: float | None = None


def axis(name: str) -> int | None:
    """Return the axis that is cut over the ranks; None for a norm, which every rank has."""
    return AXES.get(name.removesuffix(".weight").rpartition(".")[2])


def read(directory: Path) -> OpenModel:
    """Open the shards and merge them as they are loaded; raises CheckpointError when one is missing or torn."""
    params = read_record(Params, directory / "params.json")
    source = _tokenizer_file(directory)
    tokenizer = Tokenizer.load(source)
    given = {"n_kv_heads": params.n_heads} | params.model_dump(exclude_none=True)
    if params.vocab_size == -1:
        given["vocab_size"] = tokenizer.vocab_size
    shards = _open_shards(directory)
    names = dict.fromkeys(name for shard in shards.values() for name in shard if name != "rope.freqs")
    tensors = {name: _merged(name, shards) for name in names}
    _count_fits(directory, shards, params.dim)
    if _tied(tensors, shards):
        given["tied_embeddings"] = True
        del tensors["output.weight"]
    return checked(validated(ModelConfig, given, directory / "params.json"), tokenizer, tensors, source)


def _tokenizer_file(directory: Path) -> Path:
    """Return where the tokenizer is: Meta's download has one for all models, in the folder above theirs."""
    here, above = (folder / "tokenizer.model" for folder in (directory, directory.absolute().parent))
    if not here.is_file() and not above.is_file():
        raise CheckpointError(f"{here}: missing, and so is {above}; put the model's tokenizer in one of them")
    return here if here.is_file() else above


def _open_shards(directory: Path) -> Shards:
    files = sorted(directory.glob("consolidated.[0-9][0-9].pth"))
    last = int(files[-1].stem.removeprefix("consolidated.")) if files else 0
    for number in range(last + 1):
        if (path := directory / f"consolidated.{number:02d}.pth") not in files:
            raise CheckpointError(f"{path}: this shard is missing; restore it")
    return {path: open_pickle(path) for path in files}


def _merged(name: str, shards: Shards) -> LazyTensor:
    cut = axis(name)
    first = next(shard[name] for shard in shards.values() if name in shard)
    parts = []
    for path, shard in shards.items():
        part = shard.get(name)
        if part is None:
            raise CheckpointError(
                f"{path}: tensor {name} is missing, expected as in {first.file}; restore it"
            )
        found, expected = (f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in (part, first))
        if found != expected:
            raise CheckpointError(
                f"{path}: tensor {name} is {found}, expected {expected} as in {first.file}; restore the files"
            )
        if cut is None and not torch.equal(part.load(), first.load()):
            raise CheckpointError(
                f"{path}: tensor {name} has other values, expected those of {first.file}, as no rank has a "
                "norm of its own; restore the files"
            )
        parts.append(part)
    if cut is not None and (len(first.shape) != 2 or 0 in first.shape):
        raise CheckpointError(
            f"{first.file}: tensor {name} is {list(first.shape)}, expected a matrix; restore the file"
        )
    if cut is None or len(parts) == 1:
        return first
    shape = list(first.shape)
    shape[cut] *= len(parts)
    return LazyTensor(
        tuple(shape), first.dtype, first.file, lambda: torch.cat([part.load() for part in parts], cut)
    )


def _tied(tensors: dict[str, LazyTensor], shards: Shards) -> bool:
    """Compare the embedding's columns with the output's rows where they lie: neither is merged in memory."""
    names, count = ("tok_embeddings.weight", "output.weight"), len(shards)
    if not all(name in tensors for name in names) or len({tensors[name].shape for name in names}) > 1:
        return False
    columns, rows = ([shard[name].load() for shard in shards.values()] for name in names)
    return all(
        torch.equal(part.chunk(count)[row], whole.chunk(count, 1)[column])
        for row, whole in enumerate(rows)
        for column, part in enumerate(columns)
    )


def _count_fits(directory: Path, shards: Shards, dim: int) -> None:
    """Raise CheckpointError when the embedding's slices are too few or too many for params.json."""
    part = next(iter(shards.values())).get("tok_embeddings.weight")
    if part and dim % part.shape[1] == 0 and dim // part.shape[1] != len(shards):
        raise CheckpointError(
            f"{directory}: found {len(shards)} shards, expected {dim // part.shape[1]}: each has "
            f"{part.shape[1]} of the {dim} columns of tensor tok_embeddings.weight. Restore consolidated.*.pth"
        )


def write(model: OpenModel, directory: Path, shards: int | None = None) -> None:
    """Write `shards` files (1 when not said), each in turn.

    Raises ConfigError when the heads, the FFN or the vocabulary do not divide by the number of shards.
    """
    count, config = shards or 1, model.config
    for field in ("dim", "n_kv_heads", "ffn_dim", "vocab_size"):
        if getattr(config, field) % count:
            raise ConfigError(
                f"{field} {getattr(config, field)} cannot be cut into {count} model-parallel shards"
            )
    directory.mkdir(parents=True)
    write_json(directory / "params.json", _params(config).model_dump(exclude_none=True))
    (directory / "tokenizer.model").write_bytes(model.tokenizer.model)
    tensors = dict(model.tensors)
    tensors.setdefault("output.weight", tensors["tok_embeddings.weight"])
    for rank in range(count):
        _write_shard(directory / f"consolidated.{rank:02d}.pth", tensors, rank, count)


def _params(config: ModelConfig) -> Params:
    return Params(
        dim=config.dim,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        multiple_of=config.multiple_of,
        norm_eps=config.norm_eps,
        n_kv_heads=config.n_kv_heads if config.n_kv_heads != config.n_heads else None,
        ffn_dim_multiplier=config.ffn_dim_multiplier if config.ffn_dim_multiplier != 1 else None,
        rope_theta=config.rope_theta if config.rope_theta != 10000 else None,
    )


def _write_shard(path: Path, tensors: dict[str, LazyTensor], rank: int, count: int) -> None:
    torch.save({name: _slice(name, tensor, rank, count) for name, tensor in tensors.items()}, path)


def _slice(name: str, tensor: LazyTensor, rank: int, count: int) -> torch.Tensor:
    """Return a rank's share with a storage of its own: torch.save writes whole storages."""
    loaded, cut = tensor.load(), axis(name)
    return (loaded if cut is None else loaded.chunk(count, cut)[rank]).clone(
        memory_format=torch.contiguous_format
    )
