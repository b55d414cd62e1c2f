"""Supervised fine-tuning. Llama 2 section 3.1."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.jobs import Job
from tasks.launch import build
from tasks.recipes import FineTuneRecipe
from tasks.runtime import Runtime


@task(name="sft", task_run_name="{label}", cache_policy=NO_CACHE)
def sft(
    recipe: FineTuneRecipe, base: str, dialogs: str, seed: int, runtime: Runtime, label: str = "SFT"
) -> str:
    """Fine-tune the base model on demonstrations, loss on answers only."""
    parents = {"base": base, "dialogs": dialogs}
    return build(Job(label, "chat", recipe, seed, parents, processes=runtime.processes), runtime)


@task(name="fine-tuning", task_run_name="{job.label}", cache_policy=NO_CACHE)
def fine_tune(job: Job, runtime: Runtime) -> str:
    """Fine-tune on lessons of several kinds: what `lesson_job` describes."""
    return build(job, runtime)


def lesson_job(
    label: str, recipe: FineTuneRecipe, base: str, lessons: dict[str, str], seed: int, runtime: Runtime
) -> Job:
    """Return the job of fine-tuning on all of the lessons, whose roles are those of `read_lessons`."""
    return Job(label, "chat", recipe, seed, {"base": base, **lessons}, processes=runtime.processes)
