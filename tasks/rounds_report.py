"""What rounds of RLHF were worth: win rates by version, what each round was made of, and what it forgot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from llama2_core.config import Record
from llama2_core.evaluation.statistics import proportion
from storage.disk import atomic_write
from storage.reward_tables import SCORES
from storage.schemas import read_table
from tasks.evaluate import judged, score_table
from tasks.launch import find
from tasks.pipeline import command, verb_of
from tasks.rendering import markdown_table, render_template
from tasks.report_figures import Figure, curve_figure
from tasks.report_tables import Table, interval
from tasks.rounds import by_domain
from tasks.rounds_recipe import RetrainRecipe, Round, RoundsRecipe
from tasks.runtime import Runtime

Rate = dict[str, float]


class RoundsFacts(Record):
    """Everything on the page."""

    seed: int
    command: str
    """That makes it again."""
    rates: dict[str, dict[str, Rate]]
    """Version -> helpful and harmless win rate over the chat model of the beginning."""
    scores: Table
    """Version -> each suite."""
    rounds: Table
    """What each was made of, and what its gate said."""
    kinds: Table
    """Accuracy of the reward models by kind of prompt, on the round's own comparisons."""
    points: dict[str, dict[str, float]]
    """Version -> kind of prompt -> mean points of the annotator."""
    forgotten: dict[str, float]
    """Kind of prompt -> what the last version has less than the best before it."""
    findings: list[dict[str, Any]]
    """Bounds that PPO broke."""
    champion: str
    over: str
    """What the win rates are over: the version that all are measured against."""
    news: Table
    """What came since the champion, where a round was made for that."""
    decision: str
    """What became of the candidate, once that is known."""


@task(name="rounds report", task_run_name="rounds report", cache_policy=NO_CACHE)
def rounds_report(
    recipe: RoundsRecipe | RetrainRecipe,
    standard: str,
    rounds: Sequence[Round],
    runtime: Runtime,
    news: Sequence[dict[str, str]] = (),
    decision: str = "",
) -> tuple[str, dict[str, str]]:
    """Write the page, its figures and its facts as JSON; return the page's path, and stage -> artifact."""
    facts = gather(recipe, standard, rounds, news, decision, runtime)
    figures = draw(facts)
    folder = runtime.home / "report"
    folder.mkdir(parents=True, exist_ok=True)
    page: Path = folder / f"{verb_of(recipe)}.html"
    atomic_write(page.with_suffix(".json"), facts.model_dump_json(indent=2).encode())
    for figure in figures:
        atomic_write(folder / f"{figure.name}.svg", figure.svg.encode())
    atomic_write(
        page, render_template("rounds.html", f=facts, figures=figures, rates=rate_table(facts)).encode()
    )
    told = [["version", "helpful", "harmless"], *([*row.values()] for row in rate_table(facts))]
    create_markdown_artifact(
        key=f"{verb_of(recipe)}-rounds",
        description=f"Win rates over {facts.over}, version by version",
        markdown=f"## {facts.decision or f'The champion is {facts.champion}'}\n\n{markdown_table(told)}\n",
    )
    stages = {
        f"{what} {made.number}": getattr(made, what)
        for made in rounds
        for what in ("comparisons", "helpfulness", "safety", "reward_report", "samples", "verdict")
    }
    found = versions(standard, rounds, facts.over)
    stages |= {f"evaluation of {version}": name for version, name in found.items()}
    return str(page), stages


def versions(standard: str, rounds: Sequence[Round], over: str) -> dict[str, str]:
    """Return version -> its evaluation, in the order in which they were made."""
    found = {over: standard}
    for made in rounds:
        found |= {version_of(made, stage): name for stage, name in made.evaluations.items()}
    return found


def version_of(made: Round, stage: str) -> str:
    return f"V{made.number}" if stage == "rejection" else f"V{made.number} {stage}"


def gather(
    recipe: RoundsRecipe | RetrainRecipe,
    standard: str,
    rounds: Sequence[Round],
    news: Sequence[dict[str, str]],
    decision: str,
    runtime: Runtime,
) -> RoundsFacts:
    """Read the facts of finished rounds."""
    over = "sft" if isinstance(recipe, RoundsRecipe) else "champion"
    evaluations = versions(standard, rounds, over)
    points = {version: points_by_kind(judged(name, runtime)) for version, name in evaluations.items()}
    last = rounds[-1]
    at_end = version_of(last, "ppo" if "ppo" in last.models else "rejection")
    champion = next(version for version, name in evaluations.items() if name == last.standing)
    return RoundsFacts(
        seed=recipe.seed,
        command=command(recipe, runtime),
        rates={v: by_domain(name, standard, runtime) for v, name in evaluations.items() if v != over},
        scores=score_table(evaluations, runtime),
        rounds=[round_row(made, runtime) for made in rounds],
        kinds=[{"round": f"V{made.number}", **accuracy_by_kind(made, runtime)} for made in rounds],
        points=points,
        forgotten=forgotten(points, at_end),
        findings=[
            finding
            for made in rounds
            if "ppo" in made.models
            for finding in find(made.models["ppo"], runtime).summary["findings"]
        ],
        champion=champion,
        over=over,
        news=list(news),
        decision=decision,
    )


