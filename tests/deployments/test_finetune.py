"""`llama2 finetune`: a model of another format and dialogs of one's own become a chat model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llama2_core.interop.convert import convert
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import load_policy, save_model
from storage.artifacts import Store

DIALOG = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on a mat"}]


def finetune(home: Path, model: Path, dialogs: Path, *changes: str) -> subprocess.CompletedProcess[str]:
    words = ["finetune", str(model), str(dialogs), "--home", str(home)]
    sets = [word for change in changes for word in ("--set", change)]
    return subprocess.run(
        [sys.executable, "-m", "deployments.cli", *words, *sets], capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def theirs(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    save_model(tmp_path / "native", model, tokenizer)
    convert(tmp_path / "native", tmp_path / "theirs", "huggingface")
    return tmp_path / "theirs"


@pytest.mark.slow
def test_adapters_on_a_hugging_face_model(theirs: Path, tmp_path: Path) -> None:
    dialogs = tmp_path / "chats.jsonl"
    dialogs.write_text("\n".join(json.dumps({"messages": DIALOG}) for _ in range(6)))
    home = tmp_path / "var"
    done = finetune(home, theirs, dialogs, "recipe.lora={rank: 2}", "recipe.rows=1")
    assert done.returncode == 0, done.stderr[-2000:]
    store = Store(home / "artifacts")
    chat = store.resolve("chat")
    assert (chat.path / "adapter" / "adapter_config.json").is_file()
    assert {artifact.kind for artifact in store.lineage(chat)} == {"base", "dialogs"}
    load_policy(chat.path)
    again = finetune(home, theirs, dialogs, "recipe.lora={rank: 2}", "recipe.rows=1")
    assert again.returncode == 0
    assert len(store.artifacts()) == 3, "the same files are the same artifacts"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [{"role": "user", "content": "x"}]}', "chats.jsonl:2: the dialog must end"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "chats.jsonl:2: "),
        ('{"text": "x"}', 'chats.jsonl:2: no list named "messages"'),
    ],
)
def test_a_bad_line_is_named(line: str, message: str, theirs: Path, tmp_path: Path) -> None:
    dialogs = tmp_path / "chats.jsonl"
    dialogs.write_text(f"{json.dumps({'messages': DIALOG})}\n{line}\n")
    done = finetune(tmp_path / "var", theirs, dialogs)
    assert done.returncode == 1
    assert message in " ".join(done.stderr.split())
    assert not Store(tmp_path / "var" / "artifacts").artifacts()
