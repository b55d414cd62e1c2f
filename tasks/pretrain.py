"""Pretraining. Llama 2 section 2.2."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.launch import Job, build
from tasks.recipes import PretrainRecipe
from tasks.runtime import Runtime


@task(name="pretrain", task_run_name="pretrain", cache_policy=NO_CACHE)
def pretrain(recipe: PretrainRecipe, tokens: str, tokenizer: str, seed: int, runtime: Runtime) -> str:
    """Train the base model on token shards."""
    parents = {"tokens": tokens, "tokenizer": tokenizer}
    return build(Job("pretraining", "base", recipe, seed, parents, processes=runtime.processes), runtime)
