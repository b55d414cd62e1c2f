"""Hugging Face's checkpoints, with transformers as the oracle."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llama2_core.chat import Dialog, Message, assistant, encode_dialog, encode_prompt, user
from llama2_core.config import ModelConfig
from llama2_core.errors import CheckpointError
from llama2_core.interop import huggingface, native
from llama2_core.interop.convert import convert, logits, prompts
from llama2_core.interop.huggingface import llama_config
from llama2_core.interop.sentences import SENTENCES
from llama2_core.interop.source import with_ffn
from llama2_core.presets import PRESETS
from llama2_core.tensors import write_json
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import load_policy


@pytest.fixture
def exported(make: Callable[..., Path], tmp_path: Path) -> Path:
    convert(make(), tmp_path / "export", "huggingface", shards=3)
    return tmp_path / "export"


@pytest.mark.parametrize("kv_heads", [16, 4, 1])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shards", [None, 3])
def test_transformers_loads_the_export_and_agrees(
    kv_heads: int, tied: bool, shards: int | None, make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make(n_kv_heads=kv_heads, tied_embeddings=tied, rope_theta=5000.0, norm_eps=1e-4)
    convert(source, tmp_path / "export", "huggingface", shards)
    ours, tokenizer = load_policy(source)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "export")
    tokens = prompts(tokenizer)
    with torch.no_grad():
        expected, found = ours(tokens), theirs(tokens).logits
    assert expected.std() > 0.5
    assert (expected - found).abs().max() < 1e-4


def test_transformers_keeps_the_dtype(make: Callable[..., Path], tmp_path: Path) -> None:
    convert(make(dtype=torch.bfloat16), tmp_path / "export", "huggingface")
    assert LlamaForCausalLM.from_pretrained(tmp_path / "export", dtype="auto").dtype == torch.bfloat16


@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_of_transformers_reads_back(tied: bool, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """An odd FFN width, one that no rule of Llama 2's gives."""
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=48,
        intermediate_size=101,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        rope_theta=20000.0,
        initializer_range=0.3,
    )
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="60KB")
    (tmp_path / "theirs" / "tokenizer.model").write_bytes(tokenizer.model)
    convert(tmp_path / "theirs", tmp_path / "native", "native")
    ours, _ = load_policy(tmp_path / "native")
    tokens = prompts(tokenizer)
    with torch.no_grad():
        expected, found = theirs(tokens).logits, ours(tokens)
    assert expected.std() > 0.5
    assert (expected - found).abs().max() < 1e-4


