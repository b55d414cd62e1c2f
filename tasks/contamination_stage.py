"""What the worker does for contamination: benchmarks' samples are searched for in the training tokens. Llama 2 A.6."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from llama2_core.evaluation.contamination import SampleIndex, Subset, helped, scan_all, subsets
from llama2_core.tokenizer import Tokenizer
from storage.benchmark_tables import BENCHMARK_SAMPLES, CONTAMINATION
from storage.schemas import read_rows, write_table
from storage.shards import TokenShards
from tasks.benchmark_recipe import ContaminationRecipe
from tasks.stage import Stage

ROWS_AT_ONCE = 8192


def contamination(stage: Stage) -> dict:
    """Write each task's four subsets for every shortest match; a sample is prompt and target as read by the model."""
    recipe = ContaminationRecipe.model_validate(stage.recipe)
    tokenizer = Tokenizer.load(stage.parents["tokenizer"] / "tokenizer.model")
    samples = list(_samples(read_rows(stage.parents["benchmarks"] / "samples.parquet", BENCHMARK_SAMPLES)))
    index = SampleIndex([tokenizer.encode(row["text"]) for row in samples])
    shards = TokenShards(stage.parents["tokens"], "train")
    starts = range(0, len(shards), ROWS_AT_ONCE)
    rows = (shards.rows(np.arange(start, min(start + ROWS_AT_ONCE, len(shards)))) for start in starts)
    total = scan_all(index, (part.astype(np.int32).reshape(-1) for part in rows))
    shares = {length: index.shares(length) for length in recipe.lengths}
    tasks = np.array([row["task"] for row in samples])
    found = []
    for task in dict.fromkeys(tasks):
        here = tasks == task
        of_task = [row["scores"] for row in samples if row["task"] == task]
        for metric in set.intersection(*map(set, of_task)):
            scores = np.array([row[metric] for row in of_task])
            for length, share in shares.items():
                parts = subsets(share[here], scores)
                about = {"task": task, "metric": metric, "length": length, "helped": helped(parts)}
                found += [{**about, "subset": part.name, **_facts(part)} for part in parts]
    write_table(stage.directory / "contamination.parquet", found, CONTAMINATION)
    benefited = sorted({row["task"] for row in found if row["helped"]})
    return {
        "training_tokens": total,
        "samples": len(samples),
        "not_clean": int((shares[recipe.lengths[0]] >= 0.2).sum()),
        "tasks": len(set(tasks)),
        "tasks_helped": len(benefited),
        "helped": benefited,
    }


def _facts(part: Subset) -> dict[str, float]:
    return {"contaminated": part.contaminated, "n": part.n, "mean": part.mean, "z": part.z}


def _samples(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield each question once, with those of its scores that are numbers."""
    seen = set()
    for row in rows:
        if (key := (row["task"], row["document"])) not in seen:
            seen.add(key)
            scores = {
                metric: float(value)
                for metric, value in json.loads(row["scores"]).items()
                if isinstance(value, int | float)
            }
            yield {"task": row["task"], "text": f"{row['prompt']} {row['target']}", "scores": scores}
