"""Base weights in 4 or 8 bits, for adapters to be trained on (QLoRA, arXiv 2305.14314), by bitsandbytes."""

from types import ModuleType

from torch import nn

from llama2_core.config import Bits
from llama2_core.errors import ConfigError
from llama2_core.model import Transformer


def library() -> ModuleType:
    try:
        import bitsandbytes  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ConfigError(
            'Quantized weights need the package bitsandbytes: pip install "llama2-pipeline[quantized]"'
        ) from error
    return bitsandbytes


def quantize(model: Transformer, bits: Bits) -> None:
    """Replace every linear layer of the blocks, in place: NF4 with double quantization, or LLM.int8()."""
    layers = library().nn
    for block in model.layers:
        for parent in list(block.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, _quantized(layers, child, bits))


def _quantized(layers: ModuleType, linear: nn.Linear, bits: Bits) -> nn.Linear:
    weight, shape = linear.weight.detach(), (linear.in_features, linear.out_features)
    if bits == "nf4":
        made = layers.Linear4bit(
            *shape, bias=False, compute_dtype=weight.dtype, quant_type="nf4", compress_statistics=True
        )
        made.weight = layers.Params4bit(
            weight, requires_grad=False, quant_type="nf4", compress_statistics=True
        )
    else:
        made = layers.Linear8bitLt(*shape, bias=False, has_fp16_weights=False)
        made.weight = layers.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    return made.to(weight.device)
