"""The commands of safety fine-tuning: public prompts, preprompts, context distillation, scaling of the safety data."""
# ruff: noqa: PLC0415

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from deployments.environment import prepare
from deployments.model_commands import Changes, Home
from storage.artifacts import Artifact, Store
from tasks.stage_models import full_name

if TYPE_CHECKING:
    from deployments.profiles import SafetyProfile

app = typer.Typer(help="Safety fine-tuning beside a run's: Llama 2 section 4.2.", no_args_is_help=True)
console = Console()

Base = Annotated[str, typer.Option(help="Base model, an artifact.")]
Dialogs = Annotated[str, typer.Option(help="Demonstrations and held-out prompts, an artifact.")]
Judge = Annotated[str, typer.Option(help="Reward model, an artifact; by default the newest of its domain.")]


@app.command(epilog="Example: llama2 safety prompts toxigen/hate_*_1k.txt --set prompts.format=toxigen")
def prompts(
    files: Annotated[list[Path], typer.Argument(help="Of one public set, see docs/safety.md.")],
    changes: Changes = None,
    home: Home = Path("var"),
) -> None:
    """Read a public set of safety prompts into the store."""
    profile = _profile(home, changes)
    from deployments.services.flow_runs import running_flows

    with running_flows(home):
        from flows.safety import safety_prompts

        made = safety_prompts(files, profile.prompts, profile.seed, profile.runtime)
    console.print(f"[bold green]Done.[/] llama2 safety distil CHAT --prompts {made[:20]} --home {home}")


@app.command(epilog="Example: llama2 safety preprompts")
def preprompts(
    base: Base = "base", dialogs: Dialogs = "dialogs", changes: Changes = None, home: Home = Path("var")
) -> None:
    """Fine-tune a base model so that it follows preprompts: for models too small to read them."""
    profile = _profile(home, changes)
    store = Store(home / "artifacts")
    base, dialogs = (full_name(name, store) for name in (base, dialogs))
    from deployments.services.flow_runs import running_flows

    with running_flows(home):
        from flows.safety import preprompted_sft

        made = preprompted_sft(
            base, dialogs, profile.preprompted, profile.fine_tune, profile.seed, profile.runtime
        )
    console.print(f"[bold green]Done.[/] llama2 safety distil {made[:17]} --home {home}")


@app.command(epilog="Example: llama2 safety distil chat/0f3a --set distillation.prompts=300")
def distil(
    chat: Annotated[str, typer.Argument(help="Chat model, an artifact.")],
    helpfulness: Judge = "helpfulness",
    safety: Judge = "safety",
    prompts: Annotated[str, typer.Option(help="Adversarial prompts, an artifact.")] = "dialogs",
    dialogs: Dialogs = "dialogs",
    changes: Changes = None,
    home: Home = Path("var"),
) -> None:
    """Distil generic and tailored safety preprompts into a chat model, and show what the gate kept."""
    profile = _profile(home, changes)
    store = Store(home / "artifacts")
    judges = [full_name(name, store) for name in (helpfulness, safety)]
    chat, prompts, dialogs = (full_name(name, store) for name in (chat, prompts, dialogs))
    from deployments.services.flow_runs import running_flows

    with running_flows(home):
        from flows.safety import context_distillation

        made = context_distillation(
            chat,
            *judges,
            prompts=prompts,
            dialogs=dialogs,
            recipe=profile.distillation,
            fine_tune=profile.fine_tune,
            evaluation=profile.evaluation,
            seed=profile.seed,
            runtime=profile.runtime,
        )
    _show(store.resolve(made.pop("report")))
    for style, name in made.items():
        console.print(f"  {style:9} llama2 chat {name[:17]} --home {home}")


@app.command(epilog="Example: llama2 safety scaling --set 'scaling.shares=[0, 0.1, 1]'")
def scaling(
    base: Base = "base",
    helpfulness: Judge = "helpfulness",
    safety: Judge = "safety",
    dialogs: Dialogs = "dialogs",
    changes: Changes = None,
    home: Home = Path("var"),
) -> None:
    """Fine-tune a base model on growing shares of the safety data, and show safety and false refusals."""
    profile = _profile(home, changes)
    store = Store(home / "artifacts")
    judges = [full_name(name, store) for name in (helpfulness, safety)]
    base, dialogs = (full_name(name, store) for name in (base, dialogs))
    from deployments.services.flow_runs import running_flows

    with running_flows(home):
        from flows.safety import safety_scaling

        made = safety_scaling(
            base,
            *judges,
            dialogs=dialogs,
            recipe=profile.scaling,
            fine_tune=profile.fine_tune,
            evaluation=profile.evaluation,
            seed=profile.seed,
            runtime=profile.runtime,
        )
    _show(store.resolve(made))


def _profile(home: Path, changes: list[str] | None) -> "SafetyProfile":
    prepare(home)
    from deployments.profiles import SafetyProfile, changed, with_home

    return changed(SafetyProfile, {}, with_home(changes, home), "llama2 safety")


def _show(report: Artifact) -> None:
    rows = json.loads(report.file("table.json").read_text(encoding="utf-8"))
    for row in rows:
        table = Table("", row.pop("answers"), show_header=True)
        for name, value in row.items():
            if value != "–":
                table.add_row(name, value)
        console.print(table)
    console.print(f"[bold green]Done.[/] {report.file('figure.svg')}")
