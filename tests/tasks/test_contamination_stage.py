"""A question that stood in the training tokens is contaminated, others are not, and the table says what it helped."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from llama2_core.tokenizer import Tokenizer
from storage.benchmark_tables import BENCHMARK_SAMPLES, CONTAMINATION
from storage.schemas import read_table, write_table
from tasks.benchmark_recipe import ContaminationRecipe
from tasks.contamination_stage import contamination
from tasks.runtime import Execution
from tasks.stage import Stage
from tasks.suite_tables import contamination_table


def test_what_stood_in_the_training_tokens_is_found(
    write_tokens: Callable[[Path, np.ndarray], None], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    samples = [
        {
            "task": "sums",
            "document": number,
            "filter": filter_,
            "prompt": f"the question number {number} {'ab cd ' * number} is this one, and",
            "target": f"the answer to it is {number * 7}",
            "answers": "[]",
            "read": "[]",
            "scores": json.dumps({"acc": float(number < 4), "note": "text"}),
        }
        for number in range(12)
        for filter_ in ("none", "strict")
    ]
    write_table(tmp_path / "samples.parquet", samples, BENCHMARK_SAMPLES)
    seen = [f"{row['prompt']} {row['target']}" for row in samples if row["document"] < 4]
    tokens = [token for text in seen for token in [1, *tokenizer.encode(text), 2]]
    row = 40
    tokens += [3] * (9 * row + -len(tokens) % row)
    write_tokens(tmp_path, np.array(tokens).reshape(-1, row))
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.model)
    parents = dict.fromkeys(("benchmarks", "tokens", "tokenizer"), tmp_path)
    recipe = ContaminationRecipe(lengths=(10, 20)).model_dump()
    summary = contamination(Stage(tmp_path, recipe, 0, parents, Execution()))
    assert (summary["samples"], summary["training_tokens"]) == (12, len(tokens))
    found = {
        (row["length"], row["subset"]): row
        for row in read_table(tmp_path / "contamination.parquet", CONTAMINATION)
    }
    assert {row["metric"] for row in found.values()} == {"acc"}
    assert found[20, "dirty"]["n"] >= 4 and found[20, "dirty"]["mean"] > found[20, "clean"]["mean"]
    shown = contamination_table(list(found.values()))
    assert [row["subset"] for row in shown] == ["clean", "not clean", "not dirty", "dirty"]
