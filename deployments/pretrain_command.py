"""The command that makes a base model of one's own text. Imports wait, as in `model_commands`."""
# ruff: noqa: PLC0415

from typing import Annotated

import typer
from rich.console import Console

from deployments.model_commands import Changes
from deployments.services.flow_runs import running_flows
from storage.disk import require_free_space

app = typer.Typer()
console = Console()


@app.command(epilog="Example: llama2 pretrain --profile mine.yaml --set recipe.pretrain.loop.steps=1000")
def pretrain(
    profile: Annotated[str, typer.Option(help="laptop, ci, or the path of a YAML file.")] = "laptop",
    changes: Changes = None,
) -> None:
    """Run the recipe as far as its base model: what `llama2 data build` makes, and pretraining."""
    from deployments.profiles import load_profile

    chosen = load_profile(profile, changes or [])
    recipe, runtime = chosen.recipe, chosen.runtime
    require_free_space(runtime.home, runtime.least_free_bytes)
    with running_flows(runtime.home):
        from flows.data import data
        from flows.pretrain import pretrain as pretrain_flow

        made = data(recipe, runtime)
        base = pretrain_flow(recipe.pretrain, made["tokens"], made["tokenizer"], recipe.seed, runtime)
    console.print(
        f"[bold green]Done.[/] {base}\n  try it   llama2 complete {base[:17]} 'The' --home {runtime.home}"
    )
    console.print(f"  a chat   llama2 finetune {base[:17]} chats.jsonl --home {runtime.home}")
