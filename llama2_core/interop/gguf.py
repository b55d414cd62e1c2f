"""GGUF, llama.cpp's single file: Meta's layout of the weights (no permutation), the tokenizer inside.

Matrices are written as F32, F16, Q8_0 or Q4_0 (F16 where a row is no multiple of the 32 weights of a block), norms
always as F32. Needs the package `gguf`, the extra of that name.
"""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch

from llama2_core.config import ModelConfig
from llama2_core.errors import CheckpointError, ConfigError
from llama2_core.interop.huggingface import CHAT_TEMPLATE
from llama2_core.interop.pieces import Kind, Piece, pieces, tokenizer_of
from llama2_core.interop.source import OpenModel, checked, renamed, shapes, validated, with_ffn
from llama2_core.tensors import LazyTensor
from llama2_core.tokenizer import Tokenizer

Quantization = Literal["f32", "f16", "q8_0", "q4_0"]
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7}
"""llama.cpp's numbers for what most tensors of the file are."""

KIND = {
    "general.architecture": ("llama",),
    "llama.rope.scaling.type": ("none", "linear"),
    "tokenizer.ggml.model": ("llama",),
}
"""What makes a file ours to read: Llama with a SentencePiece vocabulary; absent fields are taken for the first."""

NAMES = {
    "tok_embeddings": "token_embd",
    "norm": "output_norm",
    "output": "output",
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
}
"""Meta's name of a module -> llama.cpp's; those of a block stand in `layers.N` and `blk.N`."""


def library() -> ModuleType:
    try:
        import gguf  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ConfigError('GGUF needs the package gguf: pip install "llama2-pipeline[gguf]"') from error
    return gguf


def their_name(name: str) -> str:
    """Return llama.cpp's name of a tensor, given Meta's."""
    return renamed(name, NAMES, "blk")


def read(path: Path) -> OpenModel:
    """Open a file of a Llama model with a SentencePiece vocabulary.

    F32 and F16 tensors keep their dtype, every other type is dequantized to float32. Raises CheckpointError when
    the file is torn, or its model or tokenizer is of another kind.
    """
    gguf = library()
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise CheckpointError(f"{path}: cannot be read as GGUF ({error}); copy it again") from error
    facts = {name: field.contents() for name, field in reader.fields.items()}
    for field, expected in KIND.items():
        if facts.get(field, expected[0]) not in expected:
            names = " or ".join(map(repr, expected))
            raise CheckpointError(
                f"{path}: {field} is {facts[field]!r}, expected {names}; only Llama 2's kind is read"
            )
    tensors: dict[str, LazyTensor] = {t.name: _lazy(gguf, t, path) for t in reader.tensors}
    try:
        tokenizer = _read_tokenizer(facts, path)
        config = _read_config(facts, tokenizer.vocab_size, "output.weight" not in tensors, path)
    except KeyError as error:
        raise CheckpointError(f"{path}: has no field {error.args[0]}; convert the model again") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: its tokenizer cannot be read: {error}") from error
    ours = {their_name(name): name for name in shapes(config)}
    return checked(
        config, tokenizer, {ours.get(name, name): t for name, t in tensors.items()}, path, their_name
    )


def _lazy(gguf: ModuleType, tensor: Any, path: Path) -> LazyTensor:
    shape = tuple(reversed(tensor.shape.tolist()))
    kind = tensor.tensor_type
    kept = torch.float16 if kind == gguf.GGMLQuantizationType.F16 else torch.float32
    try:
        gguf.quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError as error:
        raise CheckpointError(
            f"{path}: tensor {tensor.name} is {kind.name}, expected F32, F16 or a type that the package gguf "
            "dequantizes; convert the model to one"
        ) from error

    def load() -> torch.Tensor:
        if kept == torch.float16:
            return torch.from_numpy(np.array(tensor.data))
        values = gguf.quants.dequantize(tensor.data, kind)
        return torch.from_numpy(np.require(values, requirements="W"))  # a copy of what is mapped only

    return LazyTensor(shape, kept, path, load)


