"""Reward models. Llama 2 section 3.2.2."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.jobs import Job
from tasks.launch import build
from tasks.reward_recipe import RewardRecipe
from tasks.runtime import Runtime


@task(name="reward model", task_run_name="{recipe.domain} reward model", cache_policy=NO_CACHE)
def reward_model(recipe: RewardRecipe, chat: str, comparisons: list[str], seed: int, runtime: Runtime) -> str:
    """Train the helpfulness or the safety reward model on all batches of comparisons so far."""
    parents = {"chat": chat, **{f"comparisons{i}": name for i, name in enumerate(comparisons, 1)}}
    label = f"{recipe.domain} reward model {len(comparisons)}"
    return build(Job(label, "reward", recipe, seed, parents, processes=runtime.processes), runtime)
