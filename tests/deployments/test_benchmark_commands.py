"""`llama2 benchmarks` and `llama2 evaluate`, for real, without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from storage.artifacts import Store
from storage.benchmark_tables import BENCHMARK_SAMPLES, BENCHMARK_SCORES
from storage.schemas import read_table
from storage.tracking import Tracker
from tests.tasks import benchmark_files

pytest.importorskip("lm_eval", reason="lm-eval, the extra `evaluation`, is not installed")


def llama2(home: Path, *words: str) -> tuple[int, str]:
    """Run the command; return its status and all that it said, in one line."""
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", *words, "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "COLUMNS": "200", "https_proxy": "http://127.0.0.1:9"},
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.slow
def test_a_model_from_a_folder_is_evaluated_on_local_files(
    model: Transformer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    home = tmp_path / "var"
    save_model(tmp_path / "mine", model, tokenizer)
    files = benchmark_files.write(tmp_path / "files")
    status, said = llama2(home, "benchmarks", "add", str(files), "--partial")
    assert status == 0 and "hellaswag: 40 rows" in said

    asked = ("evaluate", str(tmp_path / "mine"), "--tasks", "hellaswag,svamp,gsm8k_cot", "--limit", "5")
    status, said = llama2(home, *asked)
    assert status == 0, said[-2000:]
    assert "30 requests, 0 of them answered by an earlier try" in said
    assert "prompts lost their beginning: the model's context is shorter" in said
    made = Store(home / "artifacts").resolve("benchmarks")
    assert made.manifest.parents.keys() == {"model", "data hellaswag", "data svamp", "data gsm8k"}
    samples = read_table(made.file("samples.parquet"), BENCHMARK_SAMPLES)
    assert {row["task"] for row in samples} == {"hellaswag", "svamp", "gsm8k_cot"}
    scores = read_table(made.file("scores.parquet"), BENCHMARK_SCORES)
    assert all(row["low"] <= row["value"] <= row["high"] and row["n"] == 5 for row in scores)

    tracking = Tracker(f"sqlite:///{home / 'mlflow.db'}", "llama2", home / "mlflow")
    tracked = next(run for run in tracking.runs() if run.data.tags["llama2.digest"] == made.digest)
    hashes = {row["task"]: row["prompt_hash"] for row in scores}
    assert tracked.data.params["harness"] == "0.4.13"
    assert tracked.data.params["tasks.svamp.prompt_hash"] == hashes["svamp"]
    assert "scores/hellaswag/acc_none/value" in tracked.data.metrics
    files = {path.name for path in (home / "mlflow" / tracked.info.run_id).rglob("*.*")}
    assert files >= {"samples.parquet", "scores.parquet", "scores.json"}

    status, said = llama2(home, "card", str(tmp_path / "mine"))
    assert status == 0, said[-2000:]
    page = Store(home / "artifacts").resolve("report-card").file("card.html")
    assert str(page) in said and hashes["svamp"][:8] in page.read_text()

    out = tmp_path / "out"
    status, said = llama2(home, "convert", str(tmp_path / "mine"), str(out), "--to", "huggingface")
    assert status == 0, said[-2000:]
    assert hashes["hellaswag"] in (out / "README.md").read_text()


def test_what_cannot_be_asked_is_told(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_model(tmp_path / "mine", model, tokenizer)
    for words, message in (
        (("--suite", "table4"), "there is no suite 'table4'; the suites are table3, safety"),
        ((), "give either --tasks or --suite"),
    ):
        status, said = llama2(tmp_path / "var", "evaluate", str(tmp_path / "mine"), *words)
        assert status == 1 and message in said


def test_a_card_is_about_models_that_there_are(tmp_path: Path) -> None:
    status, said = llama2(tmp_path / "var", "card", "ppo")
    assert status == 1 and "No artifact 'ppo'" in said and "run a stage first" in said
