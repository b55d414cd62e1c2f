"""Direct preference optimization (arXiv 2305.18290), an arm to compare RLHF with."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.dpo_recipe import DPORecipe
from tasks.jobs import Job
from tasks.launch import build
from tasks.runtime import Runtime


@task(name="dpo", task_run_name="dpo", cache_policy=NO_CACHE)
def dpo(recipe: DPORecipe, chat: str, comparisons: list[str], seed: int, runtime: Runtime) -> str:
    """Improve the chat model on all batches of comparisons, without a reward model."""
    return build(dpo_job(recipe, chat, comparisons, seed, runtime.processes), runtime)


def dpo_job(recipe: DPORecipe, chat: str, comparisons: list[str], seed: int, processes: int = 1) -> Job:
    parents = {"chat": chat, **{f"comparisons{i}": name for i, name in enumerate(comparisons, 1)}}
    return Job("DPO", "dpo", recipe, seed, parents, processes=processes)
