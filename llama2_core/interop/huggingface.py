"""Hugging Face's checkpoints: config.json, safetensors (whole or sharded), tokenizer files, as transformers' Llama.

Its rotary embedding pairs element i of a head with i + E / 2, Meta's pairs neighbours: the rows of wq and wk are
permuted. Older repositories keep the weights in pickles; those are read too, without running code.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from llama2_core.config import ModelConfig, SamplingConfig
from llama2_core.errors import CheckpointError
from llama2_core.interop.pieces import pieces, pieces_of, tokenizer_json, tokenizer_of
from llama2_core.interop.source import OpenModel, checked, read_record, renamed, shapes, validated, with_ffn
from llama2_core.model import Transformer
from llama2_core.tensors import (
    INDEX,
    WHOLE,
    LazyTensor,
    open_pickle,
    pick,
    placed,
    read_safetensors,
    write_json,
    write_safetensors,
)
from llama2_core.tokenizer import Tokenizer

NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
"""Meta's name of a module -> transformers'; those of a block stand in `layers.N` and `model.layers.N`."""

CHAT_TEMPLATE = """\
{%- if messages and messages[0].role == 'system' -%}
    {%- set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if message.role != ('assistant' if loop.index0 % 2 else 'user') -%}
        {{- raise_exception('turns must alternate: user, assistant, user ...') -}}
    {%- endif -%}
    {%- if message.role == 'user' -%}
        {{- bos_token + '[INST] ' + ((system if loop.first else '') + message.content).strip() + ' [/INST]' -}}
    {%- else -%}
        {{- ' ' + message.content.strip() + ' ' + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""
"""Llama 2's chat template, `llama2_core.chat` in Jinja."""


METHODS = {"linear": "linear", "dynamic": "ntk"}
"""transformers' name of a scaling of positions -> ours."""


class Rope(BaseModel):
    model_config = ConfigDict(frozen=True)

    rope_type: Literal["default", "linear", "dynamic"] = Field(
        default="default", validation_alias=AliasChoices("rope_type", "type")
    )
    rope_theta: float | None = None
    factor: float = 1.0


class Config(BaseModel):
    """The fields of config.json that make the model; a value that Llama 2 does not have is refused."""

    model_config = ConfigDict(frozen=True)

    model_type: Literal["llama"]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    max_seq_len: int | None = None  # these two are ours: transformers keeps one length of scaled positions
    original_seq_len: int | None = None
    tie_word_embeddings: bool = False
    rope_theta: float = 10000.0
    rope_parameters: Rope | None = None
    rope_scaling: Rope | None = None
    hidden_act: Literal["silu"] = "silu"
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    head_dim: int | None = None

    @model_validator(mode="after")
    def _heads_fill_the_model(self) -> Self:
        if self.head_dim and self.head_dim * self.num_attention_heads != self.hidden_size:
            raise ValueError(
                f"head_dim is {self.head_dim}, expected hidden_size / num_attention_heads = "
                f"{self.hidden_size / self.num_attention_heads:g}"
            )
        return self

    def fields(self) -> dict[str, Any]:
        """Return the fields of our ModelConfig, without the rule of the FFN's width."""
        rope = self.rope_parameters or self.rope_scaling or Rope()
        longest = original = self.max_position_embeddings
        if rope.rope_type == "dynamic":
            longest = int(original * rope.factor)
        elif rope.rope_type == "linear":
            original = int(longest / rope.factor)
        method = METHODS.get(rope.rope_type)
        return {
            "vocab_size": self.vocab_size,
            "dim": self.hidden_size,
            "n_layers": self.num_hidden_layers,
            "n_heads": self.num_attention_heads,
            "n_kv_heads": self.num_key_value_heads or self.num_attention_heads,
            "norm_eps": self.rms_norm_eps,
            "rope_theta": rope.rope_theta or self.rope_theta,
            "max_seq_len": (method and self.max_seq_len) or longest,
            "tied_embeddings": self.tie_word_embeddings,
            "rope_scaling": method
            and {
                "method": method,
                "factor": rope.factor,
                "original_seq_len": self.original_seq_len or original,
            },
        }


def llama_config(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of transformers' LlamaConfig that make the same model."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    longest, scaling, ours = config.max_seq_len, config.rope_scaling, {}
    if scaling:
        kind = "linear" if scaling.method == "linear" else "dynamic"
        rope |= {"rope_type": kind, "factor": scaling.factor}
        ours = {"max_seq_len": longest, "original_seq_len": scaling.original_seq_len}
        longest = longest if kind == "linear" else scaling.original_seq_len
    return ours | {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "max_position_embeddings": longest,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied_embeddings,
    }


def their_name(name: str) -> str:
    """Return transformers' name of a tensor, given Meta's."""
    return renamed(name, NAMES, "model.layers")


def halves(config: ModelConfig) -> Callable[[Tensor], Tensor]:
    """Return the change of wq or wk [H E, D] from rotary neighbours (Meta) to rotary halves (transformers)."""
    return lambda w: w.view(-1, config.head_dim // 2, 2, w.shape[1]).transpose(1, 2).reshape(w.shape)


def neighbours(config: ModelConfig) -> Callable[[Tensor], Tensor]:
    """Return the inverse of `halves`."""
    return lambda w: w.view(-1, 2, config.head_dim // 2, w.shape[1]).transpose(1, 2).reshape(w.shape)


def rotary(name: str) -> bool:
    """Tell whether a tensor, by Meta's name, makes queries or keys."""
    return name.endswith((".wq.weight", ".wk.weight"))


def weights_for_transformers(model: Transformer) -> dict[str, Tensor]:
    """Return the state dict that makes transformers' LlamaForCausalLM of `llama_config(model.config)` this model."""
    change = halves(model.config)
    return {
        their_name(name): change(weight) if rotary(name) else weight
        for name, weight in model.state_dict().items()
    }


def read_config(path: Path) -> ModelConfig:
    """Read transformers' config.json; raises CheckpointError naming a field that Llama 2 does not have."""
    config = read_record(Config, path)
    return with_ffn(validated(ModelConfig, config.fields(), path), config.intermediate_size)


def read(directory: Path) -> OpenModel:
    """Open a checkpoint of transformers' Llama; raises CheckpointError naming what does not fit Llama 2."""
    config = read_config(directory / "config.json")
    theirs = _open_weights(directory)
    ours = {their_name(name): name for name in shapes(config)}
    tensors = {}
    for name, tensor in theirs.items():
        if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and config.tied_embeddings):
            continue
        mine = ours.get(name, name)
        tensors[mine] = tensor.through(neighbours(config)) if rotary(mine) else tensor
    tokenizer, source = _read_tokenizer(directory, config.vocab_size)
    return checked(config, tokenizer, tensors, source, their_name)


def _open_weights(directory: Path) -> dict[str, LazyTensor]:
    if (directory / WHOLE).is_file() or (directory / INDEX).is_file():
        return read_safetensors(directory)
    index = directory / "pytorch_model.bin.index.json"
    if not index.is_file():
        if not (directory / "pytorch_model.bin").is_file():
            raise CheckpointError(
                f"{directory / WHOLE}: missing, and neither {INDEX} nor pytorch_model.bin is there; restore it"
            )
        return open_pickle(directory / "pytorch_model.bin")
    placement = placed(index)
    shards = {file: open_pickle(directory / file) for file in sorted(set(placement.values()))}
    return pick(placement, shards, directory)


def _read_tokenizer(directory: Path, vocab_size: int) -> tuple[Tokenizer, Path]:
    """Read tokenizer.model, and tell its file; or make it from tokenizer.json, where only that is there or fits.

    Fine-tuned models have pieces, such as `<pad>`, that were added to tokenizer.json and the embedding only.
    """
    whole, made = directory / "tokenizer.model", directory / "tokenizer.json"
    if not made.is_file() or (whole.is_file() and Tokenizer.load(whole).vocab_size == vocab_size):
        return Tokenizer.load(whole), whole
    listed = pieces_of(made)
    if whole.is_file() and len(listed) != vocab_size:
        return Tokenizer.load(whole), whole
    return tokenizer_of(listed, made), made


def write(model: OpenModel, directory: Path, shards: int | None = None) -> None:
    """Write what transformers' AutoModelForCausalLM and AutoTokenizer load."""
    config, tokenizer = model.config, model.tokenizer
    content = tokenizer_json(pieces(tokenizer, model.file))
    directory.mkdir(parents=True)
    change = halves(config)
    theirs = {
        their_name(name): tensor.through(change) if rotary(name) else tensor
        for name, tensor in model.tensors.items()
    }
    write_safetensors(directory, theirs, shards)
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}
    dtype = {"torch_dtype": str(model.dtype).removeprefix("torch.")}
    write_json(directory / "config.json", kind | llama_config(config) | ends | dtype)
    sampling = SamplingConfig()
    draw = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
    write_json(directory / "generation_config.json", ends | draw | {"max_length": config.max_seq_len})
    (directory / "tokenizer.model").write_bytes(tokenizer.model)
    write_json(directory / "tokenizer.json", content)
    write_json(directory / "tokenizer_config.json", _tokenizer_config(config))


def _tokenizer_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_seq_len,
        "chat_template": CHAT_TEMPLATE,
    }
