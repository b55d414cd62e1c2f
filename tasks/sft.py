"""Supervised fine-tuning. Llama 2 section 3.1."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.launch import Job, build
from tasks.recipes import FineTuneRecipe
from tasks.runtime import Runtime


@task(name="sft", task_run_name="{label}", cache_policy=NO_CACHE)
def sft(
    recipe: FineTuneRecipe, base: str, dialogs: str, seed: int, runtime: Runtime, label: str = "SFT"
) -> str:
    """Fine-tune the base model on demonstrations, loss on answers only."""
    parents = {"base": base, "dialogs": dialogs}
    return build(Job(label, "chat", recipe, seed, parents, processes=runtime.processes), runtime)
