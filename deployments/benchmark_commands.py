"""Published benchmarks: their files, and how a model does on them. Imports wait: torch takes seconds."""
# ruff: noqa: PLC0415

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from deployments.data_commands import AsJson
from deployments.environment import prepare
from deployments.model_commands import Home, Model, model_artifact
from llama2_core.errors import ConfigError
from storage.artifacts import Store

if TYPE_CHECKING:
    from tasks.benchmark_recipe import BenchmarkRecipe as Recipe

app = typer.Typer()
files = typer.Typer(help="Benchmarks' own files: bring them into the store, list them.", no_args_is_help=True)
app.add_typer(files, name="benchmarks")
console = Console()


@app.command(
    epilog="Examples: llama2 evaluate ppo --suite starter;  llama2 evaluate llama-2-7b/ --tasks hellaswag,arc_easy "
    "--limit 100;  llama2 evaluate base --suite table3 --available"
)
def evaluate(
    model: Model = "",
    tasks: Annotated[str, typer.Option(help="lm-eval's names, and ours, joined by commas.")] = "",
    suite: Annotated[
        str, typer.Option(help="table3, safety, code, tools, chinese, biomedical or starter.")
    ] = "",
    shots: Annotated[int | None, typer.Option(min=0, help="Examples before a question, for --tasks.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each task.")] = None,
    bos: Annotated[bool, typer.Option(help="Begin prompts with BOS.")] = True,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in the chat template.")] = False,
    judge: Annotated[str, typer.Option(help="http://host:port/v1#model: judges TruthfulQA's answers.")] = "",
    available: Annotated[bool, typer.Option("--available", help="Leave out tasks without data.")] = False,
    contamination: Annotated[
        bool, typer.Option(help="Search the training tokens for the benchmarks.")
    ] = True,
    slots: Annotated[int, typer.Option(min=1, help="Answers written at once.")] = 128,
    home: Home = Path("var"),
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on benchmarks by lm-evaluation-harness; the same again goes on where it was stopped."""
    prepare(home)
    from deployments.services.flow_runs import running_flows
    from tasks.benchmark_recipe import (
        BenchmarkRecipe,
        ContaminationRecipe,
        TaskRecipe,
        suite_recipe,
        suites,
    )

    settings = {"limit": limit, "bos": bos, "chat": chat, "judge": judge}
    if bool(tasks) == bool(suite):
        raise ConfigError("give either --tasks or --suite")
    if suite and suite not in suites():
        raise ConfigError(f"there is no suite {suite!r}; the suites are {', '.join(suites())}")
    if suite and shots is not None:
        raise ConfigError("--shots goes with --tasks; a suite has the paper's")
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    recipe = (
        suite_recipe(suite, **settings)
        if suite
        else BenchmarkRecipe(tasks=tuple(TaskRecipe(name=name, shots=shots) for name in names), **settings)
    )
    source, label = _source(model, home)
    with running_flows(home):
        from flows.evaluate import benchmarks
        from tasks.benchmark_task import missing_data, tables
        from tasks.runtime import Runtime

        runtime = Runtime(home=home, slots=slots)
        if available:
            recipe = _without(recipe, missing_data(recipe, runtime))
        search = ContaminationRecipe() if contamination else None
        name = benchmarks(source, recipe, label, runtime=runtime, search=search)
        rows = tables(name, runtime)
    artifact = Store(home / "artifacts").resolve(name)
    if as_json:
        print(
            json.dumps({"artifact": name, "rows": rows, "requests": artifact.summary["requests"]}, indent=2)
        )
        return
    _show(rows)
    asked = artifact.summary["requests"]
    console.print(
        f"{asked['requests']} requests, {asked['answered_before']} of them answered by an earlier try"
    )
    for what, told in (
        ("unjudged", "answers were not judged as the judge is asked to: they do not count"),
        ("truncated", "prompts lost their beginning: the model's context is shorter"),
        (
            "answers_shortened",
            "answers were given less room than their task asks for: half of the model's context",
        ),
    ):
        if asked.get(what):
            console.print(f"[yellow]{asked[what]} {told}[/]")
    console.print(f"[bold green]Done.[/] {artifact.path}/samples.parquet has every answer", soft_wrap=True)


@app.command(epilog="Examples: llama2 card ppo;  llama2 card base sft ppo;  llama2 card llama-2-7b/")
def card(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Artifacts or paths.")
    ] = None,
    home: Home = Path("var"),
) -> None:
    """Write one page on a model, or several side by side: scores beside Llama 2's, data, costs, lineage, limits."""
    prepare(home)
    from deployments.services.flow_runs import running_flows

    store = Store(home / "artifacts")
    names = models or [model_artifact("", store).name]
    for name in names:
        if not Path(name).exists():
            model_artifact(name, store)  # a name that is none is told before anything starts
    with running_flows(home):
        from flows.evaluate import report_card
        from tasks.runtime import Runtime

        made = report_card(names, Runtime(home=home))
    print(store.resolve(made).file("card.html").absolute())


@files.command(
    epilog="Examples: llama2 benchmarks add test.jsonl --as gsm8k;  llama2 benchmarks add downloads/"
)
def add(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE|FOLDER...")],
    dataset: Annotated[
        str, typer.Option("--as", help="The data set, where its files could be another's.")
    ] = "",
    partial: Annotated[bool, typer.Option("--partial", help="Take a part of the rows.")] = False,
    home: Home = Path("var"),
) -> None:
    """Check benchmarks' files, as their makers publish them, and bring them into the store."""
    from tasks.benchmark_data import add as add_files

    for artifact in add_files(paths, Store(home / "artifacts"), dataset, partial):
        rows = sum(artifact.summary["rows"].values())
        console.print(f"{artifact.summary['dataset']}: {rows} rows  [dim]{artifact.name}[/]")
        for amiss in artifact.summary["part_only"]:
            console.print(f"  [yellow]{amiss}[/]")


@files.command("list", epilog="Example: llama2 benchmarks list")
def list_(home: Home = Path("var"), as_json: AsJson = False) -> None:
    """List the data sets: whether they are in the store, and which files they come as."""
    from tasks.benchmark_data import datasets, newest

    there = newest(Store(home / "artifacts"))
    if as_json:
        print(
            json.dumps({name: artifact.manifest.model_dump() for name, artifact in there.items()}, indent=2)
        )
        return
    table = Table("data set", "rows", "files", "SHA-256 of the first")
    for name, dataset in datasets().items():
        kept = there.get(name)
        rows = str(sum(kept.summary["rows"].values())) if kept else "–"
        first = next(iter(kept.manifest.recipe["files"].values()))[:12] if kept else ""
        table.add_row(name, rows, ", ".join(dataset.files), first)
    console.print(table)


def _source(model: str, home: Path) -> tuple[str, str]:
    """Return what the flow takes, a path or an artifact's full name, and what to call it."""
    if model and Path(model).exists():
        return model, Path(model).name
    artifact = model_artifact(model, Store(home / "artifacts"))
    return artifact.full_name, model or artifact.kind


def _show(rows: list[dict[str, str]]) -> None:
    from tasks.suite_tables import compact

    shown = compact([{name: cell for name, cell in row.items() if name != "asked"} for row in rows])
    table = Table(*shown[0])
    for row in shown:
        table.add_row(*row.values(), end_section=row["task"] == "mean")
    console.print(table)


def _without(recipe: "Recipe", missing: dict[str, set[str]]) -> "Recipe":
    for name, lacking in missing.items():
        console.print(f"[yellow]{name} is left out: {', '.join(sorted(lacking))} not in the store[/]")
    kept = [task for task in recipe.tasks if task.name not in missing]
    return type(recipe).model_validate({**recipe.model_dump(), "tasks": kept})
