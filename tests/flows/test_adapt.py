"""`llama2 adapt`, for real: a tiny model of one script learns words of another one."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from llama2_core.interop.convert import convert
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import load_policy, save_model
from storage.artifacts import Store

PROFILE = """
recipe:
  corpus:
    sources: [{kind: files, name: greek, paths: [texts]}]
    languages: [el, unknown]
    language_threshold: 1.0
    quality: {gopher: null, repetition: null, c4: null}
  vocabulary: {vocab_size: 360, symbols: []}
  start: {context: {max_seq_len: 96, rope_scaling: {method: linear, factor: 1.5}}}
  tokens: {row_tokens: 97, validation_share: 0.1}
  pretrain: {loop: {steps: 40, rows: 4, optimizer: {peak_learning_rate: 1.0e-2, warmup_steps: 4}}}
  sft: {epochs: 1, rows: 2, lora: {rank: 2}, optimizer: {peak_learning_rate: 1.0e-3, warmup_steps: 1}}
  export: [huggingface, gguf]
"""
DIALOG = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "καλημέρα"}]
WORDS = [
    "καλημέρα",
    "θάλασσα",
    "ουρανός",
    "σπίτι",
    "δρόμος",
    "ψωμί",
    "νερό",
    "και",
    "το",
    "στο",
    "μέρα",
    "νύχτα",
]


def adapt(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deployments.cli", "adapt", "theirs", "chats.jsonl", "mine.yaml", *words]
    root = Path(__file__).parents[2]
    return subprocess.run(
        command,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def folder(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    save_model(tmp_path / "native", model, tokenizer)
    convert(tmp_path / "native", tmp_path / "theirs", "huggingface")
    draws = random.Random(0)
    (tmp_path / "texts").mkdir()
    lines = [json.dumps({"text": " ".join(draws.choices(WORDS, k=60))}) for _ in range(80)]
    (tmp_path / "texts" / "greek.jsonl").write_text("\n".join(lines))
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps({"messages": DIALOG}) for _ in range(6)))
    (tmp_path / "mine.yaml").write_text(PROFILE)
    return tmp_path


@pytest.mark.slow
def test_a_model_learns_another_script_and_leaves(folder: Path) -> None:
    done = adapt(folder)
    assert done.returncode == 0, done.stderr[-2000:]
    store = Store(folder / "var" / "artifacts")
    measured = store.resolve("adaptation").summary
    imported, start, continued = (measured[name] for name in ("imported", "start", "continued"))
    assert start["characters_per_token"] > 2 * imported["characters_per_token"]
    assert continued["characters_per_token"] == start["characters_per_token"]
    assert continued["bits_per_character"] < 0.7 * imported["bits_per_character"]
    assert continued["bits_per_character"] < 0.7 * start["bits_per_character"]
    assert measured["held_out_documents"] > 2
    chat = store.resolve("chat")
    assert {artifact.kind for artifact in store.lineage(chat)} >= {"corpus", "tokenizer", "tokens", "dialogs"}
    ours, _ = load_policy(chat.path)
    assert ours.config.max_seq_len == 96 and ours.config.rope_scaling
    exported = {next(iter(a.path.glob("*[!n]"))).name for a in store.artifacts() if a.kind == "export"}
    assert exported == {"huggingface", "model.gguf"}
    path = next(a.path / "huggingface" for a in store.artifacts() if (a.path / "huggingface").exists())
    tokens = torch.randint(3, ours.config.vocab_size, (1, 90), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(path)(tokens).logits
        torch.testing.assert_close(ours(tokens), theirs, atol=1e-4, rtol=1e-4)


def test_an_unknown_field_and_a_missing_file_are_named(folder: Path) -> None:
    wrong = adapt(folder, "--set", "recipe.vocabulary.pieces=3")
    assert (
        wrong.returncode != 0 and "recipe.vocabulary.pieces: Extra inputs are not permitted" in wrong.stderr
    )
    (folder / "mine.yaml").unlink()
    assert "mine.yaml: not readable as YAML" in adapt(folder).stderr
