"""What the worker does for the reward models' report: every model scores every held-out comparison, once."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llama2_core.rlhf.reward import score_rows
from llama2_core.tokenizer import Tokenizer
from llama2_core.training import distributed
from llama2_core.training.checkpoint import load_reward_model
from storage.metrics import MetricLog
from storage.reward_tables import SCORES
from storage.schemas import read_rows, write_table
from tasks.stage import Stage
from tasks.tables import encode_pair, read_comparison_rows


def scores(stage: Stage) -> dict:
    """Score the held-out comparisons by each model; a model that is done is a file below checkpoints/."""
    batches = [path for role, path in sorted(stage.parents.items()) if role.startswith("comparisons")]
    models = {role: path for role, path in stage.parents.items() if not role.startswith("comparisons")}
    held_out = [row for row in read_comparison_rows(batches) if row["held_out"]]
    stage.checkpoints.mkdir(exist_ok=True)
    log = MetricLog(stage.metrics)
    done = [stage.checkpoints / f"{number}.parquet" for number in range(len(models))]
    for path, (role, model) in zip(done, models.items(), strict=True):
        if not path.exists():
            write_table(path, score(role, model, held_out), SCORES)
        log.append({"step": done.index(path) + 1, "of": len(models)})
    write_table(
        stage.directory / "scores.parquet", (row for path in done for row in read_rows(path, SCORES)), SCORES
    )
    return {"models": len(models), "comparisons": len(held_out)}


def score(role: str, directory: Path, comparisons: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield one model's scores of the comparisons that its context can hold."""
    model, tokenizer = load_reward_model(directory)
    model.to(distributed.device())
    fitting = list(_fitting(comparisons, tokenizer, model.config.max_seq_len))
    found = score_rows(model, [tokens for _, pair in fitting for tokens in pair])
    for place, (row, (chosen, rejected)) in enumerate(fitting):
        yield {
            "model": role,
            "set": "safety" if row["safety"] else "helpfulness",
            **{name: row[name] for name in ("batch", "id", "kind", "grade", "safety_bin")},
            "chosen_score": found[2 * place],
            "rejected_score": found[2 * place + 1],
            "chosen_tokens": len(chosen),
            "rejected_tokens": len(rejected),
            **{name: row[name] for name in ("chosen_safe", "rejected_safe")},
        }


def _fitting(
    comparisons: Sequence[dict[str, Any]], tokenizer: Tokenizer, limit: int
) -> Iterator[tuple[dict[str, Any], tuple[Sequence[int], Sequence[int]]]]:
    for row in comparisons:
        pair = encode_pair(row, tokenizer)
        if max(len(pair.chosen), len(pair.rejected)) <= limit:
            yield row, (pair.chosen, pair.rejected)
