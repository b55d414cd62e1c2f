"""The plan of a run on the table before it starts, and no start of what will not fit."""

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.machine import this_machine
from tasks.planner import cost_rows, gigabytes, memory_rows, plans, refuse_what_does_not_fit, remarks
from tasks.progress import say
from tasks.recipes import Llama2Recipe
from tasks.rendering import markdown_table
from tasks.runtime import Runtime


@task(name="plan", task_run_name="plan", cache_policy=NO_CACHE)
def plan(recipe: Llama2Recipe, runtime: Runtime) -> None:
    """Leave the plan in Prefect. Raises ConfigError naming the stage, what takes most and the smallest change."""
    planned = plans(recipe, runtime, runtime.cluster or this_machine(runtime))
    largest = max(planned, key=lambda each: each.memory.total)
    hours, total = sum(each.hours for each in planned), gigabytes(largest.memory.total)
    capacity = gigabytes(largest.capacity_bytes)
    summary = f"at most {60 * hours:.1f} minutes of training and sampling, {total} of {capacity} GB beside the program"
    say(f"plan: {summary}")
    tables = "\n\n".join(map(markdown_table, (cost_rows(planned), memory_rows(planned))))
    told = "\n".join(f"- {line}" for line in remarks(planned))
    create_markdown_artifact(
        key="plan",
        description=f"What a run takes: {summary}",
        markdown=f"## Plan\n\nWhat it takes, and GB of a rank: {summary}.\n\n{tables}\n\n{told}\n",
    )
    if not runtime.start_what_does_not_fit:
        refuse_what_does_not_fit(planned)