def points_by_kind(answers: dict[str, tuple[str, float]]) -> dict[str, float]:
    """Return the mean points of each kind of prompt."""
    by_kind: dict[str, list[float]] = {}
    for kind, score in answers.values():
        by_kind.setdefault(kind, []).append(score)
    return {kind: sum(scores) / len(scores) for kind, scores in sorted(by_kind.items())}


def forgotten(points: dict[str, dict[str, float]], last: str) -> dict[str, float]:
    """Return for each kind of prompt how far the last version is below the best one; at the best, 0.

    Llama 2 section 3.2.3 saw it in V3, which no longer rhymed.
    """
    return {kind: max(of[kind] for of in points.values()) - value for kind, value in points[last].items()}


def accuracy_by_kind(made: Round, runtime: Runtime) -> dict[str, str]:
    """Return how often the reward model in charge ranks held-out comparisons of the round right, by kind of prompt."""
    scores = find(find(made.reward_report, runtime).manifest.parents["scores"], runtime)
    batch = find(made.comparisons, runtime).manifest.recipe["batch"]
    hits: dict[str, list[bool]] = {}
    for row in read_table(scores.file("scores.parquet"), SCORES):
        if row["model"] == row["set"] and row["batch"] == batch:
            hits.setdefault(row["kind"], []).append(row["chosen_score"] > row["rejected_score"])
    return {
        kind: f"{interval(proportion(sum(found), len(found)).as_dict())}, n = {len(found)}"
        for kind, found in sorted(hits.items())
    }


def round_row(made: Round, runtime: Runtime) -> dict[str, str]:
    """Return what a round was made of, and what became of its candidates."""
    compared = find(made.comparisons, runtime).summary
    samples = find(made.samples, runtime)
    verdict = find(made.verdict, runtime).summary
    told = [
        f"{stage}: {'; '.join(held['refused']) or 'accepted'} ({interval(held['win_rate'])} over {held['over']})"
        for stage, held in verdict["candidates"].items()
    ]
    return {
        "round": f"V{made.number}",
        "comparisons": f"{compared['comparisons']:,}",
        "newest chosen": f"{100 * compared['newest_chosen']:.0f}%" if "newest_chosen" in compared else "–",
        "temperature": ", ".join(f"{t:g}" for t in samples.manifest.recipe["temperatures"]),
        "reward of a sample": f"{samples.summary['mean_reward']:.3f}",
        "of the best of K": f"{samples.summary['selected_reward']:.3f}",
        "the gate": ". ".join(told),
    }


def rate_table(facts: RoundsFacts) -> Table:
    """Return one row a version: helpful and harmless win rates with their intervals."""
    return [
        {"version": version, **{domain: interval(rate) for domain, rate in rates.items()}}
        for version, rates in facts.rates.items()
    ]


def draw(facts: RoundsFacts) -> list[Figure]:
    """Return the page's charts."""
    rates = [of for version, of in facts.rates.items() if not version.endswith("dpo")]
    path = [(100 * of["harmless"]["value"], 100 * of["helpful"]["value"]) for of in rates]
    curves = {
        domain: [(place, 100 * of[domain]["value"]) for place, of in enumerate(rates, 1)]
        for domain in ("helpful", "harmless")
    }
    kinds = {
        kind: [(place, of[kind]) for place, of in enumerate(list(facts.points.values())[: len(rates) + 1])]
        for kind in next(iter(facts.points.values()))
    }
    return [
        Figure(
            "rlhf-path",
            "Helpful against harmless, version by version (Llama 2 Figure 11)",
            curve_figure(
                {"versions": [(50.0, 50.0), *path]}, f"harmless, win rate over {facts.over}", "helpful"
            ),
        ),
        Figure(
            "rlhf-rates",
            f"Win rate over {facts.over}",
            curve_figure(curves, "version, in order", "win + tie / 2, percent"),
        ),
        Figure(
            "rlhf-kinds",
            "Points by kind of prompt",
            curve_figure(kinds, f"version, 0 is {facts.over}", "mean points"),
        ),
    ]
