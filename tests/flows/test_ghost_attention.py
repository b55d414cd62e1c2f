"""`llama2 teach ghost-attention`, for real: a tiny chat model, constraints and dialogs of one's own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import load_policy, save_model
from storage.artifacts import Store

PROFILE = """
ghost_attention:
  start: {context: {max_seq_len: 256}}
  constraints:
    constraints:
      - {kind: figure, value: cat}
      - {kind: figure, value: dog}
      - {kind: hobby, value: mat}
      - {kind: hobby, value: pears}
  ghost: {dialogs: 6, most_turns: 3, sampling: {max_new_tokens: 4}}
  fine_tune: {epochs: 1, rows: 2, optimizer: {warmup_steps: 1}}
  retention: {turns: [2, 3], dialogs: 4, sampling: {max_new_tokens: 4}}
  attention: {dialogs: 2}
runtime: {threads: 1}
"""
TALK = [
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "sat on a mat"},
    {"role": "user", "content": "the dog"},
    {"role": "assistant", "content": "ran"},
]


@pytest.mark.drill
def test_a_chat_model_is_taught_and_measured(
    model: Transformer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_model(tmp_path / "mine", model, tokenizer)
    talks = [[{**message, "content": f"{message['content']} {n}"} for message in TALK] for n in range(6)]
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps({"messages": talk}) for talk in talks))
    (tmp_path / "mine.yaml").write_text(PROFILE)
    words = ["teach", "ghost-attention", "mine", "chats.jsonl", "--profile", "mine.yaml"]
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", *words],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    store = Store(tmp_path / "var" / "artifacts")
    taught = store.resolve("chat")
    assert taught.manifest.parents.keys() == {"base", "dialogs ordinary", "ghost"}
    assert taught.summary["dialogs"] == 6 + store.resolve("ghost").summary["dialogs"]
    assert load_policy(taught.path)[0].config.max_seq_len == 256
    held = [a for a in store.artifacts() if a.kind == "retention"]
    assert [artifact.summary["turn 1"]["n"] for artifact in held] == [4, 4, 4]
    report = store.resolve("ghost-report")
    assert {path.name for path in report.path.glob("*.svg")} == {
        "retention.svg",
        "attention.svg",
        "attention-maps.svg",
    }
    assert "Answers that keep to all that the first turn asked for" in done.stdout
    assert {a.kind for a in store.lineage(report)} >= {"base", "dialogs", "constraints", "ghost", "attention"}
