"""The `llama2` command: a thin face over flows, store and services."""

import json
import os
import shlex
import shutil
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments import (
    annotation_commands,
    arena_commands,
    artifact_commands,
    benchmark_commands,
    cluster_commands,
    data_commands,
    model_commands,
    plan_command,
    preference_commands,
    retrain_commands,
    safety_commands,
    stack_commands,
    teach_command,
    training_commands,
)
from deployments.artifact_commands import RemoteStore
from deployments.data_commands import AsJson
from deployments.doctor import checks
from deployments.environment import prepare
from deployments.model_commands import Home
from deployments.services.flow_runs import running_flows
from llama2_core.errors import Llama2Error
from storage.artifacts import Store
from storage.disk import require_free_space
from storage.errors import StorageError

app = typer.Typer(
    help="The Llama 2 recipe, from raw text to an aligned chat model: run it, look at it, talk to it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(training_commands.app)
app.add_typer(model_commands.app)
app.add_typer(teach_command.app)
app.add_typer(benchmark_commands.app)
app.add_typer(arena_commands.app)
app.add_typer(plan_command.app)
app.add_typer(cluster_commands.app)
app.add_typer(retrain_commands.app)
app.add_typer(stack_commands.app)
app.add_typer(annotation_commands.app)
app.add_typer(artifact_commands.app)
app.add_typer(data_commands.app, name="data")
app.add_typer(preference_commands.app, name="preferences")
app.add_typer(safety_commands.app, name="safety")
console = Console()


@app.command(epilog="Examples: llama2 run;  llama2 run --profile ci --set recipe.seed=1")
def run(
    profile: Annotated[str, typer.Option(help="laptop, ci, or the path of a YAML file.")] = "laptop",
    changes: Annotated[list[str] | None, typer.Option("--set", help="path=value; repeatable.")] = None,
) -> None:
    """Run the whole recipe, from documents to an aligned chat model and its report."""
    from deployments.profiles import load_profile  # noqa: PLC0415  (doctor starts without the engines of recipes)

    chosen = load_profile(profile, changes or [])
    home = chosen.runtime.home
    require_free_space(home, chosen.runtime.least_free_bytes)
    with running_flows(home):
        from flows.llama2 import llama2  # noqa: PLC0415  (prefect reads its settings at import)

        page = Path(llama2(chosen.recipe, chosen.runtime))
    command = "llama2" if shutil.which("llama2") else sys.argv[0]  # what can be typed, venv active or not
    at = "" if home == Path("var") else f" --home {shlex.quote(str(home))}"
    serve = f"{command} up{at}" if at else "make serve"
    console.print(
        f"\n[bold green]Done.[/] The report: [bold]{page}[/]\n"
        f"  chat        {command} chat{at}\n"
        f"  preferences {command} sql{at} 'select grade, count(*) from comparisons group by all'\n"
        f"  MLflow and Prefect   {serve}, then http://127.0.0.1:5000 and http://127.0.0.1:4200"
    )
    if console.is_terminal and (
        sys.platform == "darwin" or os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}
    ):
        webbrowser.open(page.absolute().as_uri())


@app.command(epilog="Examples: llama2 rlhf;  llama2 rlhf --set recipe.rounds=2 --set recipe.carry_over=all")
def rlhf(
    profile: Annotated[str, typer.Option(help="rlhf/laptop, or the path of a YAML file.")] = "rlhf/laptop",
    changes: Annotated[list[str] | None, typer.Option("--set", help="path=value; repeatable.")] = None,
) -> None:
    """Go on from the models of `llama2 run`: RLHF in rounds, V1 to V5, and its report."""
    from deployments.profiles import RoundsProfile, load_profile  # noqa: PLC0415

    chosen = load_profile(profile, changes or [], RoundsProfile)
    require_free_space(chosen.runtime.home, chosen.runtime.least_free_bytes)
    with running_flows(chosen.runtime.home):
        from flows.rlhf import rlhf as flow  # noqa: PLC0415

        page = flow(chosen.recipe, chosen.runtime)
    console.print(f"\n[bold green]Done.[/] The report: [bold]{page}[/]")


@app.command(epilog='Example: llama2 sql "select grade, count(*) from comparisons group by all"')
def sql(
    text: Annotated[str, typer.Argument(help="A query, or @NAME for a saved one: @table6, @grades, @drops.")],
    home: Home = Path("var"),
    as_json: AsJson = False,
) -> None:
    """Answer SQL over comparisons, samples, responses, prompts, demonstrations, documents, artifacts."""
    from storage.preferences import named_query, query  # noqa: PLC0415  (duckdb complains at exit when unused)

    statement = named_query(text[1:]) if text.startswith("@") else text
    columns, rows = query(Store(home / "artifacts"), statement)
    if as_json:
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str))
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)


@app.command(epilog="Examples: llama2 report;  llama2 report --json")
def report(home: Home = Path("var"), as_json: AsJson = False) -> None:
    """Say where the report is, or print its facts."""
    page = home / "report" / "report.html"
    if not page.exists():
        raise StorageError(f"{page} does not exist yet: run `llama2 run` first")
    print(page.with_suffix(".json").read_text() if as_json else page.absolute())


@app.command(epilog="Examples: llama2 doctor;  llama2 doctor --home /data/llama2 --remote s3://bucket/llama2")
def doctor(home: Home = Path("var"), remote: RemoteStore = "") -> None:
    """Check versions, pins, disk, ports, a remote store and offline switches; exit status 1 when a run would fail."""
    prepare(home)
    table = Table("check", "found", "verdict")
    found = checks(home, remote)
    for check in found:
        verdict = f"[{'red' if check.vital else 'yellow'}]{escape(check.advice)}[/]"
        table.add_row(check.name, check.found, "[green]ok[/]" if check.ok else verdict)
    console.print(table)
    if not all(check.ok for check in found if check.vital):
        raise typer.Exit(1)


def main() -> None:
    """Run the command; an error that the user can act on is one message and exit status 1."""
    try:
        app()
    except (Llama2Error, StorageError) as error:
        Console(stderr=True).print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
