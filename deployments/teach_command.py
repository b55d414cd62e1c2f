"""The command that teaches a model what Llama 2 section 3.3 describes: to go on obeying, and what date it is."""
# ruff: noqa: PLC0415

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from deployments.environment import prepare
from deployments.model_commands import Changes, Home
from storage.artifacts import Store

app = typer.Typer()
console = Console()


@app.command(
    epilog="Examples: llama2 teach ghost-attention;  llama2 teach dates;  "
    "llama2 teach ghost-attention my-chat-model/ chats.jsonl --profile teach/paper"
)
def teach(
    what: Annotated[Literal["ghost-attention", "dates"], typer.Argument(help="See docs/ghost_attention.md.")],
    model: Annotated[str, typer.Argument(help="A model directory or GGUF file, or an artifact.")] = "base",
    dialogs: Annotated[str, typer.Argument(help="Ordinary dialogs, .jsonl or an artifact.")] = "dialogs",
    profile: Annotated[str, typer.Option(help="teach/laptop, teach/paper, or a YAML file.")] = "teach/laptop",
    changes: Changes = None,
    home: Home = Path("var"),
) -> None:
    """Teach a model to keep to its first instruction, or to a stated date; measure it before and after."""
    prepare(home)
    from deployments.profiles import TeachProfile, load_profile, with_home
    from deployments.services.flow_runs import running_flows

    chosen = load_profile(profile, with_home(changes, home), TeachProfile)
    store = Store(home / "artifacts")
    for name in (model, dialogs):  # what is missing is told now, not when everything has started
        if not Path(name).exists():
            store.resolve(name)
    with running_flows(home):
        from flows.ghost_attention import ghost_attention, temporal

        of = (model, dialogs)
        if what == "ghost-attention":
            made = ghost_attention(*of, chosen.ghost_attention, chosen.seed, chosen.runtime)
        else:
            made = temporal(*of, chosen.temporal, chosen.seed, chosen.runtime)
    report = store.resolve(made.pop("report"))
    console.print(report.file("report.md").read_text(), highlight=False, markup=False)
    for label, name in made.items():
        console.print(f"  {label:8} llama2 chat {name[:17]} --home {home}")
    console.print(f"[bold green]Done.[/] {report.path}")