def test_old_repositories_keep_pickles(exported: Path) -> None:
    """pytorch_model.bin, with the buffer that old versions saved."""
    before = logits(huggingface.read(exported), torch.arange(10).unsqueeze(0))
    tensors = {}
    for path in exported.glob("*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    (exported / "model.safetensors.index.json").unlink()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    torch.save(tensors, exported / "pytorch_model.bin")
    assert torch.equal(logits(huggingface.read(exported), torch.arange(10).unsqueeze(0)), before)


SYSTEM = Message(role="system", content=" Answer as the cat would. ")
DIALOGS: dict[str, Dialog] = {
    "single": (user(" the cat sat "), assistant(" on a mat\n")),
    "several": (user("the dog"), assistant("ran to the 12 houses"), user("雪 🦙?"), assistant("nine  pears")),
    "system": (SYSTEM, user("\nhow many pears"), assistant("seven"), user("and apples"), assistant("9")),
}


def reference_ids(dialog: Dialog, tokenizer: Tokenizer) -> list[int]:
    """What the reference code's chat_completion makes of a dialog, written out; an answer may come last."""
    turns = [(turn.role, turn.content) for turn in dialog]
    if turns[0][0] == "system":
        turns = [("user", f"<<SYS>>\n{turns[0][1]}\n<</SYS>>\n\n{turns[1][1]}"), *turns[2:]]
    ids = []
    for (_, prompt), (_, answer) in zip(turns[::2], turns[1::2], strict=False):
        text = f"[INST] {prompt.strip()} [/INST] {answer.strip()} "
        ids += [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
    if len(turns) % 2:
        ids += [tokenizer.bos_id, *tokenizer.encode(f"[INST] {turns[-1][1].strip()} [/INST]")]
    return ids


@pytest.mark.parametrize("name", DIALOGS)
def test_the_chat_template_gives_our_ids_and_the_references(
    name: str, make: Callable[..., Path], any_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = native.read(make())
    if source.tokenizer.vocab_size != any_tokenizer.vocab_size:
        source = replace(source, tokenizer=any_tokenizer)
    huggingface.write(source, tmp_path / "export")
    dialog, theirs = DIALOGS[name], AutoTokenizer.from_pretrained(tmp_path / "export")
    for turns, ours in (
        (dialog, encode_dialog(dialog, any_tokenizer)[0]),
        (dialog[:-1], encode_prompt(dialog[:-1], any_tokenizer)),
    ):
        messages = [turn.model_dump() for turn in turns]
        assert theirs.apply_chat_template(messages, return_dict=False) == ours
        assert ours == reference_ids(turns, any_tokenizer)


def test_atoms_template_is_its_text_to_transformers(
    make: Callable[..., Path], any_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    huggingface.write(replace(native.read(make()), tokenizer=any_tokenizer), tmp_path / "export")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "export")
    text = "<s>Human: the cat sat\n</s><s>Assistant: on a mat\n</s><s>Human: and 7\n</s><s>Assistant: "
    dialog = [user("the cat sat"), assistant("on a mat"), user("and 7")]
    assert theirs(text, add_special_tokens=False).input_ids == encode_prompt(dialog, any_tokenizer, "atom")


def test_the_chat_template_refuses_turns_out_of_order(exported: Path) -> None:
    with pytest.raises(Exception, match="turns must alternate"):
        AutoTokenizer.from_pretrained(exported).apply_chat_template([{"role": "assistant", "content": "a"}])


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_config_comes_back(preset: ModelConfig, tmp_path: Path) -> None:
    LlamaConfig(**llama_config(preset)).save_pretrained(tmp_path)
    assert huggingface.read_config(tmp_path / "config.json") == preset


@pytest.mark.parametrize("width", [101, 255, 257, 11008, 28673])
def test_every_ffn_width_has_a_rule(width: int) -> None:
    assert with_ffn(ModelConfig(vocab_size=8, dim=48, n_heads=4, n_kv_heads=4), width).ffn_dim == width


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mistral"}, "model_type"),
        ({"attention_bias": True}, "attention_bias"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "rope_parameters": None},
            "rope_scaling.rope_type",
        ),
        ({"head_dim": 8}, "head_dim is 8, expected hidden_size / num_attention_heads = 4"),
        ({"num_key_value_heads": 3}, "n_heads 16 must be a multiple of n_kv_heads 3"),
    ],
)
def test_what_llama_2_does_not_have_is_refused(change: dict, message: str, exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    (exported / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{message}"):
        huggingface.read(exported)


def test_a_missing_shard_is_named(exported: Path) -> None:
    (exported / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors: .*missing"):
        huggingface.read(exported)


def test_a_torn_shard_is_named(exported: Path) -> None:
    path = exported / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        CheckpointError, match=r"model-00003-of-00003\.safetensors: cannot be read as safetensors"
    ):
        huggingface.read(exported)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": torch.ones(63)}, r"tensor model.norm.weight is \[63\], expected \[64\]"),
        (
            {"model.norm.bias": torch.ones(64)},
            "tensor model.norm.bias is not part of a Llama 2 language model",
        ),
        ({"model.norm.weight": None}, r"model\.safetensors: tensor model.norm.weight \[64\] is missing"),
        ({"model.norm.weight": torch.ones(64, dtype=torch.int8)}, "tensor model.norm.weight is I8, expected"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    change: dict, message: str, make: Callable[..., Path], tmp_path: Path
) -> None:
    convert(make(), tmp_path / "export", "huggingface")
    path = tmp_path / "export" / "model.safetensors"
    changed = load_file(path) | change
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, path)
    with pytest.raises(CheckpointError, match=message):
        huggingface.read(tmp_path / "export")


def test_a_native_checkpoint_in_shards_trains_on(make: Callable[..., Path], tmp_path: Path) -> None:
    source = make()
    convert(source, tmp_path / "shards", "native", shards=4)
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) == 4
    whole, sharded = load_policy(source)[0].state_dict(), load_policy(tmp_path / "shards")[0].state_dict()
    assert all(torch.equal(tensor, sharded[name]) for name, tensor in whole.items())
    (tmp_path / "shards" / "config.json").write_text('{"dim": 64}')
    for read in (native.read, load_policy):
        with pytest.raises(CheckpointError, match=r"config\.json: vocab_size: Field required"):
            read(tmp_path / "shards")


def test_pieces_that_fine_tuning_added_are_read_from_tokenizer_json(
    make: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """<pad> has a row of the embedding and a line of tokenizer.json; tokenizer.model is as it was."""
    export = tmp_path / "export"
    convert(make(), export, "huggingface")
    tensors, config = (
        load_file(export / "model.safetensors"),
        json.loads((export / "config.json").read_text()),
    )
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], torch.zeros(1, 64)])
    save_file(tensors, export / "model.safetensors")
    write_json(export / "config.json", config | {"vocab_size": 321})
    with pytest.raises(
        CheckpointError, match=r"embed_tokens.weight has 321 rows, expected 320, .*tokenizer.model"
    ):
        huggingface.read(export)
    content = json.loads((export / "tokenizer.json").read_text())
    content["added_tokens"].append({"id": 320, "content": "<pad>", "special": True})
    write_json(export / "tokenizer.json", content)
    convert(export, tmp_path / "again", "native")
    found = native.read(tmp_path / "again").tokenizer
    assert found.vocab_size == 321
    for text in [*SENTENCES.values(), "the cat sat on a mat"]:
        assert found.encode(text) == tokenizer.encode(text)


def test_a_file_that_is_no_name_is_told(exported: Path) -> None:
    write_json(exported / "model.safetensors.index.json", {"weight_map": {"model.norm.weight": 1}})
    with pytest.raises(
        CheckpointError, match=r"index\.json: weight_map has 1 for tensor model.norm.weight, expected a file"
    ):
        huggingface.read(exported)


def test_a_tensor_that_no_shard_has_is_told_by_all_of_them(exported: Path) -> None:
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    del index["weight_map"]["model.layers.1.input_layernorm.weight"]
    write_json(exported / "model.safetensors.index.json", index)
    files = r"model-00001-of-00003\.safetensors to .*model-00003-of-00003\.safetensors"
    with pytest.raises(
        CheckpointError, match=rf"{files}: tensor model.layers.1.input_layernorm.weight \[64\] is missing"
    ):
        huggingface.read(exported)
