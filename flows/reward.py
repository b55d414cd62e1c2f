"""Comparisons and the two reward models. Llama 2 sections 3.2.1 and 3.2.2."""

from prefect import flow

from tasks.preferences import comparisons as comparisons_task
from tasks.recipes import ComparisonsRecipe, RewardRecipe
from tasks.reward import reward_model
from tasks.runtime import Runtime


@flow(name="comparisons", flow_run_name="comparisons {recipe.batch}, seed {seed}")
def comparisons(
    newest: str,
    other: str,
    recipe: ComparisonsRecipe = ComparisonsRecipe(),
    dialogs: str = "dialogs",
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> str:
    """Compare the answers of two models."""
    return comparisons_task(recipe, newest, other, dialogs, seed, runtime)


@flow(name="reward", flow_run_name="{recipe.domain} reward model, seed {seed}")
def reward(
    chat: str,
    comparisons: list[str],
    recipe: RewardRecipe = RewardRecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> str:
    """Train one reward model on batches of comparisons."""
    return reward_model(recipe, chat, comparisons, seed, runtime)
