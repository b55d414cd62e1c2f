"""The run of the whole pipeline in MLflow: a parent of every stage's run."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from prefect import task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import Pause

from storage.artifacts import Store, digest_of
from storage.disk import atomic_write
from storage.errors import StoreBusy
from tasks.launch import find
from tasks.people import AwaitingPeople
from tasks.recipes import Llama2Recipe
from tasks.rounds_recipe import RetrainRecipe, RoundsRecipe
from tasks.runtime import Runtime
from tasks.stage_run import flat_numbers, record, tracker

Whole = Llama2Recipe | RoundsRecipe | RetrainRecipe
"""What a command runs from its first stage to its report."""

VERBS: dict[type[Whole], str] = {Llama2Recipe: "run", RoundsRecipe: "rlhf", RetrainRecipe: "retrain"}


@contextmanager
def tracked_run(recipe: Whole, runtime: Runtime) -> Iterator[Runtime]:
    """Yield the runtime with a parent run that stages become children of; on an error, end it as what it was.

    Of two runs of one recipe at once the second is refused by the store; their parent run stays the first's.
    """
    runtime = start_run(recipe, runtime)
    try:
        yield runtime
    except BaseException as error:
        tracking = tracker(runtime)
        others = isinstance(error, StoreBusy) and tracking.children(runtime.parent_run, "= 'RUNNING'")
        if not others:
            waits = isinstance(error, AwaitingPeople | Pause)
            stopped = not isinstance(error, Exception)  # Ctrl-C, SIGTERM
            status = "SCHEDULED" if waits else "KILLED" if stopped else "FAILED"
            tracking.give_up(runtime.parent_run, status)
        raise


@task(name="start run", task_run_name="start run", cache_policy=NO_CACHE)
def start_run(recipe: Whole, runtime: Runtime) -> Runtime:
    """Open the parent run, or continue the unfinished one of the same recipe."""
    tracking = tracker(runtime)
    key = pipeline_digest(recipe)
    note = f"`{command(recipe, runtime)}`"
    tags = {"llama2.kind": "pipeline", "llama2.digest": key, "mlflow.note.content": note}
    run_id = tracking.start(f"llama2 {verb_of(recipe)} seed {recipe.seed}", key, tags)
    tracking.log_params(run_id, recipe.model_dump(mode="json"))
    path = profile_path(recipe, runtime)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, profile(recipe, runtime).encode())
    tracking.log_file(run_id, path)
    address = runtime.mlflow_address + tracking.run_path(run_id)
    create_link_artifact(key="mlflow-run", link=address, link_text="this run in MLflow")
    runtime = runtime.model_copy(update={"parent_run": run_id})
    close_committed(runtime)
    return runtime


def close_committed(runtime: Runtime) -> None:
    """Finish the stages' runs whose process was killed after it had committed: nothing will build them again."""
    tracking, store = tracker(runtime), Store(runtime.store_root)
    for run_id, tags in tracking.children(runtime.parent_run, "!= 'FINISHED'").items():
        artifact = store.find(tags["llama2.kind"], tags["llama2.digest"])
        if artifact:
            record(artifact, tags["llama2.label"], tracking, run_id)
            tracking.finish(run_id)


def pipeline_digest(recipe: Whole) -> str:
    return digest_of("pipeline", 1, recipe.model_dump(mode="json"), {})


def verb_of(recipe: Whole) -> str:
    """Return the command that runs it."""
    return VERBS[type(recipe)]


def command(recipe: Whole, runtime: Runtime) -> str:
    """Return what makes this run's artifacts again, from the profile that `start_run` keeps."""
    return shlex.join(["llama2", verb_of(recipe), "--profile", str(profile_path(recipe, runtime))])


def profile_path(recipe: Whole, runtime: Runtime) -> Path:
    return runtime.home / "report" / f"profile-{pipeline_digest(recipe)[:12]}.yaml"


def profile(recipe: Whole, runtime: Runtime) -> str:
    """Return all that was set, by profile, command or form, as one profile."""
    settings = runtime.model_dump(mode="json", exclude={"parent_run"})
    return yaml.safe_dump({"recipe": recipe.model_dump(mode="json"), "runtime": settings}, sort_keys=False)


@task(name="finish run", task_run_name="finish run", cache_policy=NO_CACHE)
def finish_run(stages: dict[str, str], report: str, runtime: Runtime) -> None:
    """Put the headline scores and the report on the parent run and end it."""
    tracking = tracker(runtime)
    scored = {
        stage.removeprefix("evaluation of "): find(name, runtime).summary
        for stage, name in stages.items()
        if stage.startswith(("evaluation of", "gate", "verdict"))
    }
    tracking.log_metrics(runtime.parent_run, flat_numbers(headlines(scored)))
    tracking.set_tags(runtime.parent_run, {f"llama2.stage.{stage}": name for stage, name in stages.items()})
    page = Path(report)
    for path in (page, page.with_suffix(".json"), *sorted(page.parent.glob("*.svg"))):
        tracking.log_file(runtime.parent_run, path, "report")
    shown = f"{runtime.mlflow_address}{tracking.run_path(runtime.parent_run)}/artifacts/report/{page.name}"
    create_link_artifact(key="report", link=shown, link_text="the report in MLflow", description=str(page))
    tracking.finish(runtime.parent_run)


def headlines(facts: dict[str, Any]) -> dict[str, Any]:
    """Return nested facts with each number that has an interval as that number alone."""
    return {
        name: fact.get("value", headlines(fact)) if isinstance(fact, dict) else fact
        for name, fact in facts.items()
    }
