"""Rejection sampling. Llama 2 section 3.2.3."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.jobs import Job
from tasks.launch import build, find
from tasks.recipes import FineTuneRecipe
from tasks.rejection_figures import curve_tables, draw_curves
from tasks.runtime import Runtime
from tasks.sampling_recipe import RejectionRecipe
from tasks.stage_run import tracker


@task(name="rejection samples", task_run_name="rejection samples", cache_policy=NO_CACHE)
def rejection_samples(
    recipe: RejectionRecipe,
    chat: str,
    helpfulness: str,
    safety: str,
    dialogs: str,
    seed: int,
    runtime: Runtime,
    earlier: Sequence[str] = (),
) -> str:
    """Draw K answers a prompt and score them by both reward models, and with them what earlier samples chose."""
    name = build(samples_job(recipe, chat, helpfulness, safety, dialogs, seed, earlier), runtime)
    publish_curves(name, runtime)
    return name


def samples_job(
    recipe: RejectionRecipe,
    chat: str,
    helpfulness: str,
    safety: str,
    dialogs: str,
    seed: int,
    earlier: Sequence[str] = (),
    label: str = "rejection samples",
) -> Job:
    """Return the stage. A server counts as one wherever it is: a run goes on when it comes back at another address."""
    parents = {"chat": chat, "helpfulness": helpfulness, "safety": safety, "dialogs": dialogs}
    parents |= {f"earlier{number}": name for number, name in enumerate(earlier, 1)}
    engine = {"engine": {"kind": recipe.engine.kind}}
    return Job(label, "samples", recipe, seed, parents, inputs=engine)


@task(name="rejection fine-tuning", task_run_name="{label}", cache_policy=NO_CACHE)
def rejection_fine_tune(
    recipe: FineTuneRecipe,
    base: str,
    samples: str,
    seed: int,
    runtime: Runtime,
    label: str = "rejection sampling",
) -> str:
    """Fine-tune the base model on the best sample of each prompt."""
    parents = {"base": base, "samples": samples}
    return build(Job(label, "chat", recipe, seed, parents, processes=runtime.processes), runtime)


def publish_curves(name: str, runtime: Runtime) -> None:
    """Leave the curves of samples as figures beside their run in MLflow, and as tables in Prefect."""
    artifact = find(name, runtime)
    summary = artifact.summary
    tracking = tracker(runtime)
    if run_id := tracking.newest(artifact.digest):
        with tempfile.TemporaryDirectory() as folder:
            for figure in draw_curves(summary["reward_curve"], summary["temperature_curve"]):
                path = Path(folder) / f"{figure.name}.svg"
                path.write_text(figure.svg, encoding="utf-8")
                tracking.log_file(run_id, path, "figures")
    create_markdown_artifact(
        key="rejection-samples", description="Rewards of rejection sampling", markdown=curve_tables(summary)
    )
