"""Scheduled retraining: what is new since the champion becomes a candidate, which a gate, and a person, may promote."""

from prefect import State, flow
from prefect.states import Completed

from flows.corpus import tokens
from flows.evaluate import evaluate
from flows.rlhf import improve
from storage.artifacts import short_name
from tasks.adapt import continued
from tasks.news import News, ancestry, news_since, tokens_recipe
from tasks.pipeline import finish_run, tracked_run
from tasks.retrain import Trial, alone, asked_elsewhere, carry_out, champion_of_home, decide, waiting
from tasks.rounds_recipe import RetrainRecipe
from tasks.rounds_report import rounds_report
from tasks.runtime import Runtime


@flow(name="retrain", flow_run_name="retraining of the champion, seed {recipe.seed}")
def retrain(recipe: RetrainRecipe = RetrainRecipe(), runtime: Runtime = Runtime()) -> State[str]:
    """Make the champion anew from what came since: one round, the gate, a person where asked for, promotion.

    Completed too, with a sentence that says so, when nothing is new, when another run is at it, and when a candidate
    waits for a person.
    """
    with alone(runtime) as another:
        said = another or retrained(recipe, runtime)
    return Completed(message=said, data=said)


def retrained(recipe: RetrainRecipe, runtime: Runtime) -> str:
    """Return what became of the champion."""
    champion = champion_of_home(runtime)
    waits = waiting(runtime)
    if waits and (run := asked_elsewhere(runtime)):
        return f"A candidate waits for a person: resume flow run {run.name!r}, {run.id}, with an answer."
    found = waits or news_since(champion, recipe, runtime)
    if isinstance(found, News) and not found.is_enough(recipe):
        wanted = f"{found.comparisons:,} of {recipe.least_comparisons:,} comparisons, no documents"
        return f"Nothing new since the champion, {short_name(champion)}: {wanted}."
    with tracked_run(recipe, runtime) as tracked:
        trial = attempt(champion, found, recipe, tracked) if isinstance(found, News) else found
        page, stages = rounds_report(recipe, trial.standing, [trial.made], tracked, trial.news)
        said = carry_out(trial, decide(trial, page, recipe, tracked), tracked)
        rounds_report(recipe, trial.standing, [trial.made], tracked, trial.news, said)
        finish_run(stages, page, tracked)
    return said


def attempt(champion: str, news: News, recipe: RetrainRecipe, runtime: Runtime) -> Trial:
    """Run one round from the champion, its base model first where there are new documents."""
    start = ancestry(champion, runtime).start(news.batches)
    standing = evaluate(champion, "champion", recipe.evaluation, start.dialogs, recipe.seed, runtime)
    base = start.base
    if news.corpus and recipe.pretrain:
        shards = tokens(tokens_recipe(champion, runtime), news.corpus, base, recipe.seed, runtime)
        base = continued(recipe.pretrain, base, shards, recipe.seed, runtime)
    begun = start.model_copy(update={"base": base, "standard": standing, "standing": standing})
    made = improve(begun, recipe, runtime)
    return Trial(champion=champion, standing=standing, made=made, news=news.rows)
