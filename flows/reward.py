"""Comparisons, the two reward models, and whether they are any good. Llama 2 sections 3.2.1 and 3.2.2."""

from prefect import flow

from tasks.jobs import Job
from tasks.loss_mask_linter import lint_loss_masks
from tasks.preferences import comparisons as comparisons_task
from tasks.recipes import ComparisonsRecipe
from tasks.reward import reward_model
from tasks.reward_recipe import AblationRecipe, RewardRecipe, RewardReportRecipe
from tasks.reward_report import fitness, reward_scores, roles
from tasks.reward_report import reward_report as report_task
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


@flow(name="reward ablation", flow_run_name="reward ablation, seed {seed}")
def reward_ablation(
    chat: str,
    comparisons: list[str],
    helpfulness: RewardRecipe = RewardRecipe(),
    safety: RewardRecipe = RewardRecipe(domain="safety"),
    recipe: AblationRecipe = AblationRecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> dict[str, str]:
    """Train variants of both reward models; return name -> model, for a report."""
    variants = recipe.variants(chat, helpfulness, safety)
    return {
        name: reward(start, comparisons, variant, seed, runtime)
        for name, (start, variant) in variants.items()
    }


@flow(name="reward report", flow_run_name="report on reward models {round}")
def reward_report(
    models: dict[str, str],
    comparisons: list[str],
    earlier: list[dict[str, str]] | None = None,
    variants: dict[str, str] | None = None,
    recipe: RewardReportRecipe = RewardReportRecipe(),
    round: int = 1,
    runtime: Runtime = Runtime(),
) -> str:
    """Measure both reward models, domain -> model, and those of earlier rounds, on held-out comparisons.

    Fails when the two miss a bar that is not overridden; the report is there all the same.
    """
    label = f"reward models {round}"
    scores = reward_scores(label, roles(models, earlier or [], variants or {}), comparisons, runtime)
    report = report_task(recipe, label, scores, runtime)
    fitness(report, runtime)
    return report
