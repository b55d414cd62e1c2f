"""The reward models' report and the gate behind it: whether they are good enough to optimise against."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from llama2_core.config import Record
from llama2_core.errors import ConfigError, Llama2Error
from storage.artifacts import Artifact
from storage.disk import atomic_write
from storage.reward_tables import SCORES, TABLES
from storage.schemas import read_table, write_table
from tasks import reward_report_tables as tables
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.progress import say
from tasks.reward_recipe import DOMAINS, RewardReportRecipe
from tasks.reward_report_page import draw, read_report, render_html, render_markdown
from tasks.runtime import Runtime
from tasks.stage_run import tracker
from tasks.tables import read_comparison_rows

HTML, MARKDOWN = "report.html", "report.md"


class RewardModelsUnfit(Llama2Error):
    """A reward model misses a bar: optimising against it would teach the policy something else."""


class ScoresRecipe(Record):
    """Scores are defined by models and comparisons alone."""


def roles(
    models: Mapping[str, str], earlier: Sequence[Mapping[str, str]], variants: Mapping[str, str]
) -> dict[str, str]:
    """Return role -> model of all that a report compares; `models` has one for each domain. Raises ConfigError."""
    if models.keys() != set(DOMAINS):
        raise ConfigError(f"models has {', '.join(models) or 'none'}; a report is on {' and '.join(DOMAINS)}")
    found = {domain: models[domain] for domain in DOMAINS}
    for round_, of_round in enumerate(earlier, 1):
        found |= {f"{tables.EARLIER}{domain} {round_}": name for domain, name in of_round.items()}
    return found | {f"{tables.VARIANT}{name}": model for name, model in variants.items()}


@task(name="reward scores", task_run_name="scores of {label}", cache_policy=NO_CACHE)
def reward_scores(label: str, models: dict[str, str], comparisons: list[str], runtime: Runtime) -> str:
    """Have every model, by its role, score every held-out comparison."""
    batches = {f"comparisons{i}": name for i, name in enumerate(comparisons, 1)}
    return build(Job(f"scores of {label}", "scores", ScoresRecipe(), parents=models | batches), runtime)


@task(name="reward report", task_run_name="report on {label}", cache_policy=NO_CACHE)
def reward_report(recipe: RewardReportRecipe, label: str, scores: str, runtime: Runtime) -> str:
    """Write the report of scored reward models, its tables and its verdict on them."""
    scored = find(scores, runtime)
    parents = scored.manifest.parents
    comparisons = [
        find(name, runtime).path for role, name in parents.items() if role.startswith("comparisons")
    ]
    models = [
        model_row(role, find(name, runtime))
        for role, name in parents.items()
        if not role.startswith("comparisons")
    ]
    job = Job(f"report on {label}", "reward-report", recipe, parents={"scores": scores})
    name = build(
        job,
        runtime,
        lambda directory: write_report(recipe, label, scored, models, comparisons, directory),
    )
    publish(find(name, runtime), label, runtime)
    return name


def model_row(role: str, model: Artifact) -> dict[str, Any]:
    """Return what the tables say of a model: how it was made."""
    recipe, summary = model.manifest.recipe, model.summary
    kinds = {tables.EARLIER: "earlier", tables.VARIANT: "variant"}
    return {
        "model": role,
        "role": next((kind for start, kind in kinds.items() if role.startswith(start)), "current"),
        "domain": recipe["domain"],
        "artifact": model.full_name,
        "parameters": summary["parameters"],
        "pairs": summary["pairs"],
        "margin": recipe["reward"]["margin"],
        "auxiliary_weight": recipe["reward"]["safety_auxiliary_weight"],
        "adapters": recipe["lora"] is not None,
    }


def write_report(
    recipe: RewardReportRecipe,
    label: str,
    scored: Artifact,
    models: tables.Rows,
    comparisons: list[Path],
    directory: Path,
) -> dict[str, Any]:
    """Write analysis/*.parquet, report.html and report.md; return headline figures and the verdict."""
    scores = tables.read_scores(read_table(scored.file("scores.parquet"), SCORES))
    accuracy, measures = tables.accuracy_rows(scores), tables.measure_rows(scores, recipe)
    texts = {(row["batch"], row["id"]): row for row in read_comparison_rows(comparisons) if row["held_out"]}
    fitness = tables.fitness_rows(accuracy, measures, recipe.fitness)
    found = {
        "reward_models": models,
        "reward_accuracy": accuracy,
        "reward_calibration": tables.calibration_rows(scores, recipe.bins),
        "reward_measures": measures,
        "reward_errors": tables.error_rows(scores, recipe.errors, texts),
        "reward_fitness": fitness,
    }
    analysis = directory / "analysis"
    analysis.mkdir(exist_ok=True)
    for name, rows in found.items():
        write_table(analysis / f"{name}.parquet", rows, TABLES[name])
    report = read_report(label, analysis, recipe)
    atomic_write(directory / HTML, render_html(report, draw(analysis)).encode())
    atomic_write(directory / MARKDOWN, render_markdown(report).encode())
    return {
        "fit": all(row["verdict"] != "failed" for row in fitness),
        "bars": {row["bar"]: {name: row[name] for name in ("value", "low", "high", "n")} for row in fitness},
        "verdicts": {row["bar"]: row["verdict"] for row in fitness},
        "overridden": {row["bar"]: row["reason"] for row in fitness if row["verdict"] == "overridden"},
    }


def publish(report: Artifact, label: str, runtime: Runtime) -> None:
    """Show the report beside the stage's run in MLflow, tagged with the verdict, and in Prefect."""
    tracking = tracker(runtime)
    if run_id := tracking.newest(report.digest):
        for page in (HTML, MARKDOWN):
            tracking.log_file(run_id, report.file(page))
        tags = {f"llama2.overridden.{bar}": why for bar, why in report.summary["overridden"].items()}
        tracking.set_tags(run_id, {"llama2.fit": str(report.summary["fit"]).lower(), **tags})
    create_markdown_artifact(
        key="reward-report",
        markdown=report.file(MARKDOWN).read_text(encoding="utf-8"),
        description=f"How good {label} are",
    )


@task(name="fitness", task_run_name="fitness", cache_policy=NO_CACHE)
def fitness(report: str, runtime: Runtime) -> None:
    """Let a flow go on only with reward models that reach every bar, or whose bars are overridden.

    Raises RewardModelsUnfit naming bar, value and what to do.
    """
    found = find(report, runtime)
    rows = read_table(found.file("analysis/reward_fitness.parquet"), TABLES["reward_fitness"])
    failed = [row for row in rows if row["verdict"] == "failed"]
    if failed:
        raise RewardModelsUnfit(complaint(failed, found.file(HTML)))
    for row in rows:
        if row["verdict"] == "overridden":
            say(f"[yellow]{missed(row)}; overridden: {row['reason']}[/]")


def missed(row: Mapping[str, Any]) -> str:
    """Return a sentence about a bar that is not reached."""
    if not row["n"]:
        return f"{row['bar']} could not be measured: no held-out comparison tells it"
    found = f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f}, n = {row['n']})"
    if row["rule"] == "least":
        return f"{row['bar']} is {found}; its lower end must reach {row['limit']:g}"
    return f"{row['bar']} is {found}; it must be within {row['limit']:g}"


def complaint(failed: tables.Rows, page: Path) -> str:
    """Return what is wrong with the reward models and what can be done."""
    told = "\n".join(f"  {missed(row)}" for row in failed)
    override = ", ".join(f"{row['bar']}: why" for row in failed)
    return (
        f"the reward models are not fit to be optimised against:\n{told}\nLook at {page}. More comparisons, another "
        "mix (other_share) or more epochs raise accuracy; a smaller margin lowers the calibration error. To go on all "
        f"the same, say why: --set 'recipe.reward_report.fitness.overrides={{{override}}}' (`llama2 run`: "
        "recipe.rlhf.reward_report)"
    )
