"""Evaluation on published benchmarks: what is missing is told first, then one stage answers all tasks."""

import os

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from llama2_core.errors import ConfigError
from storage.artifacts import Store
from storage.benchmark_tables import BENCHMARK_SCORES
from storage.schemas import read_table
from tasks.benchmark_data import DATA, datasets, newest
from tasks.benchmark_recipe import BenchmarkRecipe, stay_offline, suites
from tasks.launch import Job, build, find
from tasks.runtime import Runtime

Rows = list[dict[str, str]]


@task(name="benchmarks", task_run_name="benchmarks of {label}", cache_policy=NO_CACHE)
def benchmarks(recipe: BenchmarkRecipe, model: str, label: str, seed: int, runtime: Runtime) -> str:
    """Evaluate one checkpoint on tasks of lm-eval."""
    data = data_of(recipe, runtime)
    job = Job(f"benchmarks of {label}", "benchmarks", recipe, seed, {"model": model, **data})
    name = build(job, runtime)
    create_table_artifact(
        key="benchmarks", table=tables(name, runtime), description="Percent, with 95% intervals"
    )
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


def tables(name: str, runtime: Runtime) -> Rows:
    """Return what an evaluation found: a suite with the paper's scores, or every score."""
    artifact = find(name, runtime)
    scores = read_table(artifact.file("scores.parquet"), BENCHMARK_SCORES)
    suite = artifact.manifest.recipe["suite"]
    return suite_table(suite, scores) if suite else score_table(scores)


def score_table(scores: list[dict]) -> Rows:
    """Return one row a task and metric; of groups their own, not their members'."""
    return [
        {
            "task": row["task"],
            "metric": f"{row['metric']} ({row['filter']})",
            "shots": "" if row["shots"] is None else str(row["shots"]),
            "score": _interval(row),
            "n": str(row["n"]),
        }
        for row in scores
    ]


def suite_table(suite: str, scores: list[dict]) -> Rows:
    """Return one row a member, and one a group with the mean of its members; beside them the paper's scores."""
    found = {(row["task"], f"{row['metric']},{row['filter']}"): row for row in scores}
    rows: Rows = []
    for name, group in suites()[suite].items():
        mine = [found.get((member.task, member.metric)) for member in group.members]
        for member, row in zip(group.members, mine, strict=True):
            left_out = "no sandbox" if member.runs_code else "no judge" if member.judged else "no data"
            cells = {"score": _interval(row), "n": str(row["n"])} if row else {"score": left_out, "n": ""}
            shots = "" if member.shots is None else str(member.shots)
            rows.append(
                {
                    "group": name,
                    "task": member.task,
                    "shots": shots,
                    **cells,
                    **_paper(member.paper),
                    "note": member.note,
                }
            )
        if len(mine) > 1 and group.paper:
            whole = all(mine)
            mean = sum(row["value"] for row in mine if row) / len(mine) if whole else 0.0
            cells = {"score": f"{100 * mean:.1f}" if whole else "incomplete", "n": ""}
            rows.append(
                {
                    "group": name,
                    "task": "mean",
                    "shots": "",
                    **cells,
                    **_paper(group.paper),
                    "note": group.note,
                }
            )
    return rows


def _interval(row: dict) -> str:
    value = f"{100 * row['value']:.1f}"
    return value if row["low"] is None else f"{value} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def _paper(scores: tuple[float | None, ...]) -> dict[str, str]:
    """The sizes of Llama 2."""
    sizes = ("7B", "13B", "34B", "70B")
    padded = (*scores, None, None, None, None)
    return {size: "" if value is None else f"{value:g}" for size, value in zip(sizes, padded, strict=False)}
