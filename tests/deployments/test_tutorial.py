"""docs/tutorial.md as a reader follows it: its files written, its commands run in their order, training cut short."""

import os
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from storage.artifacts import Store
from tests.deployments.test_docs import blocks, commands
from tests.stack import ROOT, environment

PAGE = "docs/tutorial.md"
SHORTER = {
    "pretrain": ["--set", "recipe.pretrain.loop.steps=30"],
    "finetune": ["--set", "recipe.optimizer.warmup_steps=1"],
    "run": ["--profile", "ci", "--set", "recipe.pretrain.loop.steps=30"],
}


@pytest.mark.drill
def test_the_tutorial_leads_from_a_folder_to_a_chat_model(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "book.txt").write_text(book())
    [profile] = [text for language, text in blocks(PAGE) if language == "yaml"]
    [dialogs] = [text for language, text in blocks(PAGE) if language == "json"]
    (tmp_path / "mine.yaml").write_text(profile)
    (tmp_path / "chats.jsonl").write_text(dialogs)
    for words in commands(PAGE):
        if words[0] == "llama2":
            follow(tmp_path, [*words, *SHORTER.get(words[1], [])])
    store = Store(tmp_path / "var" / "artifacts")
    assert {"corpus", "tokenizer", "tokens", "card", "base", "chat", "ppo"} <= {
        a.kind for a in store.artifacts()
    }
    chat = next(a for a in store.artifacts() if a.kind == "chat")
    assert {a.kind for a in store.lineage(chat)} >= {"corpus", "tokenizer", "tokens", "base", "dialogs"}
    assert (tmp_path / "my-chat-model" / "config.json").is_file() and (
        tmp_path / "my-chat-model.gguf"
    ).is_file()
    assert (tmp_path / "var" / "report" / "report.html").is_file()


def book() -> str:
    """Return some hundred thousand words of English: what Python's own help says of its topics."""
    return "\n\n".join(topics.values())


def follow(
    folder: Path, words: list[str], exported: Mapping[str, str] = {}, status: int = 0, says: str = ""
) -> None:
    """Run a command in a folder; what a chat is told ends with the end of its input."""
    done = subprocess.run(
        ["env", *words],
        cwd=folder,
        env=readers(exported),
        input="Hello!\n",
        capture_output=True,
        text=True,
        timeout=590,
    )
    said = done.stdout + done.stderr
    assert (done.returncode, says in " ".join(said.split())) == (status, True), f"{words}: {said[-3000:]}"


def readers(exported: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a reader who has activated .venv, and exported more."""
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    return environment() | {"PYTHONPATH": str(ROOT), "PATH": path, "COLUMNS": "200"} | dict(exported)
