"""Conversion as a whole: what it promises of the result, and what it refuses before and after."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llama2_core.config import RopeScaling, Variant
from llama2_core.errors import CheckpointError, ConfigError
from llama2_core.interop import gguf, huggingface, meta, native
from llama2_core.interop.convert import BOUNDS, compare, convert, detect, logits, prompts
from llama2_core.interop.source import OpenModel
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer, train_tokenizer
from llama2_core.training.checkpoint import load_policy, save_model


def changed(model: OpenModel, name: str, change: Callable[[Tensor], Tensor]) -> OpenModel:
    return replace(model, tensors={**model.tensors, name: model.tensors[name].through(change)})


@pytest.mark.parametrize("tied", [False, True])
def test_logits_a_block_at_a_time_are_the_transformers(tied: bool, make: Callable[..., Path]) -> None:
    model, tokenizer = load_policy(make(tied_embeddings=tied))
    tokens = prompts(tokenizer)
    assert tokens.shape == (20, 16)
    with torch.no_grad():
        assert torch.equal(logits(native.read(make(tied_embeddings=tied)), tokens), model(tokens))


@pytest.mark.parametrize("to", ["meta", "huggingface", "gguf", "native"])
def test_every_format_is_told_and_lossless(to, make: Callable[..., Path], tmp_path: Path) -> None:
    comparison = convert(make(), tmp_path / "out", to)
    assert detect(tmp_path / "out") == to
    assert (comparison.largest, comparison.relative, comparison.bound) == (0, 0, 0)
    assert comparison.same_likeliest == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["native", "out"]


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.roll(1, 0),
        lambda w: w.flip(0),
        lambda w: torch.full_like(w, float("nan")),
    ],
)
def test_a_model_that_is_not_its_source_is_refused(
    change: Callable[[Tensor], Tensor], make: Callable[..., Path]
) -> None:
    """Even by the widest bound, for one wrong matrix of fourteen."""
    model = native.read(make())
    with pytest.raises(CheckpointError, match="the logits of the converted model differ"):
        compare(model, changed(model, "layers.0.feed_forward.w2.weight", change), BOUNDS["q4_0"])


def test_the_smallest_change_breaks_a_lossless_bound(make: Callable[..., Path]) -> None:
    model = native.read(make())
    with pytest.raises(CheckpointError, match=r"expected at most 0\.0"):
        compare(model, changed(model, "norm.weight", lambda w: w * 1.0001), BOUNDS["f32"])


def test_another_tokenizer_is_told(make: Callable[..., Path], tokenizer: Tokenizer) -> None:
    other = train_tokenizer(["a mat and nine red pears today " * 3] * 5, 300)
    model = native.read(make())
    with pytest.raises(CheckpointError, match="does not encode and decode the LATIN sentence"):
        compare(model, replace(model, tokenizer=other), 0.5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_seq_len", 64),
        ("norm_eps", 1e-6),
        ("rope_theta", 10001.0),
        ("rope_scaling", RopeScaling(method="ntk", factor=4.0, original_seq_len=32)),
    ],
)
def test_another_configuration_is_told(field: str, value: object, make: Callable[..., Path]) -> None:
    """Even where sixteen tokens do not show it."""
    model = native.read(make())
    other = replace(model, config=model.config.model_copy(update={field: value}))
    with pytest.raises(
        CheckpointError, match=rf"model\.safetensors: .*has {field} .*, expected .*nothing was"
    ):
        compare(model, other, BOUNDS["q4_0"])


def test_what_another_left_beside_the_destination_stays(make: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    convert(make(), tmp_path / "out", "native")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["native", "out", "out.partial"]


def test_a_result_that_fails_does_not_appear(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BOUNDS, "q4_0", 1e-6)
    with pytest.raises(CheckpointError, match="nothing was written"):
        convert(make(), tmp_path / "model.gguf", "gguf", quantization="q4_0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["native"]


@pytest.mark.parametrize(
    ("method", "to"), [("linear", "huggingface"), ("ntk", "huggingface"), ("linear", "gguf")]
)
@pytest.mark.parametrize(("factor", "length"), [(4.0, 128), (2.7, 100)])
def test_scaled_positions_survive(
    method: str, to, factor: float, length: int, make: Callable[..., Path], tmp_path: Path
) -> None:
    """With any length, also one that is not the factor times the original."""
    scaling = RopeScaling.model_validate({"method": method, "factor": factor, "original_seq_len": 32})
    source = make(rope_scaling=scaling, max_seq_len=length)
    assert convert(source, tmp_path / "out", to).largest == 0
    convert(tmp_path / "out", tmp_path / "back", "native")
    config = native.read(tmp_path / "back").config
    assert (config.rope_scaling, config.max_seq_len) == (scaling, length)


def test_a_trained_model_says_the_same_in_q8_0(
    model: Transformer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokens = prompts(tokenizer)
    tokens = torch.cat([tokens, tokens[:1].expand(2 * len(tokens), -1)])  # one is likelier after BOS
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    loss = torch.tensor(torch.inf)
    for _ in range(300):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5
    save_model(tmp_path / "trained", model.eval(), tokenizer)
    found = convert(tmp_path / "trained", tmp_path / "m.gguf", "gguf", quantization="q8_0")
    assert found.largest > 0
    assert found.same_likeliest >= 0.97


@pytest.mark.parametrize(
    ("fields", "to", "message"),
    [
        ({"rope_scaling": RopeScaling(method="ntk", factor=2.0)}, "gguf", "gguf cannot say .* 'ntk'"),
        ({"rope_scaling": RopeScaling(method="linear", factor=2.0)}, "meta", "meta cannot say .* 'linear'"),
        ({"variant": Variant(norm="layer")}, "huggingface", "huggingface knows Llama 2 only.*layer"),
    ],
)
def test_what_a_format_cannot_say_is_refused(
    fields: dict, to, message: str, make: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        convert(make(**fields), tmp_path / "out", to)
    assert convert(make(**fields), tmp_path / "out", "native").largest == 0


def test_options_that_do_not_belong_together_are_refused(make: Callable[..., Path], tmp_path: Path) -> None:
    source = make()
    with pytest.raises(ConfigError, match="native exists already"):
        convert(source, source, "meta")
    with pytest.raises(ConfigError, match="a GGUF is one file"):
        convert(source, tmp_path / "out", "gguf", shards=2)
    with pytest.raises(ConfigError, match="only GGUF is quantized: leave out q8_0"):
        convert(source, tmp_path / "out", "meta", quantization="q8_0")
    with pytest.raises(CheckpointError, match="not a model: expected a GGUF file or a directory"):
        convert(tmp_path, tmp_path / "out", "meta")


class Memory(TorchDispatchMode):
    """The most bytes that tensors made by torch in this context held at one time, slices and copies included."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.most, self.seen = 0, 0, weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self.seen:
                self.seen.add(storage)
                self.alive += storage.nbytes()
                self.most = max(self.most, self.alive)
                weakref.finalize(storage, self.release, storage.nbytes())
        return result

    def release(self, count: int) -> None:
        self.alive -= count


@pytest.mark.parametrize("to", ["gguf", "meta", "huggingface", "native"])
def test_writing_holds_a_shard_and_a_tensor(to: str, make: Callable[..., Path], tmp_path: Path) -> None:
    model, path = native.read(make()), tmp_path / "out"
    made = {
        name: replace(tensor, load=partial(torch.ones, tensor.shape))
        for name, tensor in model.tensors.items()
    }
    model = replace(model, tensors=made)
    with Memory() as memory:
        match to:
            case "gguf":
                gguf.write(model, path)
            case "meta":
                meta.write(model, path, 8)
            case "huggingface":
                huggingface.write(model, path, 6)
            case "native":
                native.write(model, path, 6)
    shards = [*path.glob("*.safetensors"), *path.glob("*.pth")]
    shard = max((file.stat().st_size for file in shards), default=0)
    largest = max(tensor.bytes for tensor in made.values())
    assert largest <= memory.most <= shard + largest
    assert memory.alive == 0