def _read_config(facts: Mapping[str, Any], vocab_size: int, tied: bool, path: Path) -> ModelConfig:
    longest, scaling = facts["llama.context_length"], None
    if facts.get("llama.rope.scaling.type") == "linear":
        factor = _shortest(facts["llama.rope.scaling.factor"])
        original = facts.get("llama.rope.scaling.original_context_length", int(longest / factor))
        scaling = {"method": "linear", "factor": factor, "original_seq_len": original}
    fields = {
        "vocab_size": vocab_size,
        "dim": facts["llama.embedding_length"],
        "n_layers": facts["llama.block_count"],
        "n_heads": facts["llama.attention.head_count"],
        "n_kv_heads": facts.get("llama.attention.head_count_kv", facts["llama.attention.head_count"]),
        "norm_eps": _shortest(facts["llama.attention.layer_norm_rms_epsilon"]),
        "rope_theta": _shortest(facts.get("llama.rope.freq_base", 10000.0)),
        "max_seq_len": longest,
        "tied_embeddings": tied,
        "rope_scaling": scaling,
    }
    return with_ffn(validated(ModelConfig, fields, path), facts["llama.feed_forward_length"])


def _shortest(value: float) -> float:
    """Return the shortest decimal that is this float32: 1e-5, not 9.99999974e-06."""
    return float(str(np.float32(value)))


def _read_tokenizer(facts: Mapping[str, Any], path: Path) -> Tokenizer:
    columns = [facts[f"tokenizer.ggml.{column}"] for column in ("tokens", "scores", "token_type")]
    return tokenizer_of(
        [Piece(text, score, Kind(kind)) for text, score, kind in zip(*columns, strict=True)], path
    )


def write(model: OpenModel, path: Path, quantization: Quantization = "f32") -> None:
    """Write one file, a tensor at a time."""
    gguf = library()
    writer = gguf.GGUFWriter(path, "llama")
    _add_config(writer, model.config, quantization)
    _add_tokenizer(writer, model)
    kinds = {}
    for name, tensor in model.tensors.items():
        kinds[name] = kind = _kind(gguf, tensor.shape, quantization)
        packed = gguf.quants.quant_shape_to_byte_shape(tensor.shape, kind)
        writer.add_tensor_info(their_name(name), packed, np.dtype(np.uint8), int(np.prod(packed)), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in model.tensors.items():
        writer.write_tensor_data(_packed(gguf, tensor, kinds[name]))
    writer.close()


def _packed(gguf: ModuleType, tensor: LazyTensor, kind: Any) -> np.ndarray:
    values = np.ascontiguousarray(tensor.load().float().numpy())
    return gguf.quants.quantize(values, kind).view(np.uint8)


def _kind(gguf: ModuleType, shape: tuple[int, ...], quantization: Quantization) -> Any:
    kinds = gguf.GGMLQuantizationType
    if len(shape) == 1 or quantization == "f32":
        return kinds.F32
    kind = kinds[quantization.upper()]
    return kinds.F16 if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] else kind


def _add_config(writer: Any, config: ModelConfig, quantization: Quantization) -> None:
    writer.add_file_type(FILE_TYPES[quantization])
    writer.add_quantization_version(2)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.ffn_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    if config.rope_scaling:
        writer.add_rope_scaling_type(library().RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(config.rope_scaling.original_seq_len)


def _add_tokenizer(writer: Any, model: OpenModel) -> None:
    vocabulary = pieces(model.tokenizer, model.file)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.text for piece in vocabulary])
    writer.add_token_scores([piece.score for piece in vocabulary])
    writer.add_token_types([int(piece.kind) for piece in vocabulary])
    writer.add_bos_token_id(model.tokenizer.bos_id)
    writer.add_eos_token_id(model.tokenizer.eos_id)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    # llama.cpp puts its space before the text behind each symbol too: then the template has to bring them all
    symbols = any(piece.kind == Kind.USER_DEFINED for piece in vocabulary)
    writer.add_add_space_prefix(not symbols)
    writer.add_chat_template(CHAT_TEMPLATE.replace("'[INST] '", "' [INST] '") if symbols else CHAT_TEMPLATE)
