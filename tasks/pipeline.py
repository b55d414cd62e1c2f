"""The run of the whole pipeline in MLflow: a parent of every stage's run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE

from storage.artifacts import digest_of
from tasks.launch import find, flat_numbers, tracker
from tasks.recipes import Llama2Recipe
from tasks.runtime import Runtime


@contextmanager
def tracked_run(recipe: Llama2Recipe, runtime: Runtime) -> Iterator[Runtime]:
    """Yield the runtime with a parent run that stages become children of; on an error, end it as what it was."""
    runtime = start_run(recipe, runtime)
    try:
        yield runtime
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        tracker(runtime).finish(runtime.parent_run, "KILLED" if stopped else "FAILED")
        raise


@task(name="start run", task_run_name="start run", cache_policy=NO_CACHE)
def start_run(recipe: Llama2Recipe, runtime: Runtime) -> Runtime:
    """Open the parent run, or continue the unfinished one of the same recipe."""
    tracking = tracker(runtime)
    facts = recipe.model_dump(mode="json")
    key = digest_of("pipeline", 1, facts, {})
    command = f"llama2 run --set recipe.seed={recipe.seed}"
    tags = {"llama2.kind": "pipeline", "llama2.digest": key, "mlflow.note.content": f"`{command}`"}
    run_id = tracking.start(f"llama2 seed {recipe.seed}", key, tags)
    tracking.log_params(run_id, facts)
    address = runtime.mlflow_address + tracking.run_path(run_id)
    create_link_artifact(key="mlflow-run", link=address, link_text="this run in MLflow")
    return runtime.model_copy(update={"parent_run": run_id})


@task(name="finish run", task_run_name="finish run", cache_policy=NO_CACHE)
def finish_run(stages: dict[str, str], report: str, runtime: Runtime) -> None:
    """Put the headline scores and the report on the parent run and end it."""
    tracking = tracker(runtime)
    headline: dict[str, Any] = {}
    for stage, name in stages.items():
        if stage.startswith("evaluation of") or stage == "gate":
            headline[stage.removeprefix("evaluation of ")] = find(name, runtime).summary
    tracking.log_metrics(runtime.parent_run, flat_numbers(headline))
    tracking.set_tags(runtime.parent_run, {f"llama2.stage.{stage}": name for stage, name in stages.items()})
    tracking.log_file(runtime.parent_run, Path(report), "report")
    tracking.finish(runtime.parent_run)
