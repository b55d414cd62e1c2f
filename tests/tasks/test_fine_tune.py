"""Fine-tuning with adapters, as the worker does it: the saved model is the base with the adapter merged in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama2_core.chat import assistant, user
from llama2_core.config import LoRAConfig, OptimizerConfig
from llama2_core.interop.convert import load
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from storage.metrics import read_metrics
from storage.schemas import DEMONSTRATIONS, write_table
from tasks.recipes import FineTuneRecipe
from tasks.runtime import Execution
from tasks.stage import Stage
from tasks.tables import dialog_to_json
from tasks.training_stages import fine_tune

ROOT = Path(__file__).parents[2]
TOKENS = torch.randint(3, 300, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def parents(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> dict[str, Path]:
    save_model(tmp_path / "base", model, tokenizer)
    (tmp_path / "dialogs").mkdir()
    said = {"kind": "open", "safety": False, "quality": "good"}
    rows = [
        {**said, "id": str(i), "dialog": dialog_to_json((user(f"the cat {i}"), assistant("the dog ran")))}
        for i in range(24)
    ]
    write_table(tmp_path / "dialogs" / "demonstrations.parquet", rows, DEMONSTRATIONS)
    return {"base": tmp_path / "base", "dialogs": tmp_path / "dialogs"}


@pytest.mark.parametrize("bits", [None, pytest.param("nf4", marks=pytest.mark.slow)])
def test_the_saved_model_is_the_base_with_the_adapter_merged(
    parents: dict[str, Path], tmp_path: Path, bits: str | None
) -> None:
    if bits:
        pytest.importorskip("bitsandbytes")
    recipe = FineTuneRecipe(
        epochs=3,
        rows=4,
        optimizer=OptimizerConfig(peak_learning_rate=2e-2, warmup_steps=2),
        lora=LoRAConfig(rank=4, alpha=8.0),
        base_bits=bits,  # type: ignore[arg-type]
    )
    directory = tmp_path / "chat"
    directory.mkdir()
    told = recipe.model_dump(mode="json")
    stage = Stage(directory, told, 5, parents, Execution(threads=1, log_every=1))
    summary = fine_tune(stage)
    assert summary["final_loss"] < summary["first_loss"]
    saved, _ = load(directory)
    merged, _ = load(parents["base"], [directory / "adapter"])
    base, _ = load(parents["base"])
    with torch.no_grad():
        assert torch.equal(saved(TOKENS), merged(TOKENS))
        assert (saved(TOKENS) - base(TOKENS)).abs().max() > 0.01


@pytest.fixture
def uneven(parents: dict[str, Path]) -> dict[str, Path]:
    """Return parents whose dialogs teach one token here and forty there."""
    said = {"kind": "open", "safety": False, "quality": "good"}
    answers = ["ran", " ".join(["seven apples and nine pears"] * 2)]
    talk = [dialog_to_json((user(f"the cat {i}"), assistant(answers[i % 5 == 0]))) for i in range(60)]
    rows = [{**said, "id": str(i), "dialog": dialog} for i, dialog in enumerate(talk)]
    write_table(parents["dialogs"] / "demonstrations.parquet", rows, DEMONSTRATIONS)
    return parents


def tuned(
    directory: Path, parents: dict[str, Path], processes: int, micro_rows: int, lora: LoRAConfig | None = None
) -> dict[str, torch.Tensor]:
    """Fine-tune by a worker, and return the weights."""
    directory.mkdir()
    optimizer = OptimizerConfig(peak_learning_rate=3e-3, warmup_steps=2)
    recipe = FineTuneRecipe(
        epochs=2, rows=8, optimizer=optimizer, validation_share=0.1, separate_dialogs=True, lora=lora
    )
    settings = Execution(threads=1, log_every=1, micro_rows=micro_rows, validate_every=2).model_dump(
        mode="json"
    )
    order = {"kind": "chat", "recipe": recipe.model_dump(mode="json"), "seed": 5, "settings": settings}
    told = {role: str(path) for role, path in parents.items()}
    (directory / "job.json").write_text(json.dumps({**order, "parents": told}))
    runner = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(runner if processes > 1 else ()), "-m", "tasks.worker", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(directory / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "micro_rows", "lora"),
    [(1, 1, None), (2, 8, None), (2, 1, None), (2, 8, LoRAConfig(rank=4, dropout=0.0))],
)
def test_neither_accumulation_nor_ranks_change_the_result(
    uneven: dict[str, Path], tmp_path: Path, processes: int, micro_rows: int, lora: LoRAConfig | None
) -> None:
    whole = tuned(tmp_path / "whole", uneven, 1, 8, lora)
    parts = tuned(tmp_path / "parts", uneven, processes, micro_rows, lora)
    logs = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    for name in ("loss", "gradient_norm", "validation_loss"):
        found = [[row[name] for row in log if name in row] for log in logs]
        assert len(found[0]) > 2 and found[0] == pytest.approx(found[1], rel=1e-5)
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, parts[name], atol=3e-5, rtol=1e-3)
