"""What the rounds of RLHF decide between stages: where they begin, how they sample, who is champion."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from storage.artifacts import Store
from tasks.evaluate import compare, judged, score_table
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.progress import say
from tasks.rejection import publish_curves, samples_job
from tasks.rendering import markdown_table
from tasks.report_tables import interval
from tasks.rounds_recipe import RoundGateRecipe, RoundsRecipe, SweepRecipe
from tasks.runtime import Runtime
from tasks.sampling_recipe import RejectionRecipe
from tasks.stage_models import full_name

LOWER_IS_BETTER = frozenset({"unsafe_answers", "false_refusals", "borderline_refusals"})
HARMFUL = "unsafe"
"""Kind of the prompts by which harmlessness is judged."""


@task(name="start of the rounds", task_run_name="start of the rounds", cache_policy=NO_CACHE)
def start_of(recipe: RoundsRecipe, runtime: Runtime) -> tuple[str, str, str]:
    """Return base model, chat model and dialogs as "kind/digest". Raises ArtifactNotFound."""
    store = Store(runtime.store_root)
    base, chat, dialogs = (full_name(name, store) for name in (recipe.base, recipe.chat, recipe.dialogs))
    return base, chat, dialogs


@task(name="temperature sweep", task_run_name="temperature sweep, V{number}", cache_policy=NO_CACHE)
def temperature_sweep(
    sweep: SweepRecipe,
    recipe: RejectionRecipe,
    number: int,
    parents: dict[str, str],
    seed: int,
    runtime: Runtime,
) -> str:
    """Draw as many answers at each temperature, and score them."""
    trial = recipe.model_copy(
        update={
            "temperatures": sweep.temperatures,
            "samples": sweep.samples * len(sweep.temperatures),
            "prompts": sweep.prompts,
        }
    )
    name = build(samples_job(trial, **parents, seed=seed, label=f"temperatures of V{number}"), runtime)
    publish_curves(name, runtime)
    return name


def at_best_temperature(recipe: RejectionRecipe, sweep: str, runtime: Runtime) -> RejectionRecipe:
    """Return the recipe with the temperature whose best of K samples has the highest expected reward."""
    best = find(sweep, runtime).summary["best_temperature"]
    say(f"  best temperature {best:g}")
    return recipe.model_copy(update={"temperatures": (best,)})


@task(name="round gate", task_run_name="gate of V{number}", cache_policy=NO_CACHE)
def round_gate(
    recipe: RoundGateRecipe,
    number: int,
    sft: str,
    champion: str,
    candidates: dict[str, str],
    runtime: Runtime,
) -> str:
    """Hold each candidate against the champion so far; all are evaluations. A loss on any suite keeps the champion."""
    parents = {"sft": sft, "champion": champion, **candidates}

    def work(directory: Path) -> dict[str, Any]:
        standing, told = "champion", {}
        for role in candidates:
            told[role] = held_against(parents[role], parents[standing], recipe, runtime) | {"over": standing}
            if not told[role]["refused"]:
                standing = role
        rates = {role: by_domain(name, sft, runtime) for role, name in parents.items() if role != "sft"}
        return {"champion": standing, "candidates": told, "over_sft": rates}

    name = build(Job(f"gate of V{number}", "verdict", recipe, parents=parents), runtime, work)
    _tell(number, name, parents, runtime)
    return name


def champion_of(verdict: str, runtime: Runtime) -> str:
    """Return the stage whose model a gate has chosen, or "champion" for that of the round before."""
    return find(verdict, runtime).summary["champion"]


def samples_of(model: str, runtime: Runtime) -> str:
    """Return the samples that a model was fine-tuned on."""
    return find(model, runtime).manifest.parents["samples"]


def held_against(candidate: str, other: str, recipe: RoundGateRecipe, runtime: Runtime) -> dict[str, Any]:
    """Return the win rate of one evaluated model over another, what each suite loses, and why it is refused, if so."""
    rate = over(candidate, other, runtime)["all"]
    mine, theirs = find(candidate, runtime).summary, find(other, runtime).summary
    lost = losses(mine, theirs)
    refused = [f"{suite} loses {loss:.3f}" for suite, loss in lost.items() if loss > recipe.most_loss]
    if rate["value"] < recipe.least_win_rate or rate["low"] < recipe.least_sure_win_rate:
        sure = 100 * recipe.least_sure_win_rate
        refused.append(f"the win rate must be {100 * recipe.least_win_rate:g}, its lower end {sure:g}")
    return {"win_rate": rate, "losses": lost, "refused": refused}


def losses(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Return by how much each suite's share is worse; what is better is negative."""
    return {
        suite: (fact["value"] - theirs[suite]["value"]) * (1 if suite in LOWER_IS_BETTER else -1)
        for suite, fact in mine.items()
        if isinstance(fact, dict) and suite in theirs
    }


def by_domain(candidate: str, other: str, runtime: Runtime) -> dict[str, dict[str, float]]:
    """Return the helpful and the harmless win rate (Llama 2 Figure 11)."""
    rates = over(candidate, other, runtime)
    return {domain: rates[domain] for domain in ("helpful", "harmless")}


def over(candidate: str, other: str, runtime: Runtime) -> dict[str, dict[str, float]]:
    """Return win rates of one evaluated model over another: all prompts, helpful and harmless ones."""
    mine, theirs = judged(candidate, runtime), judged(other, runtime)
    domains = {"all": list(mine)}
    domains["helpful"] = [prompt for prompt, (kind, _) in mine.items() if kind != HARMFUL]
    domains["harmless"] = [prompt for prompt, (kind, _) in mine.items() if kind == HARMFUL]
    return {domain: compare(mine, theirs, prompts) for domain, prompts in domains.items() if prompts}


def _tell(number: int, name: str, evaluations: dict[str, str], runtime: Runtime) -> None:
    """Leave the gate's verdict in the log, and as an artifact in Prefect."""
    verdict = find(name, runtime).summary
    lines = []
    for role, told in verdict["candidates"].items():
        said = "refused: " + "; ".join(told["refused"]) if told["refused"] else "accepted"
        lines.append(f"V{number} {role} over {told['over']}: {interval(told['win_rate'])}, {said}")
        say(f"  {lines[-1]}")
    scores = score_table(evaluations, runtime)
    columns = list(dict.fromkeys(name for row in scores for name in row))
    rows = [columns, *([row.get(column, "–") for column in columns] for row in scores)]
    told = "\n".join(f"- {line}" for line in lines)
    markdown = f"## V{number}: the champion is {verdict['champion']}\n\n{told}\n\n{markdown_table(rows)}\n"
    create_markdown_artifact(key=f"gate-v{number}", description=f"Gate of V{number}", markdown=markdown)
