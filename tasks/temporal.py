"""Dialogs that state a date, and whether a model keeps to it. Llama 2 section 3.3, "temporal perception"."""

from pathlib import Path
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE

from llama2_core.seeding import derive_seed
from storage.disk import content_digest
from storage.schemas import DEMONSTRATIONS, write_table
from storage.sources.starter.facts import facts_file
from tasks.event_dates import demonstration, events
from tasks.ghost_recipe import DatedRecipe, TemporalRecipe
from tasks.jobs import Job
from tasks.launch import build
from tasks.runtime import Runtime


@task(name="event dialogs", task_run_name="{which} dialogs", cache_policy=NO_CACHE)
def event_dialogs(
    recipe: DatedRecipe, which: Literal["undated", "dated"], seed: int, runtime: Runtime
) -> str:
    """Write demonstrations that ask about events, with a stated date or without."""
    count = recipe.dialogs if which == "dated" else recipe.undated or 0

    def work(directory: Path) -> dict[str, Any]:
        known = events(recipe)
        rows = [
            demonstration(recipe, known, which, f"{which}-{index}", derive_seed(seed, which, index))
            for index in range(count)
        ]
        write_table(directory / "demonstrations.parquet", rows, DEMONSTRATIONS)
        return {"demonstrations": count}

    job = Job(f"{which} dialogs", "lessons", recipe, seed, inputs={"which": which, **event_inputs(recipe)})
    return build(job, runtime, work)


@task(name="temporal perception", task_run_name="temporal perception {label}", cache_policy=NO_CACHE)
def temporal_perception(recipe: TemporalRecipe, label: str, model: str, seed: int, runtime: Runtime) -> str:
    """Ask a model about events under held-out dates, before them and after."""
    inputs = event_inputs(recipe.dated)
    parents = {"model": model}
    return build(Job(f"temporal perception {label}", "temporal", recipe, seed, parents, inputs), runtime)


def event_inputs(recipe: DatedRecipe) -> dict[str, str]:
    return {"starter": content_digest(facts_file("events"))} if recipe.events == "starter" else {}
