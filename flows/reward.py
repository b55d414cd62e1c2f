"""Comparisons and the two reward models. Llama 2 sections 3.2.1 and 3.2.2."""

from prefect import flow

from tasks.launch import Job
from tasks.loss_mask_linter import lint_loss_masks
from tasks.preferences import comparisons as comparisons_task
from tasks.recipes import ComparisonsRecipe
from tasks.reward import reward_model
from tasks.reward_recipe import RewardRecipe
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
    """Train one reward model on batches of comparisons, once they are found right."""
    label = f"{recipe.domain} reward model {len(comparisons)}"
    parents = {"chat": chat, **{f"comparisons{i}": name for i, name in enumerate(comparisons, 1)}}
    lint_loss_masks(Job(label, "reward", recipe, seed, parents), runtime)
    return reward_model(recipe, chat, comparisons, seed, runtime)
