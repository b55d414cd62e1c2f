"""Comparisons of two models' answers. Llama 2 section 3.2.1."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.launch import Job, build
from tasks.recipes import ComparisonsRecipe
from tasks.runtime import Runtime


@task(name="comparisons", task_run_name="comparisons {recipe.batch}", cache_policy=NO_CACHE)
def comparisons(
    recipe: ComparisonsRecipe, newest: str, other: str, dialogs: str, seed: int, runtime: Runtime
) -> str:
    """Sample two answers a prompt and have the simulated annotator compare them."""
    parents = {"newest": newest, "other": other, "dialogs": dialogs}
    return build(Job(f"comparisons {recipe.batch}", "comparisons", recipe, seed, parents), runtime)
