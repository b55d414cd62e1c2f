"""The report card: one self-contained page on one model, or on several side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from llama2_core.config import Record
from llama2_core.errors import ConfigError
from storage.artifacts import Store
from storage.disk import atomic_write
from tasks import card_tables as tables
from tasks.benchmark_recipe import suites
from tasks.card_facts import FOUND, HELPED, UNKNOWN, Known, known_of
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.own import chosen_model
from tasks.rendering import render_template
from tasks.runtime import Runtime
from tasks.stage_run import tracker
from tasks.suite_tables import NOT_RUN

PAGE = "card.html"
TITLES = {
    "table3": "Llama 2's Table 3 and its averages",
    "safety": "Safety (Llama 2 Tables 11 and 14)",
    "code": "Code (Llama 2 Table 21)",
    "tools": "Tools (Llama 2 Table 15)",
    "chinese": "Chinese",
    "biomedical": "Biomedical texts",
    "starter": "Starter data",
}
LEGEND = {
    FOUND: "of some samples at least 20% of the tokens were found in the training tokens.",
    HELPED: "they were, and it helped: all four subsets differ as the paper demands.",
    UNKNOWN: "the training tokens were not searched for it.",
}


class ReportCardRecipe(Record):
    """What a report card is on, beside its parents."""

    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    """What the models are called on the page."""


def chosen_models(names: Sequence[str], runtime: Runtime) -> dict[str, str]:
    """Return label -> artifact of models by name, or at paths. Raises ConfigError for what would look the same."""
    labels = [Path(name).name if Path(name).exists() else name for name in names]
    found = dict(zip(labels, (chosen_model(name, runtime) for name in names), strict=True))
    if len(set(found.values())) < len(names):
        raise ConfigError(f"{', '.join(names)}: a model, or its label, is given twice")
    return found


@task(name="report card", task_run_name="report card", cache_policy=NO_CACHE)
def report_card(models: dict[str, str], runtime: Runtime) -> str:
    """Write the card of models, label -> artifact, from all that the store has on them.

    Raises ConfigError for one that is no language model.
    """
    store = Store(runtime.store_root)
    known = [known_of(label, find(name, runtime), store) for label, name in models.items()]
    parents = {
        role: artifact.full_name
        for number, model in enumerate(known, 1)
        for role, artifact in _parents(number, model).items()
    }
    home = [] if runtime.home == Path("var") else ["--home", str(runtime.home)]
    job = Job("report card", "report-card", ReportCardRecipe(labels=tuple(models)), parents=parents)
    name = build(job, runtime, lambda directory: write(known, home, directory))
    card, tracking = find(name, runtime), tracker(runtime)
    if run_id := tracking.newest(card.digest):
        tracking.log_file(run_id, card.file(PAGE))
    return name


def _parents(number: int, model: Known) -> dict[str, Any]:
    return {
        f"model {number}": model.artifact,
        **{f"{role} of {number}": a for role, a in model.found.items()},
    }


def write(models: Sequence[Known], home: Sequence[str], directory: Path) -> dict[str, Any]:
    """Write card.html; return how much it says."""
    found = tables.scored(models)
    page = render_template(
        "report_card.html",
        labels=" and ".join(model.label for model in models),
        models=models,
        scored=found,
        titles=TITLES,
        not_run=NOT_RUN,
        legend=LEGEND,
        marks=tables.marks(models),
        contamination=tables.contamination_rows(models),
        examination=tables.examination_table(models),
        facts=tables.model_table(models),
        figures=tables.figures(models),
        data=tables.data_of(models),
        lineage=tables.lineage_table(models),
        limits={model.label: tables.limits(model) for model in models},
        missing=tables.missing(models, home),
    )
    atomic_write(directory / PAGE, page.encode())
    scores = sum(len(rows) for model in models for rows in model.scores.values())
    return {
        "models": len(models),
        "scores": scores,
        "suites": sorted({s.title for s in found} & suites().keys()),
    }
