"""Proximal policy optimization. Llama 2 section 3.2.3."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.launch import Job, build
from tasks.recipes import PPORecipe
from tasks.runtime import Runtime


@task(name="ppo", task_run_name="ppo", cache_policy=NO_CACHE)
def ppo(
    recipe: PPORecipe, chat: str, helpfulness: str, safety: str, dialogs: str, seed: int, runtime: Runtime
) -> str:
    """Improve the chat model against both reward models, near the model it starts from."""
    parents = {"chat": chat, "helpfulness": helpfulness, "safety": safety, "dialogs": dialogs}
    return build(Job("PPO", "ppo", recipe, seed, parents), runtime)
