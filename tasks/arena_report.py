"""The reports on models beside each other: a page, a table in Prefect, numbers and the page in MLflow."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from llama2_core.config import Record
from storage.disk import atomic_write
from tasks.arena_studies import Study, arena_study, diversity_study, ratings_study
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.rendering import render_template
from tasks.runtime import Runtime
from tasks.stage_run import tracker

PAGE, TABLE = "report.html", "table.json"


class ArenaReportRecipe(Record):
    """A report is defined by what it is made from."""

    models: tuple[str, ...] = ()
    """What models are called whose answers it is made from."""


@task(name="arena report", task_run_name="report on the comparison", cache_policy=NO_CACHE)
def arena_report(verdicts: str, runtime: Runtime) -> str:
    """Show win rates of one model over another, by kind, category and turns."""
    found = find(verdicts, runtime)
    return _publish("comparison", {"verdicts": verdicts}, lambda: arena_study(found), runtime)


@task(name="ratings report", task_run_name="report on safety ratings", cache_policy=NO_CACHE)
def ratings_report(verdicts: str, runtime: Runtime) -> str:
    """Show violations by model, category and turns."""
    found = find(verdicts, runtime)
    return _publish("safety ratings", {"verdicts": verdicts}, lambda: ratings_study(found), runtime)


@task(name="diversity report", task_run_name="report on diversity", cache_policy=NO_CACHE)
def diversity_report(prompts: str, replies: Mapping[str, str], runtime: Runtime) -> str:
    """Show Self-BLEU by temperature, model and kind of prompt."""
    asked, found = find(prompts, runtime), {label: find(name, runtime) for label, name in replies.items()}
    parents = {
        "prompts": prompts,
        **{f"replies {place}": name for place, name in enumerate(replies.values())},
    }
    return _publish("diversity", parents, lambda: diversity_study(asked, found), runtime, tuple(replies))


def _publish(
    label: str,
    parents: dict[str, str],
    study: Callable[[], Study],
    runtime: Runtime,
    models: tuple[str, ...] = (),
) -> str:
    def work(directory: Path) -> dict[str, Any]:
        made = study()
        atomic_write(directory / PAGE, render_template("study.html", s=made).encode())
        atomic_write(directory / TABLE, json.dumps(made.table, ensure_ascii=False).encode())
        for figure in made.figures:
            atomic_write(directory / f"{figure.name}.svg", figure.svg.encode())
        return made.summary

    job = Job(f"report on {label}", "arena-report", ArenaReportRecipe(models=models), parents=parents)
    report, tracking = find(build(job, runtime, work), runtime), tracker(runtime)
    if run_id := tracking.newest(report.digest):
        for path in (report.file(PAGE), report.file(TABLE), *sorted(report.path.glob("*.svg"))):
            tracking.log_file(run_id, path)
    table = json.loads(report.file(TABLE).read_text(encoding="utf-8"))
    key, description = label.replace(" ", "-"), f"{label}, with 95% intervals"
    create_table_artifact(key=key, table=table, description=description)
    return report.full_name
