"""The run of the whole pipeline in MLflow: a parent of every stage's run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from prefect import task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE

from storage.artifacts import digest_of
from storage.disk import atomic_write
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
    note = f"`{command(runtime)}`"
    tags = {"llama2.kind": "pipeline", "llama2.digest": key, "mlflow.note.content": note}
    run_id = tracking.start(f"llama2 seed {recipe.seed}", key, tags)
    tracking.log_params(run_id, facts)
    tracking.log_file(run_id, write_profile(recipe, runtime))
    address = runtime.mlflow_address + tracking.run_path(run_id)
    create_link_artifact(key="mlflow-run", link=address, link_text="this run in MLflow")
    return runtime.model_copy(update={"parent_run": run_id})


def command(runtime: Runtime) -> str:
    """Return what makes this run's artifacts again: `llama2 run` with the profile that `write_profile` keeps."""
    return f"llama2 run --profile {profile_path(runtime)}"


def profile_path(runtime: Runtime) -> Path:
    return runtime.home / "report" / "profile.yaml"


def write_profile(recipe: Llama2Recipe, runtime: Runtime) -> Path:
    """Keep all that was set, by profile, command or form, as one profile."""
    path = profile_path(runtime)
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "recipe": recipe.model_dump(mode="json"),
        "runtime": runtime.model_dump(mode="json", exclude={"parent_run"}),
    }
    atomic_write(path, yaml.safe_dump(profile, sort_keys=False).encode())
    return path


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
