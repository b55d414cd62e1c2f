"""Meta's checkpoints, in and out, and what is said of broken ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llama2_core.errors import CheckpointError, ConfigError, DataError
from llama2_core.interop import meta
from llama2_core.interop.convert import convert, logits, prompts
from llama2_core.tokenizer import Tokenizer, train_tokenizer
from llama2_core.training.checkpoint import load_policy

SHARDS = 8


def cut(tensors: dict[str, Tensor], rank: int, count: int) -> dict[str, Tensor]:
    """A rank's part as the parallel layers of the reference code hold it, written out."""
    part = {}
    for name, tensor in tensors.items():
        rows, columns = tensor.shape[0] // count, tensor.shape[-1] // count
        if tensor.dim() == 1:
            part[name] = tensor.clone()
        elif any(layer in name for layer in ("tok_embeddings", ".wo.", ".w2.")):
            part[name] = tensor[:, rank * columns : (rank + 1) * columns].clone()
        else:
            part[name] = tensor[rank * rows : (rank + 1) * rows].clone()
    return part


def write_as_meta(native: Path, directory: Path, dtype: torch.dtype, count: int = SHARDS) -> Path:
    model, tokenizer = load_policy(native)
    tensors = {name: p.detach().to(dtype) for name, p in model.named_parameters()}
    tensors.setdefault("output.weight", tensors["tok_embeddings.weight"])
    directory.mkdir()
    for rank in range(count):
        part = cut(tensors, rank, count) | {"rope.freqs": torch.ones(2)}
        torch.save(part, directory / f"consolidated.{rank:02d}.pth")
    c = model.config
    params = {"dim": c.dim, "n_layers": c.n_layers, "n_heads": c.n_heads}
    params |= {"n_kv_heads": c.n_kv_heads} if c.n_kv_heads != c.n_heads else {}
    params |= {"multiple_of": c.multiple_of, "norm_eps": c.norm_eps, "vocab_size": -1}
    (directory / "params.json").write_text(json.dumps(params))
    (directory / "tokenizer.model").write_bytes(tokenizer.model)
    return directory


@pytest.fixture
def eight(make: Callable[..., Path], tmp_path: Path) -> Path:
    return write_as_meta(make(), tmp_path / "meta", torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, {"tied_embeddings": True}, {"n_kv_heads": 16}], ids=str)
