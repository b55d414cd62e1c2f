"""Proximal policy optimization. Llama 2 section 3.2.3."""

from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.jobs import Job
from tasks.launch import build, find
from tasks.progress import say
from tasks.recipes import PPORecipe
from tasks.rendering import markdown_table
from tasks.runtime import Runtime
from tasks.stage_run import tracker


@task(name="ppo", task_run_name="ppo", cache_policy=NO_CACHE)
def ppo(
    recipe: PPORecipe,
    chat: str,
    helpfulness: str,
    safety: str,
    dialogs: str,
    seed: int,
    runtime: Runtime,
    independent: str | None = None,
) -> str:
    """Improve the chat model against both reward models, near the model it starts from; say how sound that was."""
    job = ppo_job(recipe, chat, helpfulness, safety, dialogs, seed, independent, runtime.processes)
    name = build(job, runtime)
    publish_diagnosis(name, runtime)
    return name


def ppo_job(
    recipe: PPORecipe,
    chat: str,
    helpfulness: str,
    safety: str,
    dialogs: str,
    seed: int,
    independent: str | None = None,
    processes: int = 1,
) -> Job:
    """Return the stage; an independent reward model only watches, and is a parent only where there is one."""
    parents = {"chat": chat, "helpfulness": helpfulness, "safety": safety, "dialogs": dialogs}
    parents |= {"independent": independent} if independent else {}
    return Job("PPO", "ppo", recipe, seed, parents, processes=processes)


def publish_diagnosis(name: str, runtime: Runtime) -> None:
    """Leave the diagnosis of a PPO artifact in the log, as tags of its run in MLflow, and as an artifact in Prefect."""
    artifact = find(name, runtime)
    findings = artifact.summary["findings"]
    for finding in findings:
        say(f"  [yellow]PPO, iteration {finding['iteration']}[/]: {finding['says']}")
    tracking = tracker(runtime)
    if run_id := tracking.newest(artifact.digest):
        tags = {f"llama2.diagnosis.{finding['name']}": finding["says"] for finding in findings}
        verdict = ", ".join(finding["name"] for finding in findings) or "sound"
        tracking.set_tags(run_id, {"llama2.diagnosis": verdict, **tags})
    create_markdown_artifact(
        key="ppo-diagnosis", description="PPO, diagnosed", markdown=diagnosis(artifact.summary)
    )


def diagnosis(summary: dict[str, Any]) -> str:
    """Return what is known of a PPO run's health, as Markdown."""
    first, best, findings = summary["first"], summary["best"], summary["findings"]
    names = [name for name in first if name in best and name not in ("iteration", "trusted")]
    rows = [["held-out prompts", "before", f"kept, iteration {best['iteration']:g}"]]
    rows += [[name, f"{first[name]:.4g}", f"{best[name]:.4g}"] for name in names]
    lines = [
        f"- **{finding['name']}**, iteration {finding['iteration']}"
        f"{' (stopped here)' if finding['stops'] else ''}, {finding['iterations']} in all: {finding['says']}"
        for finding in findings
    ]
    told = "\n".join(lines) or "Every measure stayed within its bound."
    return f"## PPO: {summary['iterations']} iterations\n\n{told}\n\n{markdown_table(rows)}\n"
