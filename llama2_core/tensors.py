"""Named tensors on disk, loaded one at a time: safetensors, whole or in shards, and pickles that carry no code."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llama2_core.errors import CheckpointError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FILE_BYTES = 5 * 10**9
"""Where a checkpoint is cut into several files, unless a number of shards is asked for."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that stays in its file until `load` is called."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    load: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def through(self, change: Callable[[Tensor], Tensor]) -> "LazyTensor":
        """Return this tensor with a change of the same shape and dtype made as it is loaded."""
        return LazyTensor(self.shape, self.dtype, self.file, lambda: change(self.load()))


def read_json(path: Path) -> dict[str, Any]:
    """Raises CheckpointError when the file is missing or holds no JSON object."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); restore the file") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}); restore the file") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: not a JSON object; restore the file")
    return loaded


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_safetensors(directory: Path) -> dict[str, LazyTensor]:
    """Open model.safetensors, or every shard that model.safetensors.index.json names.

    Raises CheckpointError naming a file that is missing or torn, or a tensor that its shard lacks.
    """
    if not (directory / INDEX).is_file():
        return open_safetensors(directory / WHOLE)
    placement = placed(directory / INDEX)
    shards = {file: open_safetensors(directory / file) for file in sorted(set(placement.values()))}
    return pick(placement, shards, directory)


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: this file of the checkpoint is missing; restore it")
    try:
        file = safe_open(path, framework="pt")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error}); copy it again") from error
    for name, part in slices.items():
        if part.get_dtype() not in DTYPES:
            raise _unknown_dtype(path, name, part.get_dtype())
    return {
        name: LazyTensor(
            tuple(part.get_shape()), DTYPES[part.get_dtype()], path, lambda name=name: file.get_tensor(name)
        )
        for name, part in slices.items()
    }


def open_pickle(path: Path) -> dict[str, LazyTensor]:
    """Map the tensors of a torch.save file; raises CheckpointError when it is torn or would run code."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, nothing of it was executed: its pickle holds more than tensors. "
            f"Save it again as safetensors where you trust it. ({str(error).splitlines()[0]})"
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path}: cannot be read as a PyTorch file ({reason}); copy it again"
        ) from error
    if (
        not isinstance(loaded, dict)
        or not loaded
        or not all(isinstance(tensor, Tensor) for tensor in loaded.values())
    ):
        raise CheckpointError(f"{path}: expected a dictionary of tensors by name; copy it again")
    for name, tensor in loaded.items():
        if tensor.dtype not in DTYPES.values():
            raise _unknown_dtype(path, name, str(tensor.dtype).removeprefix("torch."))
    return {
        name: LazyTensor(tuple(tensor.shape), tensor.dtype, path, lambda tensor=tensor: tensor)
        for name, tensor in loaded.items()
    }


def _unknown_dtype(path: Path, name: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: tensor {name} is {found}, expected {', '.join(DTYPES)}; save it again as one of them"
    )


def placed(index: Path) -> dict[str, str]:
    """Return tensor name -> file name, as a Hugging Face index says. Raises CheckpointError when it does not."""
    placement = read_json(index).get("weight_map")
    if not isinstance(placement, dict):
        raise CheckpointError(f"{index}: has no weight_map; restore the file")
    for name, file in placement.items():
        if not isinstance(file, str):
            raise CheckpointError(
                f"{index}: weight_map has {file!r} for tensor {name}, expected a file; restore the file"
            )
    return placement


def pick(
    placement: Mapping[str, str], shards: Mapping[str, dict[str, LazyTensor]], directory: Path
) -> dict[str, LazyTensor]:
    """Return every placed tensor from its shard. Raises CheckpointError naming one that is not there."""
    for name, file in placement.items():
        if name not in shards[file]:
            raise CheckpointError(
                f"{directory / file}: tensor {name} is missing, though the index names it; restore the file"
            )
    return {name: shards[file][name] for name, file in placement.items()}


def write_safetensors(directory: Path, tensors: Mapping[str, LazyTensor], shards: int | None = None) -> None:
    """Write one file, or at most `shards`; without a number, one for every 5 GB. Holds one file's tensors at a time."""
    total = sum(tensor.bytes for tensor in tensors.values())
    count = shards or math.ceil(total / FILE_BYTES)
    groups: dict[int, list[str]] = {}
    before = 0
    for name, tensor in tensors.items():
        groups.setdefault(before * count // total, []).append(name)
        before += tensor.bytes
    placement = {}
    for number, names in enumerate(groups.values(), 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors" if len(groups) > 1 else WHOLE
        _write_file(directory / file, {name: tensors[name] for name in names})
        placement |= dict.fromkeys(names, file)
    if len(groups) > 1:
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": placement})


def _write_file(path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    loaded = {name: tensor.load().contiguous() for name, tensor in tensors.items()}
    save_file(loaded, path, metadata={"format": "pt"})
