"""What Ghost Attention and dated dialogs were worth: tables, figures, and a Prefect artifact beside MLflow's run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from llama2_core.config import Record
from storage.artifacts import Artifact
from storage.disk import atomic_write
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.rendering import markdown_table
from tasks.report_figures import curve_figure, map_figure
from tasks.report_tables import interval
from tasks.runtime import Runtime
from tasks.stage_run import tracker

REPORT = "report.md"
FIGURES = {"retention": "retention.svg", "attention": "attention.svg", "maps": "attention-maps.svg"}


class ReportRecipe(Record):
    """A report is defined by what it is on alone."""


@task(name="ghost report", task_run_name="ghost report", cache_policy=NO_CACHE)
def ghost_report(retentions: dict[str, str], attention: str, runtime: Runtime) -> str:
    """Show retention by turn of every model ("without", "with", others), and attention to the instruction."""

    def work(directory: Path) -> dict[str, Any]:
        found = {label: find(name, runtime).summary for label, name in retentions.items()}
        drawn = json.loads(find(attention, runtime).file("attention.json").read_text())
        curves = {
            label: [(_number(turn), of[turn]["value"]) for turn in reached(of)] for label, of in found.items()
        }
        attended = {label: list(enumerate(of, 1)) for label, of in drawn["turns"].items()}
        charts = {
            "retention": curve_figure(curves, "turn", "answers that keep to the instruction"),
            "attention": curve_figure(attended, "turn", "largest attention to the instruction"),
            "maps": map_figure(drawn["maps"], "token attended to, bins", "token, bins"),
        }
        for name, chart in charts.items():
            atomic_write(directory / FIGURES[name], chart.encode())
        atomic_write(directory / REPORT, page(found).encode())
        return {"least_ratio": least_ratios(found)}

    job = Job("ghost report", "ghost-report", ReportRecipe(), parents={**retentions, "attention": attention})
    name = build(job, runtime, work)
    publish(find(name, runtime), "ghost-attention", "Ghost Attention", runtime)
    return name


@task(name="temporal report", task_run_name="temporal report", cache_policy=NO_CACHE)
def temporal_report(perceptions: dict[str, str], runtime: Runtime) -> str:
    """Show how well models keep to a stated date."""

    def work(directory: Path) -> dict[str, Any]:
        found = {label: find(name, runtime).summary for label, name in perceptions.items()}
        titles = ("model", "says the year once it has happened", "does not before", "both together")
        cells = ("told_after", "withheld_before", "respected")
        rows = [[label, *(interval(of[cell]) for cell in cells)] for label, of in found.items()]
        table = markdown_table([titles, *rows])
        text = f"## Answers that keep to the stated date\n\nPercent, with 95% intervals.\n\n{table}\n"
        atomic_write(directory / REPORT, text.encode())
        return found

    job = Job("temporal report", "temporal-report", ReportRecipe(), parents=perceptions)
    name = build(job, runtime, work)
    publish(find(name, runtime), "temporal-perception", "Temporal perception", runtime)
    return name


def reached(retention: Mapping[str, Any]) -> list[str]:
    """Return the turns that some dialog reached before the context ended."""
    return [turn for turn, fact in retention.items() if turn != "by_kind" and fact["n"]]


def _number(turn: str) -> int:
    return int(turn.removeprefix("turn "))


def least_ratios(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return, by turn, the lower end of retention with Ghost Attention over the upper end without."""
    without, with_ = found["without"], found["with"]
    return {turn: with_[turn]["low"] / without[turn]["high"] for turn in reached(without) if with_[turn]["n"]}


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the report as Markdown."""
    turns = [turn for turn in next(iter(found.values())) if turn != "by_kind"]

    def cell(fact: Mapping[str, Any]) -> str:
        return f"{interval(dict(fact))}, n = {fact['n']:.0f}" if fact["n"] else "beyond the context"

    rows = [["model", *turns], *([label, *(cell(of[turn]) for turn in turns)] for label, of in found.items())]
    kinds = [
        [f"{label}, {kind}", *(cell(of["by_kind"][turn].get(kind, {"n": 0})) for turn in turns)]
        for label, of in found.items()
        for kind in of["by_kind"][turns[0]]
    ]
    ratios = ", ".join(f"{turn} {ratio:.1f}" for turn, ratio in least_ratios(found).items())
    return (
        "## Answers that keep to all that the first turn asked for\n\nPercent, with 95% intervals.\n\n"
        f"{markdown_table(rows)}\n\nWith over without, at least (lower end over upper end): {ratios}.\n\n"
        f"## By kind of constraint\n\n{markdown_table([rows[0], *kinds])}\n"
    )


def publish(report: Artifact, key: str, description: str, runtime: Runtime) -> None:
    """Show the report and its figures beside the stage's run in MLflow, and in Prefect."""
    tracking = tracker(runtime)
    if run_id := tracking.newest(report.digest):
        for path in sorted([*report.path.glob("*.md"), *report.path.glob("*.svg")]):
            tracking.log_file(run_id, path)
    text = report.file(REPORT).read_text(encoding="utf-8")
    create_markdown_artifact(key=key, markdown=text, description=description)
