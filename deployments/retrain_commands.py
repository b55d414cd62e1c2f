"""The commands of the champion: retrain, champion, rollback. Imports wait, as in `model_commands`."""
# ruff: noqa: PLC0415

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.data_commands import AsJson
from deployments.environment import prepare
from deployments.model_commands import Changes, Home
from deployments.services.flow_runs import running_flows
from llama2_core.errors import ConfigError
from storage.disk import require_free_space

if TYPE_CHECKING:
    from tasks.runtime import Runtime

app = typer.Typer()
console = Console()

ProfileName = Annotated[str, typer.Option("--profile", help="retrain/laptop, or the path of a YAML file.")]
MlflowUri = Annotated[
    str, typer.Option(help="As runtime.mlflow_uri; without one, the database below the home.")
]


@app.command(
    epilog="Examples: llama2 retrain;  llama2 retrain --set recipe.approval=true;  "
    "llama2 retrain --approve 'declines better, nothing lost'"
)
def retrain(
    profile: ProfileName = "retrain/laptop",
    changes: Changes = None,
    approve: Annotated[
        str, typer.Option(metavar="REASON", help="Make the candidate that waits champion.")
    ] = "",
    reject: Annotated[str, typer.Option(metavar="REASON", help="Refuse the candidate that waits.")] = "",
) -> None:
    """Make the champion anew from comparisons and documents that came since; keep it where it is better."""
    if approve and reject:
        raise ConfigError("--approve and --reject exclude each other")
    from deployments.profiles import RetrainProfile, load_profile

    chosen = load_profile(profile, changes or [], RetrainProfile)
    require_free_space(chosen.runtime.home, chosen.runtime.least_free_bytes)
    with running_flows(chosen.runtime.home):
        from flows.retrain import retrain as flow
        from tasks.people import Approval
        from tasks.retrain import answer

        said = ""
        if approve or reject:
            said = answer(Approval(approve=bool(approve), reason=approve or reject), chosen.runtime)
        said = said or cast(str, flow(chosen.recipe, chosen.runtime))
    console.print(f"\n[bold green]Done.[/] {escape(said)}", soft_wrap=True)


@app.command(epilog="Examples: llama2 champion;  llama2 champion --json")
def champion(home: Home = Path("var"), mlflow_uri: MlflowUri = "", as_json: AsJson = False) -> None:
    """Show the champion, its candidate and the previous one: version, model, and why."""
    from tasks.registry import NAME, versions
    from tasks.retrain import WHY

    found = versions(_runtime(home, mlflow_uri))
    if as_json:
        print(json.dumps({alias: version.model_dump() for alias, version in found.items()}, indent=2))
        return
    if not found:
        raise ConfigError(f"no version of {NAME} is registered: `llama2 register` or `llama2 retrain` does")
    table = Table("alias", "version", "model", "decision")
    for alias, version in found.items():
        table.add_row(alias, version.number, version.source, version.tags.get(WHY, "–"))
    console.print(table)


@app.command(epilog="Examples: llama2 rollback;  llama2 rollback --home /data/llama2")
def rollback(home: Home = Path("var"), mlflow_uri: MlflowUri = "") -> None:
    """Make the previous version the champion again; done twice, it is undone."""
    from tasks.registry import roll_back

    was, now = roll_back(_runtime(home, mlflow_uri))
    print(f"Version {now.number} ({now.source}) is the champion again; version {was.number} the previous.")


def _runtime(home: Path, mlflow_uri: str) -> "Runtime":
    prepare(home)
    from tasks.runtime import Runtime

    return Runtime(home=home, mlflow_uri=mlflow_uri)
