"""From any format to any other, and the proof that nothing was lost on the way."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from llama2_core.config import ModelConfig, Record, Variant
from llama2_core.errors import CheckpointError, ConfigError
from llama2_core.interop import gguf, huggingface, meta, native
from llama2_core.interop.gguf import Quantization
from llama2_core.interop.peft import with_adapter
from llama2_core.interop.sentences import SENTENCES
from llama2_core.interop.source import OpenModel
from llama2_core.linear import linear
from llama2_core.model import Block, RMSNorm, Transformer
from llama2_core.positions import rotary_table, turns
from llama2_core.tensors import read_json
from llama2_core.tokenizer import Tokenizer

Format = Literal["meta", "huggingface", "gguf", "native"]
READERS: dict[Format, Callable[[Path], OpenModel]] = {
    "meta": meta.read,
    "huggingface": huggingface.read,
    "gguf": gguf.read,
    "native": native.read,
}
BOUNDS: dict[Quantization, float] = {"f32": 0.0, "f16": 0.005, "q8_0": 0.05, "q4_0": 0.5}
"""Largest root mean square of the differences of the logits, as a share of the logits' standard deviation."""
UNSAID: dict[Format, tuple[str, ...]] = {
    "meta": ("max_seq_len", "tied_embeddings"),
    "huggingface": ("multiple_of", "ffn_dim_multiplier"),
    "gguf": ("multiple_of", "ffn_dim_multiplier"),
    "native": (),
}
"""The fields of ModelConfig that a format has no words for; the width of the FFN shows in the tensors' shapes."""
PROMPT_TOKENS = 16
"""Of each of the twenty sentences."""


class Comparison(Record):
    """How far the logits of a converted model are from its source's, on the beginnings of the twenty sentences."""

    largest: float
    """Largest absolute difference of two logits."""
    relative: float
    """Root mean square of the differences, as a share of the standard deviation of the source's logits."""
    same_likeliest: float
    """Share of places at which both find the same token likeliest."""
    bound: float
    """What `relative` may be for this format."""


def detect(path: Path) -> Format:
    """Tell the format of a file or directory. Raises CheckpointError when it is none."""
    if path.is_file():
        return "gguf"
    if (path / "params.json").is_file():
        return "meta"
    if (path / "config.json").is_file():
        return "huggingface" if "model_type" in read_json(path / "config.json") else "native"
    raise CheckpointError(
        f"{path}: not a model: expected a GGUF file or a directory with params.json (Meta) "
        "or config.json (Hugging Face, native)"
    )


def read(path: Path) -> OpenModel:
    """Open a model of any format; its tensors stay on disk."""
    return READERS[detect(path)](path)


def read_adapted(path: Path, adapters: Sequence[Path]) -> OpenModel:
    """Open a model of any format with PEFT adapters merged in, one after the other."""
    return reduce(with_adapter, adapters, read(path))


def load(
    path: Path,
    adapters: Sequence[Path] = (),
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Transformer, Tokenizer]:
    """Load a model of any format, to be used, with adapters merged in."""
    opened = read_adapted(path, adapters)
    return assembled(opened, dtype, device), opened.tokenizer


