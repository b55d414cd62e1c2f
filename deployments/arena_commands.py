"""The commands that set models beside each other: win rates, safety rated by people, diversity."""
# ruff: noqa: PLC0415

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deployments.data_commands import AsJson
from deployments.environment import prepare
from deployments.model_commands import Changes, Home
from storage.artifacts import Store

if TYPE_CHECKING:
    from deployments.profiles import ArenaProfile

app = typer.Typer()
console = Console()

Side = Annotated[
    str, typer.Argument(help="An artifact, a stage, a model's path, or http://host:port/v1#name.")
]
Sides = Annotated[list[str], typer.Argument(metavar="MODEL...", help="As those of `llama2 compare`.")]
Prompts = Annotated[
    str, typer.Option(help="A file, .jsonl or .parquet, or an artifact whose held-out prompts are asked.")
]


@app.command(
    epilog="Examples: llama2 compare ppo sft;  llama2 compare ppo sft --judge http://127.0.0.1:8000/v1#judge;  "
    "llama2 compare ppo sft --judge people --prompts prompts.jsonl"
)
def compare(
    first: Side,
    second: Side,
    judge: Annotated[
        str, typer.Option(help="rewards, people, or http://host:port/v1#model of a server with OpenAI's API.")
    ] = "rewards",
    prompts: Prompts = "dialogs",
    changes: Changes = None,
    home: Home = Path("var"),
    as_json: AsJson = False,
) -> None:
    """Compare two models' answers to the same prompts, each pair in both orders: win, tie, loss with intervals."""
    known = {"kind": judge} if judge in ("rewards", "people") else {"kind": "judge", "server": judge}
    profile = _profile({"compare": {"judge": known}}, home, changes)
    made = {"recipe": profile.compare, "seed": profile.seed, "runtime": profile.runtime}
    _run(home, as_json, lambda flows: flows.arena(first, second, prompts, **made))


@app.command(epilog="Example: llama2 rate ppo sft --prompts adversarial.jsonl")
def rate(
    models: Sides,
    prompts: Prompts = "dialogs",
    changes: Changes = None,
    home: Home = Path("var"),
    as_json: AsJson = False,
) -> None:
    """Have people rate on the annotation page how safe models' answers are, from 5 to 1: violations with intervals."""
    p = _profile({}, home, changes)
    _run(home, as_json, lambda flows: flows.safety_ratings(models, prompts, p.rate, p.seed, p.runtime))


@app.command(epilog="Example: llama2 diversity sft ppo --set diversity.replies.samples=10")
def diversity(
    models: Sides,
    prompts: Prompts = "dialogs",
    changes: Changes = None,
    home: Home = Path("var"),
    as_json: AsJson = False,
) -> None:
    """Measure how alike models' samples are at several temperatures (Self-BLEU), for factual and creative prompts."""
    p = _profile({}, home, changes)
    _run(home, as_json, lambda flows: flows.diversity(models, prompts, p.diversity, p.seed, p.runtime))


def _profile(values: dict[str, Any], home: Path, changes: list[str] | None) -> "ArenaProfile":
    prepare(home)
    from deployments.profiles import ArenaProfile, changed, with_home

    return changed(ArenaProfile, values, with_home(changes, home), "the command")


def _run(home: Path, as_json: bool, call: Callable[[ModuleType], str]) -> None:
    """Call one of the flows of `flows.arena`, and show its report."""
    from deployments.services.flow_runs import running_flows

    with running_flows(home):
        from flows import arena

        made = call(arena)
    _show(made, home, as_json)


def _show(name: str, home: Path, as_json: bool) -> None:
    store = Store(home / "artifacts")
    report = store.resolve(name)
    rows = json.loads(report.file("table.json").read_text(encoding="utf-8"))
    if as_json:
        print(json.dumps({"artifact": name, "rows": rows}, indent=2, ensure_ascii=False))
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    if verdicts := report.manifest.parents.get("verdicts"):
        judged = store.resolve(verdicts)
        for detail, count in judged.summary["details"].items():
            console.print(f"[yellow]{count}: {detail}[/]")
        console.print(f"{judged.path}/verdicts.parquet has every answer and verdict", soft_wrap=True)
    console.print(f"[bold green]Done.[/] {report.file('report.html')}", soft_wrap=True)
