"""The report: one self-contained page that shows what each stage was worth."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.disk import atomic_write
from tasks.recipes import Llama2Recipe
from tasks.report_facts import gather
from tasks.report_page import draw, render
from tasks.runtime import Runtime


@task(name="report", task_run_name="report", cache_policy=NO_CACHE)
def report(recipe: Llama2Recipe, stages: dict[str, str], runtime: Runtime) -> str:
    """Write the report, its figures and its facts as JSON; return the page's path."""
    facts = gather(recipe, stages, runtime)
    figures = draw(facts)
    folder = runtime.home / "report"
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "report.json", facts.model_dump_json(indent=2).encode())
    for figure in figures:
        atomic_write(folder / f"{figure.name}.svg", figure.svg.encode())
    page: Path = folder / "report.html"
    atomic_write(page, render(facts, figures).encode())
    return str(page)
