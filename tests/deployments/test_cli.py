"""The command as a user types it: bad input ends it early, with a message that says what to do."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from storage.artifacts import Store

ROOT = Path(__file__).parents[2]


def llama2(*words: str, packages: Path | None = None) -> tuple[int, str]:
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
    assert "error: " in said and str(empty) in said and "blank" in said


def test_a_full_disk_is_refused_before_any_work(tmp_path: Path) -> None:
    needed = "runtime.least_free_bytes=1000000000000000"
    status, said = llama2("run", "--set", f"runtime.home={tmp_path / 'var'}", "--set", needed)
    assert status == 1
    assert "needs 1,000,000,000,000,000 bytes" in said


@pytest.mark.parametrize("package", ["gensim", "dictionary"])
def test_a_missing_starter_package_is_named_before_training(package: str, tmp_path: Path) -> None:
    """In a real interpreter that has everything but this package."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(package):
            (packages / entry.name).symlink_to(entry)
    words = ["run", "--profile", "ci", "--set", f"runtime.home={tmp_path / 'var'}"]
    if package == "gensim":
        words += ["--set", "recipe.corpus.sources=[{kind: starter, name: wikipedia-en}]"]
    status, said = llama2(*words, packages=packages)
    assert status == 1
    assert f"needs the package {package}" in said
    assert 'pip install "llama2-pipeline[starter]"' in said
    assert "pretraining base/" not in said


def test_an_artifact_is_converted_and_a_torn_model_refused(
    model: Transformer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    store, digest = Store(tmp_path / "var" / "artifacts"), "c0ffee" * 10
    measured = {"summary": {}, "wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1}
    with store.building("chat", digest) as partial:
        save_model(partial, model, tokenizer)
        store.commit("chat", digest, version=1, recipe={}, parents={}, **measured)
    home, exported = ["--home", str(tmp_path / "var")], tmp_path / "exported"
    status, said = llama2("convert", "chat/c0ffee", str(exported), "--to", "huggingface", *home)
    assert status == 0
    assert "logits differ by at most 0, root mean square 0" in said
    weights = exported / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    status, said = llama2("convert", str(exported), str(tmp_path / "meta"), "--to", "meta")
    assert status == 1
    assert "cannot be read as safetensors" in said
    assert not (tmp_path / "meta").exists()
