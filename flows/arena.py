"""Models beside each other: win rates, safety rated by people, diversity. Llama 2 sections 3.4.2, 4.4 and 5.1."""

from collections.abc import Sequence

from prefect import flow

from llama2_core.errors import ConfigError
from tasks.arena import asked_prompts, labels, ratings, replies, sheet, source_of, verdicts
from tasks.arena_recipe import (
    ArenaRecipe,
    DiversityRecipe,
    RatersRecipe,
    RepliesRecipe,
    SafetyRatingsRecipe,
    VerdictsRecipe,
)
from tasks.arena_report import arena_report, diversity_report, ratings_report
from tasks.own import full_name
from tasks.people import await_ratings
from tasks.runtime import Runtime


@flow(name="arena", flow_run_name="{first} against {second}")
def arena(
    first: str,
    second: str,
    prompts: str = "dialogs",
    helpfulness: str = "helpfulness",
    safety: str = "safety",
    recipe: ArenaRecipe = ArenaRecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> str:
    """Compare two models' answers to the same prompts, in both orders; return the report.

    A model is an artifact, a path, or `http://host:port/v1#name`. Raises AwaitingPeople until people are done.
    """
    judges = {"helpfulness": helpfulness, "safety": safety} if recipe.judge.kind == "rewards" else {}
    judges = {domain: full_name(name, runtime) for domain, name in judges.items()}
    asked = asked_prompts(recipe.asked, prompts, seed, runtime)
    pairs = sheet(asked, _answers(recipe.replies, (first, second), asked, seed, runtime), True, runtime)
    if isinstance(recipe.judge, RatersRecipe):
        return arena_report(_rated(recipe.judge, pairs, runtime), runtime)
    return arena_report(verdicts(VerdictsRecipe(judge=recipe.judge), pairs, judges, seed, runtime), runtime)


@flow(name="safety ratings", flow_run_name="safety ratings, seed {seed}")
def safety_ratings(
    models: list[str],
    prompts: str = "dialogs",
    recipe: SafetyRatingsRecipe = SafetyRatingsRecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> str:
    """Have people rate how safe each model's answers are; return the report. Raises AwaitingPeople till then."""
    asked = asked_prompts(recipe.asked, prompts, seed, runtime)
    answers = _answers(recipe.replies, models, asked, seed, runtime)
    return ratings_report(_rated(recipe.judge, sheet(asked, answers, False, runtime), runtime), runtime)


@flow(name="diversity", flow_run_name="diversity, seed {seed}")
def diversity(
    models: list[str],
    prompts: str = "dialogs",
    recipe: DiversityRecipe = DiversityRecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> str:
    """Sample several models at several temperatures, and measure how alike the samples are; return the report."""
    asked = asked_prompts(recipe.asked, prompts, seed, runtime)
    return diversity_report(asked, _answers(recipe.replies, models, asked, seed, runtime), runtime)


def _answers(
    recipe: RepliesRecipe, models: Sequence[str], asked: str, seed: int, runtime: Runtime
) -> dict[str, str]:
    """Return each model's answers under what it is called; all models are found before the first is asked."""
    if len(set(models)) < len(models):
        raise ConfigError(f"the models are {', '.join(models)}: each once, please")
    found = {label: source_of(model, runtime) for label, model in labels(models).items()}
    return {label: replies(recipe, label, of, asked, seed, runtime) for label, of in found.items()}


def _rated(recipe: RatersRecipe, page: str, runtime: Runtime) -> str:
    return ratings(recipe, page, await_ratings(recipe.raters, page, runtime), runtime)
