"""Evaluation on published benchmarks: what is missing is told first, then one stage answers all tasks."""

import os

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from llama2_core.errors import ConfigError
from storage.artifacts import Artifact, Store
from storage.benchmark_tables import BENCHMARK_SCORES
from storage.schemas import read_table
from tasks.benchmark_data import DATA, datasets, newest
from tasks.benchmark_recipe import BenchmarkRecipe, stay_offline
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.runtime import Runtime
from tasks.stage_run import tracker
from tasks.suite_tables import Table, score_table, suite_table


@task(name="benchmarks", task_run_name="benchmarks of {label}", cache_policy=NO_CACHE)
def benchmarks(recipe: BenchmarkRecipe, model: str, label: str, seed: int, runtime: Runtime) -> str:
    """Evaluate one checkpoint on tasks of lm-eval."""
    data = data_of(recipe, runtime)
    job = Job(f"benchmarks of {label}", "benchmarks", recipe, seed, {"model": model, **data})
    name = build(job, runtime)
    table = tables(name, runtime)
    publish(find(name, runtime), table, runtime)
    create_table_artifact(key="benchmarks", table=table, description="Percent, with 95% intervals")
    return name


def data_of(recipe: BenchmarkRecipe, runtime: Runtime) -> dict[str, str]:
    """Return role -> artifact of the tasks' data. Raises ConfigError for data that nobody can give."""
    missing = missing_data(recipe, runtime)
    if missing and os.environ.get("HF_HUB_OFFLINE") != "0":
        files = sorted({name for names in missing.values() for name in names})
        listed = "\n".join(f"  {name}: {', '.join(datasets()[name].files)}" for name in files)
        raise ConfigError(
            f"{', '.join(missing)}: the data are not in the store:\n{listed}\nAdd them with `llama2 benchmarks add "
            "FILE`, leave the tasks out with --available, or set HF_HUB_OFFLINE=0 to ask the hub"
        )
    there = newest(Store(runtime.store_root))
    used = {name for names in _needed(recipe).values() for name in names} & there.keys()
    return {f"{DATA}{name}": there[name].full_name for name in sorted(used)}


def missing_data(recipe: BenchmarkRecipe, runtime: Runtime) -> dict[str, set[str]]:
    """Return task -> its data sets that are not in the store, for tasks that lack any."""
    there = newest(Store(runtime.store_root)).keys()
    return {name: lacking for name, needed in _needed(recipe).items() if (lacking := needed - there)}


def _needed(recipe: BenchmarkRecipe) -> dict[str, set[str]]:
    stay_offline()
    from tasks.harness_tasks import datasets_needed  # noqa: PLC0415  (seconds, and an extra)

    return datasets_needed(recipe)


def tables(name: str, runtime: Runtime) -> Table:
    """Return what an evaluation found: a suite with the paper's scores, or every score."""
    artifact = find(name, runtime)
    scores = {"score": read_table(artifact.file("scores.parquet"), BENCHMARK_SCORES)}
    suite = artifact.manifest.recipe["suite"]
    return suite_table(suite, scores) if suite else score_table(scores)


def publish(evaluation: Artifact, table: Table, runtime: Runtime) -> None:
    """Put every prompt, answer and score beside the stage's run in MLflow, with hashes of what was asked."""
    tracking = tracker(runtime)
    if not (run_id := tracking.newest(evaluation.digest)):
        return
    for name in ("samples.parquet", "scores.parquet"):
        tracking.log_file(run_id, evaluation.file(name))
    scores = read_table(evaluation.file("scores.parquet"), BENCHMARK_SCORES)
    asked = {row["task"]: {"prompt_hash": row["prompt_hash"], "version": row["version"]} for row in scores}
    tracking.log_params(run_id, {"tasks": asked})
    tracking.log_table(run_id, "scores.json", list(table[0]), [tuple(row.values()) for row in table])
