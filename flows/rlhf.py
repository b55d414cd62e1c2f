"""Iterative RLHF: rejection sampling, then PPO. Llama 2 section 3.2.3."""

from prefect import flow

from tasks.launch import Job
from tasks.loss_mask_linter import lint_loss_masks
from tasks.ppo import ppo as ppo_task
from tasks.ppo import ppo_job
from tasks.recipes import FineTuneRecipe, PPORecipe, RejectionRecipe
from tasks.rejection import rejection_fine_tune, rejection_samples
from tasks.runtime import Runtime


@flow(name="rejection", flow_run_name="rejection sampling, seed {seed}")
def rejection(
    base: str,
    chat: str,
    helpfulness: str,
    safety: str,
    recipe: RejectionRecipe = RejectionRecipe(),
    fine_tune: FineTuneRecipe = FineTuneRecipe(),
    dialogs: str = "dialogs",
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> str:
    """Sample K answers a prompt from the chat model and fine-tune the base model on the best."""
    samples = rejection_samples(recipe, chat, helpfulness, safety, dialogs, seed, runtime)
    parents = {"base": base, "samples": samples}
    lint_loss_masks(Job("rejection sampling", "chat", fine_tune, seed, parents), runtime)
    return rejection_fine_tune(fine_tune, base, samples, seed, runtime)


@flow(name="ppo", flow_run_name="ppo, seed {seed}")
def ppo(
    chat: str,
    helpfulness: str,
    safety: str,
    recipe: PPORecipe = PPORecipe(),
    dialogs: str = "dialogs",
    seed: int = 0,
    runtime: Runtime = Runtime(),
    independent: str | None = None,
) -> str:
    """Improve a chat model by PPO, once its prompts are found right; an independent reward model may watch."""
    lint_loss_masks(ppo_job(recipe, chat, helpfulness, safety, dialogs, seed, independent), runtime)
    return ppo_task(recipe, chat, helpfulness, safety, dialogs, seed, runtime, independent)
