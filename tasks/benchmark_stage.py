"""What the worker does for an evaluation on benchmarks: lm-eval asks, our model answers, all answers stay."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama2_core.evaluation.statistics import Z95, proportion
from llama2_core.training import distributed
from llama2_core.training.checkpoint import load_policy
from storage.benchmark_tables import BENCHMARK_SAMPLES, BENCHMARK_SCORES
from storage.schemas import write_table
from tasks.benchmark_data import DATA, datasets
from tasks.benchmark_recipe import BenchmarkRecipe, stay_offline
from tasks.chat_server import ChatServer
from tasks.stage import Stage


def benchmarks(stage: Stage) -> dict:
    """Answer the requests of all tasks; those answered by an earlier try are read back."""
    stay_offline()
    from tasks.benchmark_judge import judge  # noqa: PLC0415
    from tasks.harness import Answers, HarnessModel, examine  # noqa: PLC0415  (seconds, and an extra)
    from tasks.harness_tasks import load_tasks, use_resources  # noqa: PLC0415

    recipe = BenchmarkRecipe.model_validate(stage.recipe)
    stage.checkpoints.mkdir(exist_ok=True)
    local = {role.removeprefix(DATA): path for role, path in stage.parents.items() if role.startswith(DATA)}
    use_resources([path for name, path in local.items() if datasets()[name].resource])
    tasks = load_tasks(recipe, local, stage.checkpoints / "rows")
    model, tokenizer = load_policy(stage.parents["model"])
    answers = Answers(stage.checkpoints / "answers.jsonl", stage.metrics)
    asked = HarnessModel(
        model.to(distributed.device()), tokenizer, answers, recipe.bos, stage.seed, stage.execution.slots
    )
    found = examine(asked, tasks, recipe.limit, recipe.chat)
    if recipe.judge:
        asked.counts["unjudged"] = judge(found, ChatServer.parse(recipe.judge), answers)
    write_table(stage.directory / "samples.parquet", sample_rows(found), BENCHMARK_SAMPLES)
    scores = list(score_rows(found))
    write_table(stage.directory / "scores.parquet", scores, BENCHMARK_SCORES)
    shown = ("value", "low", "high", "n")
    return {
        "requests": {**asked.counts, "answered_before": answers.reused},
        "versions": {"lm_eval": recipe.harness, **found["versions"]},
        "scores": {f"{row['task']}/{_metric(row)}": {name: row[name] for name in shown} for row in scores},
    }


def _metric(row: dict[str, Any]) -> str:
    return f"{row['metric']},{row['filter']}"


def sample_rows(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each question and filter."""
    for task, samples in found["samples"].items():
        for each in samples:
            yield {
                "task": task,
                "document": each["doc_id"],
                "filter": each["filter"],
                "prompt": str(each["arguments"][0][0]),
                "target": str(each["target"]),
                "answers": _json(each["resps"]),
                "read": _json(each["filtered_resps"]),
                "scores": _json({name: each[name] for name in each["metrics"]}),
            }


def score_rows(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each task, or group, and metric."""
    for name, facts in {**found["results"], **found.get("groups", {})}.items():
        for key, value in facts.items():
            metric, comma, filter_ = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            values = [
                each[metric]
                for each in found["samples"].get(name, [])
                if each["filter"] == filter_ and metric in each
            ]
            n = len(values) or facts.get("sample_count", {}).get(key) or facts.get("sample_len", 0)
            stderr = facts.get(f"{metric}_stderr,{filter_}")
            stderr = float(stderr) if isinstance(stderr, int | float) else None
            low, high = _interval(float(value), stderr, values)
            members = list(_members(name, found["group_subtasks"]))
            yield {
                "task": name,
                "is_group": name in found.get("groups", {}),
                "metric": metric,
                "filter": filter_,
                "shots": found["n-shot"].get(name),
                "value": float(value),
                "stderr": stderr,
                "low": low,
                "high": high,
                "n": n,
                "higher_is_better": found["higher_is_better"].get(name, {}).get(metric),
                "version": str(found["versions"].get(name, "")),
                "prompt_hash": _prompt_hash(found, members),
                "members": members,
            }


def _members(name: str, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the single tasks of a group, of groups within it too; a task itself."""
    for member in groups.get(name, ()):
        yield from _members(member, groups)
    if name not in groups:
        yield name


def _prompt_hash(found: dict[str, Any], members: Sequence[str]) -> str:
    samples = (each for name in members for each in found["samples"].get(name, []))
    asked = dict.fromkeys(_json([each["doc_id"], each["arguments"]]) for each in samples)
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()


def _interval(value: float, stderr: float | None, values: list[Any]) -> tuple[float | None, float | None]:
    if values and all(isinstance(each, int | float) and each in (0, 1) for each in values):
        estimate = proportion(round(sum(values)), len(values))
        return estimate.low, estimate.high
    return (None, None) if stderr is None else (value - Z95 * stderr, value + Z95 * stderr)


def _json(value: Any) -> str:
    return json.dumps(
        value, ensure_ascii=False, default=lambda odd: odd.item() if hasattr(odd, "item") else str(odd)
    )
