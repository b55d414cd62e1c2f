"""Adapters as older versions of PEFT wrote them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama2_core.config import LoRAConfig
from llama2_core.errors import CheckpointError
from llama2_core.interop import native
from llama2_core.interop.peft import with_adapter, write_adapter

NAME = "layers.0.attention.wq.weight"


@pytest.fixture
def adapter(make: Callable[..., Path], tmp_path: Path) -> Path:
    """In a pickle, without safetensors."""
    model, lora = native.read(make()), LoRAConfig(rank=2, targets=("wq",))
    write_adapter(tmp_path / "adapter", {NAME: (torch.ones(2, 64), torch.ones(64, 2))}, lora, model.config)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save(load_file(path), path.with_name("adapter_model.bin"))
    path.unlink()
    return tmp_path / "adapter"


def test_a_pickle_is_read_where_there_are_no_safetensors(adapter: Path, make: Callable[..., Path]) -> None:
    model = native.read(make())
    scale = LoRAConfig(rank=2).alpha / 2
    merged = with_adapter(model, adapter).tensors[NAME].load()
    torch.testing.assert_close(merged, model.tensors[NAME].load() + scale * 2)


def test_a_pickle_that_carries_code_is_refused(adapter: Path, make: Callable[..., Path]) -> None:
    torch.save({"a": Path}, adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin: refused, nothing of it was executed"):
        with_adapter(native.read(make()), adapter)
