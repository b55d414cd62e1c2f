"""A reward model on real preferences: hh-rlhf's harmless pairs, held-out accuracy with its interval.

`python -m benchmarks.hh_rlhf [--seeds 0 1 2] [--epochs 1]`. The pairs are those of ../shared/data (1,500, of the test
split). For each seed a fifth of the prompts is held out, a chat model of 1.4 million parameters is made from nothing
by fine-tuning on what the others chose, and a reward model is trained from it by the pipeline's own stages.
"""

import argparse
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from llama2_core.chat import Dialog, Message
from llama2_core.config import ModelConfig, OptimizerConfig, RewardConfig
from llama2_core.evaluation.statistics import proportion
from llama2_core.model import Transformer, initialise
from llama2_core.seeding import generator
from llama2_core.tokenizer import train_tokenizer
from llama2_core.training.checkpoint import save_model
from storage.preference_events import Comparison
from storage.preference_imports import check
from storage.schemas import COMPARISONS, DEMONSTRATIONS, write_table
from tasks.recipes import FineTuneRecipe
from tasks.reward_recipe import RewardRecipe
from tasks.runtime import Execution
from tasks.stage import Stage
from tasks.tables import dialog_to_json
from tasks.training_stages import fine_tune, reward

PAIRS = Path(__file__).parents[2] / "shared" / "data" / "hh_rlhf" / "harmless-base_test.jsonl.gz"
SHAPE = ModelConfig(
    vocab_size=4096,
    dim=128,
    n_layers=4,
    n_heads=4,
    n_kv_heads=2,
    multiple_of=128,
    max_seq_len=256,
    tied_embeddings=True,
)
HELD_OUT = 0.2


def pairs() -> Iterator[tuple[Dialog, str, str]]:
    """Yield prompt, chosen and rejected answer of what `llama2 preferences import` takes."""
    for found in check(PAIRS, "hh-rlhf", "hh", "hh-rlhf", "safety"):
        if isinstance(found, Comparison):
            turns = tuple(Message(role=turn.role, content=turn.content) for turn in found.dialog)
            yield turns, *(response.text for response in found.responses)


def comparison(number: int, prompt: Dialog, chosen: str, rejected: str, held_out: bool) -> dict[str, Any]:
    """Return a row of the comparisons table; nobody graded these, or said what was safe."""
    return {
        **dict.fromkeys(COMPARISONS.names),
        "id": str(number),
        "prompt_id": str(number),
        "batch": "hh-rlhf",
        "kind": "unsafe",
        "safety": True,
        "dialog": dialog_to_json(prompt),
        "chosen": chosen,
        "rejected": rejected,
        "chosen_model": "hh-rlhf",
        "rejected_model": "hh-rlhf",
        "chosen_temperature": 1.0,
        "rejected_temperature": 1.0,
        "grade": "better",
        "safety_bin": "",
        "annotator": "hh-rlhf",
        "annotator_kind": "import",
        "turns": (len(prompt) + 1) // 2,
        "held_out": held_out,
    }


def trained(folder: Path, seed: int, epochs: int, limit: int | None = None) -> dict[str, Any]:
    """Return the summary of a reward model trained on `limit` pairs."""
    found = list(pairs())[:limit]
    random_ = random.Random(seed)
    held_out = {prompt: random_.random() < HELD_OUT for prompt, _, _ in found}
    rows = [comparison(i, *pair, held_out[pair[0]]) for i, pair in enumerate(found)]
    lessons = [row for row in rows if not row["held_out"]]
    (folder / "comparisons").mkdir()
    write_table(folder / "comparisons" / "comparisons.parquet", rows, COMPARISONS)
    texts = (text for row in lessons for text in (row["dialog"], row["chosen"], row["rejected"]))
    tokenizer = train_tokenizer(texts, SHAPE.vocab_size, ["[INST]", "[/INST]"])
    model = Transformer(SHAPE)
    initialise(model, SHAPE, generator(seed, "initialise"))
    save_model(folder / "base", model, tokenizer)
    (folder / "dialogs").mkdir()
    demonstrations = [
        {
            "id": row["id"],
            "kind": "unsafe",
            "safety": True,
            "quality": "",
            "dialog": dialog_to_json((*prompt, Message(role="assistant", content=chosen))),
        }
        for row, (prompt, chosen, _) in zip(rows, found, strict=True)
        if not row["held_out"]
    ]
    write_table(folder / "dialogs" / "demonstrations.parquet", demonstrations, DEMONSTRATIONS)
    rate = OptimizerConfig(peak_learning_rate=2e-3, warmup_steps=5)
    execution = Execution(threads=torch.get_num_threads())
    told = FineTuneRecipe(epochs=4, rows=16, optimizer=rate).model_dump(mode="json")
    parents = {"base": folder / "base", "dialogs": folder / "dialogs"}
    (folder / "chat").mkdir()
    fine_tune(Stage(folder / "chat", told, seed, parents, execution))
    loss = RewardConfig(margin="none")
    optimizer = OptimizerConfig(peak_learning_rate=5e-4, warmup_steps=5)
    recipe = RewardRecipe(domain="safety", other_share=0, reward=loss, epochs=epochs, optimizer=optimizer)
    parents = {"chat": folder / "chat", "comparisons1": folder / "comparisons"}
    (folder / "reward").mkdir()
    return reward(Stage(folder / "reward", recipe.model_dump(mode="json"), seed, parents, execution))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    right = n = 0
    for seed in chosen.seeds:
        with tempfile.TemporaryDirectory() as folder:
            summary = trained(Path(folder), seed, chosen.epochs)
        found = summary["accuracy"]["safety"]["all"]
        right, n = right + found["right"], n + found["n"]
        told = proportion(found["right"], found["n"])
        print(
            f"seed {seed}: {summary['parameters']:,} parameters, {summary['pairs']} pairs, loss "
            f"{summary['first_loss']:.3f} to {summary['final_loss']:.3f}, held-out accuracy "
            f"{100 * told.value:.1f} ({100 * told.low:.1f} to {100 * told.high:.1f}), n = {told.n}",
            flush=True,
        )
    told = proportion(right, n)
    print(f"all: {100 * told.value:.1f} ({100 * told.low:.1f} to {100 * told.high:.1f}), n = {n}")


if __name__ == "__main__":
    main()
