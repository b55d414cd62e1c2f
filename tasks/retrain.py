"""Retraining: one at a time, a candidate that waits for its decision, and what becomes of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal
from uuid import UUID

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import resume_flow_run

from llama2_core.config import Record
from llama2_core.errors import ConfigError
from storage.artifacts import Store, short_name
from storage.disk import take_lock
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.people import Approval, await_approval, deployed_run
from tasks.pipeline import command
from tasks.progress import say
from tasks.registry import NAME, Version, offer, promote, register, versions, withdraw
from tasks.report_tables import interval
from tasks.rounds_recipe import RetrainRecipe, Round
from tasks.runtime import Runtime
from tasks.stage_models import model_artifact
from tasks.stage_run import tracker

TRIAL, FLOW_RUN, ANSWER, WHY = "llama2.trial", "llama2.flow_run", "llama2.answer", "llama2.decision"
"""Tags of a candidate: the round that made it, who asks a person, what was answered, what became of it."""
POLL_SECONDS = 1.0


class Trial(Record):
    """A round that was made to better a champion."""

    champion: str
    """The model."""
    standing: str
    """Its evaluation."""
    made: Round
    """The round."""
    news: list[dict[str, str]]
    """What it learned that the champion had not."""


class Decision(Record):
    """Whether a candidate became the champion, who said so, and why."""

    promoted: bool
    """Whether the candidate became the champion."""
    by: Literal["gate", "person"]
    """Who decided."""
    reason: str
    """Why."""


@contextmanager
def alone(runtime: Runtime) -> Iterator[str]:
    """Hold the right to retrain in a home; yields nothing, or who has it. The run whose candidate waits, waits too."""
    runtime.home.mkdir(parents=True, exist_ok=True)
    with (runtime.home / "retrain.lock").open("a+") as lock:
        while (holder := take_lock(lock)) and _is_mine(runtime):
            time.sleep(POLL_SECONDS)
        at_it = "Process {pid} on {host} has been retraining since {started}: this run leaves it to that one."
        yield at_it.format(**holder) if holder else ""


@task(name="champion", task_run_name="champion", cache_policy=NO_CACHE)
def champion_of_home(runtime: Runtime) -> str:
    """Return the registry's champion as "kind/digest"; the first is what the gate of the newest run kept.

    Raises ArtifactNotFound where there is none, or where it is no artifact of the store.
    """
    store = Store(runtime.store_root)
    if found := versions(runtime).get("champion"):
        return found.artifact(store).full_name
    kept = model_artifact("", store)
    say(f"[bold]first champion[/] [dim]{kept.name}[/]")
    parents = {"candidate": kept.full_name, "verdict": store.resolve("verdict").full_name}
    _record(Decision(promoted=True, by="gate", reason="the gate of a whole run kept it"), parents, runtime)
    register(kept.path, "champion", runtime)
    return kept.full_name


def waiting(runtime: Runtime) -> Trial | None:
    """Return the trial of a candidate that was not decided; one against an earlier champion is withdrawn."""
    found = versions(runtime)
    if TRIAL not in (found["candidate"].tags if "candidate" in found else {}):
        return None
    trial = Trial.model_validate_json(found["candidate"].tags[TRIAL])
    if _is_champion(trial.champion, runtime):
        return trial
    withdraw(runtime)
    return None


def asked_elsewhere(runtime: Runtime) -> FlowRun | None:
    """Return the flow run, another and not at its end, in which a person is asked about the candidate."""
    candidate = versions(runtime).get("candidate")
    run = candidate.tags.get(FLOW_RUN) if candidate else ""
    if not run or run == deployed_run():
        return None
    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        found = client.read_flow_run(UUID(run))
        return found if found.state and not found.state.is_final() else None
    return None


def answer(approval: Approval, runtime: Runtime) -> str:
    """Give a person's answer to the flow run that asked, or leave it for the next run to find; return what happens.

    Raises ConfigError when no candidate waits for one.
    """
    trial = waiting(runtime)
    if not trial:
        raise ConfigError(
            f"no candidate waits for an answer in {runtime.tracking_uri}: `llama2 champion` shows all"
        )
    if run := asked_elsewhere(runtime):
        resume_flow_run(run.id, approval.model_dump())
        return f"Flow run {run.name!r} goes on with this answer."
    number = versions(runtime)["candidate"].number
    tracker(runtime).tag_version(NAME, number, {ANSWER: approval.model_dump_json()})
    return ""


def decide(trial: Trial, page: str, recipe: RetrainRecipe, runtime: Runtime) -> Decision:
    """Return whether the candidate becomes the champion: by what was decided, by the gate, or by asking a person."""
    if made := _decided(trial, runtime):
        return made
    held = find(trial.made.verdict, runtime).summary["candidates"]
    lines = [
        f"V{trial.made.number} {stage} over {told['over']} {interval(told['win_rate'])}, "
        + (f"refused: {'; '.join(told['refused'])}" if told["refused"] else "accepted")
        for stage, told in held.items()
    ]
    if trial.made.champion == trial.champion:
        return Decision(promoted=False, by="gate", reason=". ".join(lines))
    again = command(recipe, runtime)
    tags = {TRIAL: trial.model_dump_json(), FLOW_RUN: deployed_run()}
    version = offer(find(trial.made.champion, runtime), tags, runtime, f"`{again}`")
    if not recipe.approval:
        return Decision(promoted=True, by="gate", reason=". ".join(lines))
    if given := versions(runtime)["candidate"].tags.get(ANSWER):
        said = Approval.model_validate_json(given)
    else:
        lines += [f"new: {row['what']}, {row['how much']}" for row in trial.news]
        asked = (
            f"Shall version {version} of {NAME} become the champion? In percent, with 95% intervals:\n\n- "
        )
        asked += "\n- ".join(lines) + f"\n\nThe report: {Path(page).absolute()}"
        said = await_approval(asked, f"approve-{version}", again)
    return Decision(promoted=said.approve, by="person", reason=said.reason)


def carry_out(trial: Trial, decision: Decision, runtime: Runtime) -> str:
    """Record a decision, then move the aliases; return what became of the candidate."""
    _record(decision, _parents(trial), runtime)
    by = "a person" if decision.by == "person" else "the gate"
    because = f"{decision.reason or 'No reason given'} (by {by})."
    changed = "" if _is_champion(trial.champion, runtime) else "It has changed while the candidate was made. "
    candidate = _candidate(trial, runtime)
    if candidate:
        said = "promoted" if decision.promoted else "refused"
        tracker(runtime).tag_version(NAME, candidate.number, {WHY: f"{said}: {because}", ANSWER: ""})
        if decision.promoted and not changed:
            promote(candidate.number, runtime)
            return f"Version {candidate.number}, {short_name(trial.made.champion)}, is the champion now. {because}"
        withdraw(runtime)
    return f"The champion stays. {changed}{because}"


def _candidate(trial: Trial, runtime: Runtime) -> Version | None:
    """Return the candidate that a trial has registered."""
    found = versions(runtime).get("candidate")
    return found if found and found.tags.get(TRIAL) == trial.model_dump_json() else None


def _is_champion(model: str, runtime: Runtime) -> bool:
    found = versions(runtime).get("champion")
    return found is not None and found.name == model


def _is_mine(runtime: Runtime) -> bool:
    """Tell whether this flow run was suspended to ask about the candidate."""
    candidate, run = versions(runtime).get("candidate"), deployed_run()
    return bool(candidate and run and candidate.tags.get(FLOW_RUN) == run)


def _parents(trial: Trial) -> dict[str, str]:
    return {"champion": trial.champion, "candidate": trial.made.champion, "verdict": trial.made.verdict}


def _decided(trial: Trial, runtime: Runtime) -> Decision | None:
    """Return what was decided of a trial, where that was not carried out."""
    made = [a for a in Store(runtime.store_root).artifacts() if a.kind == "decision"]
    of = next((a for a in made if a.manifest.parents == _parents(trial)), None)
    return Decision.model_validate(of.summary) if of else None


def _record(decision: Decision, parents: dict[str, str], runtime: Runtime) -> None:
    job = Job("decision on the candidate", "decision", decision, parents=parents)
    build(job, runtime, lambda directory: decision.model_dump())
