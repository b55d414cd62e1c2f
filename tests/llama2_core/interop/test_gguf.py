"""GGUF: what our reader, the format's definition, transformers and llama.cpp make of our files."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as library
import httpx
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from llama2_core.chat import Message, assistant, encode_prompt, user
from llama2_core.errors import CheckpointError, ConfigError
from llama2_core.interop import gguf, native
from llama2_core.interop.convert import convert, prompts
from llama2_core.interop.pieces import pieces
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import load_policy

NAME = "layers.1.feed_forward.w2.weight"


@pytest.mark.parametrize("quantization", ["f32", "f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_file_reads_back(
    quantization: gguf.Quantization, tied: bool, make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make(tied_embeddings=tied)
    comparison = convert(source, tmp_path / "model.gguf", "gguf", quantization=quantization)
    before, after = native.read(source), gguf.read(tmp_path / "model.gguf")
    assert after.config == before.config
    assert pieces(after.tokenizer) == pieces(before.tokenizer)
    assert (comparison.largest == 0) == (quantization == "f32")
    for name, tensor in before.tensors.items():
        expected, found = tensor.load(), after.tensors[name].load()
        assert found.shape == expected.shape
        if tensor.load().dim() == 1 or quantization == "f32":
            assert torch.equal(found, expected)
        elif quantization == "f16":
            assert torch.equal(found, expected.half())
        else:
            assert (expected - found).abs().max() > 0
            assert ((expected - found).abs() <= block_error(expected, quantization)).all()


def block_error(weights: Tensor, quantization: str) -> Tensor:
    """The most that rounding changes a weight: a block of 32 shares a float16 scale.

    Q8_0 rounds to 127 steps either side of 0: half a step. Q4_0 has 8 steps on the side of the largest weight and 7
    on the other, where a weight of the same size is a whole step away.
    """
    largest = weights.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True)
    step, most = (largest / 127, 0.5) if quantization == "q8_0" else (largest / 8, 1.0)
    rounding = largest * 2**-10  # of the scale itself
    return (step * most + rounding).expand(*largest.shape[:-1], 32).flatten(-2)


def test_a_q8_block_by_hand(make: Callable[..., Path], tmp_path: Path) -> None:
    """A float16 scale and 32 signed bytes: 127, -64 and zeros at a scale of 2."""
    source = native.read(make())
    row = torch.zeros(64, 256)
    row[0, 0], row[0, 1] = 254.0, -128.0
    tensors = dict(source.tensors)
    tensors[NAME] = tensors[NAME].through(lambda _: row)
    gguf.write(gguf.OpenModel(source.config, source.tokenizer, tensors), tmp_path / "m.gguf", "q8_0")
    found = next(
        t for t in library.GGUFReader(tmp_path / "m.gguf").tensors if t.name == "blk.1.ffn_down.weight"
    )
    block = found.data[0, :34].tobytes()
    assert np.frombuffer(block[:2], np.float16) == 2.0
    assert np.frombuffer(block[2:], np.int8).tolist() == [127, -64, *[0] * 30]


@pytest.mark.parametrize("quantization", ["f32", "q8_0"])
def test_transformers_reads_our_file(
    quantization: gguf.Quantization, make: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """An oracle for names, layout and metadata: it undoes llama.cpp's own permutation of queries and keys."""
    convert(make(), tmp_path / "model.gguf", "gguf", quantization=quantization)
    convert(tmp_path / "model.gguf", tmp_path / "ours", "native")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    tokens = prompts(tokenizer)
    with torch.no_grad():
        expected, found = load_policy(tmp_path / "ours")[0](tokens), theirs(tokens).logits
    assert (expected - found).abs().max() < 1e-4


@pytest.fixture
def llama(make: Callable[..., Path], serve_gguf: Callable[[Path], str], tmp_path: Path) -> Callable[..., Any]:
    """Our model in llama.cpp: `llama(path, **body)` asks it."""
    convert(make(), tmp_path / "model.gguf", "gguf")
    address = serve_gguf(tmp_path / "model.gguf")
    return lambda path, **body: (
        httpx.post(f"{address}/{path}", json=body, timeout=60).raise_for_status().json()
    )


def test_llama_cpp_continues_with_our_tokens(
    llama: Callable[..., Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model, _ = load_policy(tmp_path / "native")
    prompt = tokenizer.encode("the cat sat on", bos=True)
    ours = list(prompt)
    with torch.no_grad():
        for _ in range(50):
            ours.append(int(model(torch.tensor([ours]))[0, -1].argmax()))
    theirs = llama("completion", prompt=prompt, n_predict=50, temperature=0, return_tokens=True)["tokens"]
    assert theirs == ours[len(prompt) :]


def test_llama_cpp_reads_a_chat_as_we_do(llama: Callable[..., Any], tokenizer: Tokenizer) -> None:
    """By the template in the file; our tags are pieces of the vocabulary, Llama 2's are not."""
    dialog = [
        Message(role="system", content="be red"),
        user("the cat sat"),
        assistant("on a mat 7"),
        user("and the dog"),
    ]
    prompt = llama("apply-template", messages=[message.model_dump() for message in dialog])["prompt"]
    tokens = llama("tokenize", content=prompt, add_special=True, parse_special=True)["tokens"]
    assert tokens == encode_prompt(dialog, tokenizer)


def test_a_row_that_is_no_multiple_of_a_block_is_kept_as_f16(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    convert(make(dim=48, n_heads=8), tmp_path / "model.gguf", "gguf", quantization="q4_0")
    kinds = {t.name: t.tensor_type.name for t in library.GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == "F16"
    assert kinds["blk.0.ffn_down.weight"] == "Q4_0"
    assert kinds["output_norm.weight"] == "F32"


@pytest.mark.parametrize("kept", [10, 3000, -200])
def test_a_torn_file_is_named(kept: int, make: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    convert(make(), path, "gguf")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"model\.gguf: cannot be read as GGUF"):
        gguf.read(path)


@pytest.mark.parametrize(
    ("architecture", "fields", "message"),
    [
        ("gpt2", {}, "general.architecture is 'gpt2', expected 'llama'"),
        ("llama", {"tokenizer.ggml.model": "gpt2"}, "tokenizer.ggml.model is 'gpt2', expected 'llama'"),
        ("llama", {"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn', expected 'none'"),
        ("llama", {}, "has no field tokenizer.ggml.tokens"),
    ],
)
def test_another_model_is_refused(
    architecture: str, fields: dict[str, str], message: str, tmp_path: Path
) -> None:
    writer = library.GGUFWriter(tmp_path / "other.gguf", architecture)
    for name, value in fields.items():
        writer.add_string(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=message):
        gguf.read(tmp_path / "other.gguf")


def write_raw(path: Path, tokens: list[str], tensor: np.ndarray) -> Path:
    writer = library.GGUFWriter(path, "llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_tensor("blk.0.attn_q.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_piece_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", "a", "a"]
    path = write_raw(tmp_path / "twice.gguf", tokens, np.zeros((2, 2), np.float32))
    with pytest.raises(CheckpointError, match=r"twice\.gguf: its pieces make no tokenizer .*a is already"):
        gguf.read(path)


def test_a_type_that_cannot_be_dequantized_is_told_at_once(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "whole.gguf", ["<unk>", "<s>", "</s>"], np.zeros((2, 2), np.int32))
    with pytest.raises(
        CheckpointError, match=r"whole\.gguf: tensor blk.0.attn_q.weight is I32, expected F32"
    ):
        gguf.read(path)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r'pip install "llama2-pipeline\[gguf\]"'):
        gguf.read(tmp_path)
