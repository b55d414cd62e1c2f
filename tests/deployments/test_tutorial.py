"""docs/tutorial.md as a reader follows it: its files written, its commands run in their order, training cut short."""

import os
import random
import subprocess
import sysconfig
from pathlib import Path

import pytest

from storage.artifacts import Store
from tests.conftest import WORDS
from tests.deployments.test_docs import blocks, commands

PAGE = "docs/tutorial.md"
ROOT = Path(__file__).parents[2]
SHORTER = {
    "pretrain": ["--set", "recipe.pretrain.loop.steps=30"],
    "finetune": ["--set", "recipe.optimizer.warmup_steps=1"],
    "run": ["--profile", "ci", "--set", "recipe.pretrain.loop.steps=30"],
}


@pytest.mark.drill
def test_the_tutorial_leads_from_a_folder_to_a_chat_model(tmp_path: Path) -> None:
    draws = random.Random(0)
    (tmp_path / "texts").mkdir()
    sentence = lambda: f"The {' '.join(draws.choices(WORDS, k=12))} {draws.randrange(10**6)}."  # noqa: E731
    book = "\n\n".join("\n".join(sentence() for _ in range(9)) for _ in range(400))
    (tmp_path / "texts" / "book.txt").write_text(book)
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


def follow(folder: Path, words: list[str]) -> None:
    """Run a command in the reader's folder; what a chat is told ends with the end of its input."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    known |= {"PYTHONPATH": str(ROOT), "PATH": f"{sysconfig.get_path('scripts')}:{known['PATH']}"}
    said = "Hello!\n" if words[1] == "chat" else ""
    done = subprocess.run(
        words, cwd=folder, env=known, input=said, capture_output=True, text=True, timeout=590
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
