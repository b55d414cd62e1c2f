"""Rejection sampling. Llama 2 section 3.2.3."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.launch import Job, build
from tasks.recipes import FineTuneRecipe, RejectionRecipe
from tasks.runtime import Runtime


@task(name="rejection samples", task_run_name="rejection samples", cache_policy=NO_CACHE)
def rejection_samples(
    recipe: RejectionRecipe,
    chat: str,
    helpfulness: str,
    safety: str,
    dialogs: str,
    seed: int,
    runtime: Runtime,
) -> str:
    """Draw K answers a prompt and score them by both reward models."""
    parents = {"chat": chat, "helpfulness": helpfulness, "safety": safety, "dialogs": dialogs}
    return build(Job("rejection samples", "samples", recipe, seed, parents), runtime)


@task(name="rejection fine-tuning", task_run_name="rejection fine-tuning", cache_policy=NO_CACHE)
def rejection_fine_tune(recipe: FineTuneRecipe, base: str, samples: str, seed: int, runtime: Runtime) -> str:
    """Fine-tune the base model on the best sample of each prompt."""
    parents = {"base": base, "samples": samples}
    job = Job("rejection sampling", "chat", recipe, seed, parents, processes=runtime.processes)
    return build(job, runtime)