def assembled(
    opened: OpenModel, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Transformer:
    """Return the model with all its weights in memory, read one after the other."""
    with torch.device("meta"):
        model = Transformer(opened.config).to(dtype)
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(opened.tensors[name].load())
    return model.eval()


def convert(
    source: Path,
    destination: Path,
    to: Format,
    shards: int | None = None,
    quantization: Quantization | None = None,
    adapters: Sequence[Path] = (),
    card: str = "",
) -> Comparison:
    """Write the model at `source` to `destination`, which appears only when it has been read back and found equal.

    PEFT adapters are merged into it in turn. A model card becomes its README.md or, beside a GGUF, NAME.md.
    Raises ConfigError when the destination exists or an option does not belong to the format, CheckpointError when
    the source is broken or the result is further from it than the format's bound.
    """
    if shards and to == "gguf":
        raise ConfigError("a GGUF is one file: leave out the number of shards")
    if quantization and to != "gguf":
        raise ConfigError(f"only GGUF is quantized: leave out {quantization}, or convert to gguf")
    model = read_adapted(source, adapters)
    _expressible(model.config, to)
    beside = destination.with_suffix(".md") if card and to == "gguf" else None
    if beside and beside.exists():
        raise ConfigError(f"{beside} exists already, where the model card would be: name a new path")
    with appearing(destination) as partial:
        _write(model, partial, to, shards, quantization or "f32")
        if card and not beside:
            (partial / "README.md").write_text(card, encoding="utf-8")
        compared = compare(model, READERS[to](partial), BOUNDS[quantization or "f32"], UNSAID[to])
    if beside:
        beside.write_text(card, encoding="utf-8")
    return compared


@contextmanager
def appearing(destination: Path) -> Iterator[Path]:
    """Yield a path beside the destination, which gets its name when the block ends well and is removed otherwise.

    Raises ConfigError when the destination exists.
    """
    if destination.exists():
        raise ConfigError(f"{destination} exists already: name a new path")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{destination.name}.partial-", dir=destination.parent) as beside:
        partial = Path(beside) / destination.name
        yield partial
        partial.rename(destination)


def _expressible(config: ModelConfig, to: Format) -> None:
    """Raise ConfigError when the format has no words for the model."""
    if to != "native" and config.variant != Variant():
        raise ConfigError(
            f"{to} knows Llama 2 only, and this model has {config.variant!r}: convert to native"
        )
    methods = {"meta": (), "gguf": ("linear",), "huggingface": ("linear", "ntk"), "native": ("linear", "ntk")}
    if config.rope_scaling and config.rope_scaling.method not in methods[to]:
        raise ConfigError(f"{to} cannot say that positions are scaled by {config.rope_scaling.method!r}")


def _write(model: OpenModel, path: Path, to: Format, shards: int | None, quantization: Quantization) -> None:
    match to:
        case "meta":
            meta.write(model, path, shards)
        case "huggingface":
            huggingface.write(model, path, shards)
        case "native":
            native.write(model, path, shards)
        case "gguf":
            gguf.write(model, path, quantization)


def compare(
    source: OpenModel, converted: OpenModel, bound: float, unsaid: Collection[str] = ()
) -> Comparison:
    """Compare configurations but for the unsaid fields, tokenizers, and logits.

    Raises CheckpointError when one differs, logits by more than the bound.
    """
    _same_config(source, converted, unsaid)
    _same_tokens(source, converted)
    tokens = prompts(source.tokenizer)
    expected, found = logits(source, tokens), logits(converted, tokens)
    difference = expected - found
    comparison = Comparison(
        largest=float(difference.abs().max()),
        relative=float(difference.square().mean().sqrt() / expected.std()),
        same_likeliest=float((expected.argmax(-1) == found.argmax(-1)).float().mean()),
        bound=bound,
    )
    if not comparison.relative <= bound:  # written so that NaN fails
        raise CheckpointError(
            f"{source.file}: the logits of the converted model differ by up to {comparison.largest:.3g}, root "
            f"mean square {comparison.relative:.3g} of their standard deviation, expected at most {bound}: "
            "nothing was written; choose another format or quantization"
        )
    return comparison


def prompts(tokenizer: Tokenizer) -> Tensor:
    """Return the beginnings of the twenty sentences, int64 [20, PROMPT_TOKENS], filled up with EOS."""
    rows = [tokenizer.encode(text, bos=True)[:PROMPT_TOKENS] for text in SENTENCES.values()]
    return torch.tensor([row + [tokenizer.eos_id] * (PROMPT_TOKENS - len(row)) for row in rows])


def _same_config(source: OpenModel, converted: OpenModel, unsaid: Collection[str]) -> None:
    for field in ModelConfig.model_fields:
        expected, found = getattr(source.config, field), getattr(converted.config, field)
        near = isinstance(expected, float) and math.isclose(expected, found, rel_tol=1e-6)  # GGUF has float32
        if field not in unsaid and expected != found and not near:
            raise CheckpointError(
                f"{source.file}: the converted model has {field} {found!r}, expected {expected!r}: nothing was "
                "written; choose another format"
            )


def _same_tokens(source: OpenModel, converted: OpenModel) -> None:
    for script, text in SENTENCES.items():
        expected, found = source.tokenizer.encode(text), converted.tokenizer.encode(text)
        if found != expected or converted.tokenizer.decode(expected) != text:
            raise CheckpointError(
                f"{source.file}: the converted tokenizer does not encode and decode the {script} sentence as its "
                f"source, found {found}, expected {expected}: nothing was written; choose another format"
            )


@torch.no_grad()
def logits(model: OpenModel, tokens: Tensor) -> Tensor:
    """Return the logits float32 [B, T, V] of tokens [B, T] as the Transformer does, a block in memory at a time."""
    config = model.config
    if config.variant != Variant():
        return assembled(model)(tokens)  # for ablations, which are small

    def under(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor.load().float()
            for name, tensor in model.tensors.items()
            if name.startswith(prefix)
        }

    with torch.device("meta"):
        block, norm = Block(config), RMSNorm(config.dim, config.norm_eps)
    rotary = turns(rotary_table(config, tokens.shape[1])[None])
    x = F.embedding(tokens, under("tok_embeddings.")["weight"])
    for layer in range(config.n_layers):
        x = functional_call(block, under(f"layers.{layer}."), (x, rotary, None, layer))
    x = functional_call(norm, under("norm."), (x,))
    return linear(x, under("tok_embeddings." if config.tied_embeddings else "output.")["weight"])
