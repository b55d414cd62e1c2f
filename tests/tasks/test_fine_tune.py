"""Fine-tuning with adapters, as the worker does it: the saved model is the base with the adapter merged in."""

from pathlib import Path

import pytest
import torch

from llama2_core.chat import assistant, user
from llama2_core.config import LoRAConfig, OptimizerConfig
from llama2_core.interop.convert import load
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from storage.schemas import DEMONSTRATIONS, write_table
from tasks.recipes import FineTuneRecipe
from tasks.runtime import Execution
from tasks.stage import Stage
from tasks.tables import dialog_to_json
from tasks.training_stages import fine_tune

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
