"""Examination of checkpoints, side-by-side comparison, and the gate. Llama 2 section 3.4."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from llama2_core.evaluation.statistics import win_rate
from storage.schemas import RESPONSES, read_table
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.recipes import EvaluationRecipe, GateRecipe
from tasks.report_tables import interval
from tasks.runtime import Runtime


@task(name="evaluate", task_run_name="evaluate {label}", cache_policy=NO_CACHE)
def evaluate(
    recipe: EvaluationRecipe, model: str, dialogs: str, label: str, seed: int, runtime: Runtime
) -> str:
    """Examine one checkpoint on the held-out prompts."""
    parents = {"model": model, "dialogs": dialogs}
    return build(Job(f"evaluation of {label}", "evaluation", recipe, seed, parents), runtime)


@task(name="gate", task_run_name="gate", cache_policy=NO_CACHE)
def gate(recipe: GateRecipe, evaluations: dict[str, str], runtime: Runtime) -> str:
    """Compare the stages side by side and keep the better of rejection sampling and PPO."""

    def work(directory: Path) -> dict:
        scores = {stage: judged(name, runtime) for stage, name in evaluations.items() if stage != "base"}
        rates = {
            f"{stage} over {other}": compare(scores[stage], scores[other], scores[stage])
            for stage, other in (("rejection", "sft"), ("ppo", "sft"), ("ppo", "rejection"))
        }
        kept = better(rates["ppo over rejection"], recipe)
        return {"win_rates": rates, "champion": kept, "final over sft": rates[f"{kept} over sft"]}

    name = build(Job("gate", "verdict", recipe, parents=evaluations), runtime, work)
    rates = find(name, runtime).summary["win_rates"]
    table = with_win_rates(score_table(evaluations, runtime), rates)
    create_table_artifact(
        key="scores", table=table, description="Percent by stage; win rates are win + tie / 2"
    )
    return name


def better(ppo_over_rejection: dict[str, float], recipe: GateRecipe) -> Literal["ppo", "rejection"]:
    """Return the preferred of the two; a tie, or a doubt greater than the recipe allows, keeps the older."""
    wins = ppo_over_rejection["value"] > 0.5 and ppo_over_rejection["low"] >= recipe.least_win_rate
    return "ppo" if wins else "rejection"


def judged(evaluation: str, runtime: Runtime) -> dict[str, tuple[str, float]]:
    """Return the kind of every held-out prompt, and the simulated annotator's score of its answer."""
    rows = read_table(find(evaluation, runtime).file("responses.parquet"), RESPONSES)
    return {row["prompt_id"]: (row["kind"], row["score"]) for row in rows if row["suite"] == "side by side"}


def compare(
    mine: dict[str, tuple[str, float]], theirs: dict[str, tuple[str, float]], prompts: Iterable[str]
) -> dict[str, float]:
    """Return the win rate of one model's judged answers over another's, on these prompts."""
    pairs = [(mine[prompt][1], theirs[prompt][1]) for prompt in sorted(prompts)]
    return win_rate(*zip(*pairs, strict=True))


def score_table(evaluations: dict[str, str], runtime: Runtime) -> list[dict[str, str]]:
    """Return one row a stage: each suite's share with its 95% interval, in percent."""
    table = []
    for stage, name in evaluations.items():
        facts = find(name, runtime).summary
        cells = {suite: interval(fact) for suite, fact in facts.items() if isinstance(fact, dict)}
        table.append({"stage": stage, **cells})
    return table


def with_win_rates(scores: list[dict[str, str]], rates: dict[str, dict[str, float]]) -> list[dict[str, str]]:
    """Return the rows with a win rate over each earlier stage; every row has every column."""
    by_stage: dict[str, dict[str, str]] = {}
    for pair, rate in rates.items():
        stage, _, other = pair.partition(" over ")
        by_stage.setdefault(stage, {})[f"win rate over {other}"] = interval(rate)
    rows = [row | by_stage.get(row["stage"], {}) for row in scores]
    columns = dict.fromkeys((name for row in rows for name in row), "–")
    return [columns | row for row in rows]