def test_a_round_trip_through_every_format_is_bit_for_bit(
    dtype: torch.dtype, changes: dict, make: Callable[..., Path], tmp_path: Path
) -> None:
    first = write_as_meta(make(dtype=dtype, **changes), tmp_path / "meta", dtype)
    path = first
    for number, to in enumerate(("native", "huggingface", "native", "meta")):
        convert(path, tmp_path / str(number), to, shards=SHARDS)
        path = tmp_path / str(number)
    assert json.loads((path / "params.json").read_text()) == json.loads((first / "params.json").read_text())
    assert (path / "tokenizer.model").read_bytes() == (first / "tokenizer.model").read_bytes()
    for rank in range(SHARDS):
        before = torch.load(first / f"consolidated.{rank:02d}.pth", weights_only=True)
        after = torch.load(path / f"consolidated.{rank:02d}.pth", weights_only=True)
        assert before.keys() - {"rope.freqs"} == after.keys()
        for name, tensor in after.items():
            assert tensor.dtype == dtype
            assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_a_merged_checkpoint_is_the_model(
    count: int, make: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    native = make()
    model, _ = load_policy(native)
    opened = meta.read(write_as_meta(native, tmp_path / "meta", torch.float32, count))
    tokens = prompts(tokenizer)
    with torch.no_grad():
        assert torch.equal(logits(opened, tokens), model(tokens))


def test_a_shard_file_holds_no_more_than_its_share(eight: Path, tmp_path: Path) -> None:
    convert(eight, tmp_path / "again", "meta", shards=8)
    sizes = [(tmp_path / "again" / f"consolidated.{rank:02d}.pth").stat().st_size for rank in range(8)]
    assert max(sizes) < 1.1 * (eight / "consolidated.00.pth").stat().st_size


def test_meta_knows_no_shape_that_does_not_divide(make: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="n_kv_heads 2 cannot be cut into 4"):
        convert(make(n_kv_heads=2), tmp_path / "out", "meta", shards=4)
    assert not (tmp_path / "out").exists()


def test_a_missing_shard_is_named(eight: Path) -> None:
    (eight / "consolidated.03.pth").unlink()
    with pytest.raises(CheckpointError, match=r"consolidated\.03\.pth: this shard is missing"):
        meta.read(eight)


def test_a_wrong_number_of_shards_is_counted(eight: Path) -> None:
    (eight / "consolidated.07.pth").unlink()
    with pytest.raises(CheckpointError, match=r"found 7 shards, expected 8.*tok_embeddings.weight"):
        meta.read(eight)


def test_a_surplus_shard_is_counted(eight: Path) -> None:
    shutil.copy(eight / "consolidated.07.pth", eight / "consolidated.08.pth")
    with pytest.raises(CheckpointError, match=r"found 9 shards, expected 8.*tok_embeddings.weight"):
        meta.read(eight)


def test_a_shard_without_tensors_is_named(eight: Path) -> None:
    torch.save({}, eight / "consolidated.04.pth")
    with pytest.raises(CheckpointError, match=r"consolidated\.04\.pth: expected a dictionary of tensors"):
        meta.read(eight)


@pytest.mark.parametrize("embedding", [torch.zeros(64), torch.zeros(320, 0)])
def test_an_embedding_that_is_no_matrix_is_named(
    embedding: Tensor, make: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_as_meta(make(), tmp_path / "meta", torch.float32, 1) / "consolidated.00.pth"
    torch.save(torch.load(path) | {"tok_embeddings.weight": embedding}, path)
    with pytest.raises(
        CheckpointError, match=r"00\.pth: tensor tok_embeddings.weight is .*expected a matrix"
    ):
        meta.read(tmp_path / "meta")


def test_the_tokenizer_may_lie_above_as_in_metas_download(eight: Path, tokenizer: Tokenizer) -> None:
    (eight / "tokenizer.model").rename(eight.parent / "tokenizer.model")
    assert meta.read(eight).tokenizer.model == tokenizer.model
    (eight.parent / "tokenizer.model").unlink()
    with pytest.raises(
        CheckpointError, match=rf"{eight}/tokenizer.model: missing, and so is {eight.parent}/tokenizer.model"
    ):
        meta.read(eight)


def test_a_torn_shard_is_named(eight: Path) -> None:
    path = eight / "consolidated.05.pth"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match=r"consolidated\.05\.pth: cannot be read"):
        meta.read(eight)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "layers.1.attention.wq.weight",
            torch.zeros(3, 64),
            r"02\.pth: tensor .*wq.weight is \[3, 64\] float32, expected \[8, 64\] float32 as in .*00\.pth",
        ),
        ("layers.1.attention.wq.weight", None, r"02\.pth: tensor layers.1.attention.wq.weight is missing"),
        (
            "layers.1.attention.wq.weight",
            torch.zeros(8, 64, dtype=torch.float16),
            r"02\.pth: tensor .*wq.weight is \[8, 64\] float16, expected \[8, 64\] float32",
        ),
        (
            "layers.1.attention.wq.weight",
            torch.zeros(8, 64, dtype=torch.int8),
            r"02\.pth: tensor .*wq.weight is int8, expected F64, F32, F16, BF16",
        ),
        ("norm.weight", torch.zeros(64), r"02\.pth: tensor norm.weight has other values, expected .*00\.pth"),
        ("norm.bias", torch.zeros(64), r"00\.pth: tensor norm.bias is missing, expected as in .*02\.pth"),
    ],
)
def test_a_shard_unlike_the_others_is_named(
    name: str, change: Tensor | None, message: str, eight: Path
) -> None:
    path = eight / "consolidated.02.pth"
    tensors = torch.load(path, weights_only=True)
    tensors.pop(name, None)
    torch.save(tensors | ({} if change is None else {name: change}), path)
    with pytest.raises(CheckpointError, match=message):
        meta.read(eight)


def test_a_tensor_that_does_not_fit_params_is_named(eight: Path) -> None:
    params = json.loads((eight / "params.json").read_text())
    (eight / "params.json").write_text(json.dumps(params | {"multiple_of": 512}))
    with pytest.raises(CheckpointError, match=r"feed_forward.w1.weight is \[256, 64\], expected \[512, 64\]"):
        meta.read(eight)


def test_params_that_llama_2_does_not_know_are_refused(eight: Path) -> None:
    params = json.loads((eight / "params.json").read_text())
    (eight / "params.json").write_text(json.dumps(params | {"use_scaled_rope": True}))
    with pytest.raises(CheckpointError, match=r"params\.json: use_scaled_rope"):
        meta.read(eight)


class Code:
    """A pickle of this writes a file when it is loaded as pickles are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_pickle_that_carries_code_is_refused_and_not_run(eight: Path, tmp_path: Path) -> None:
    torch.save({"norm.weight": Code(tmp_path / "ran")}, eight / "consolidated.00.pth")
    with pytest.raises(CheckpointError, match=r"consolidated\.00\.pth: refused, nothing of it was executed"):
        meta.read(eight)
    assert not (tmp_path / "ran").exists()


def test_another_models_tokenizer_is_refused(eight: Path) -> None:
    other = train_tokenizer(["the cat sat on the mat and ran 1 2 3 4 5 6 7 8 9"] * 5, 290)
    (eight / "tokenizer.model").write_bytes(other.model)
    with pytest.raises(
        CheckpointError, match=r"tok_embeddings.weight has 320 rows, expected 290, the pieces"
    ):
        meta.read(eight)
    (eight / "tokenizer.model").write_bytes(b"")
    with pytest.raises(DataError, match=r"tokenizer\.model: has no pieces"):
        meta.read(eight)
    (eight / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(DataError, match=r"tokenizer\.model: not a SentencePiece model"):
        meta.read(eight)
