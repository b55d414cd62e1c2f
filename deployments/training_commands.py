"""The commands that train on one's own text and dialogs: pretrain, finetune. Imports wait, as in `model_commands`."""
# ruff: noqa: PLC0415

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deployments.environment import prepare
from deployments.model_commands import DIALOGS, Changes, Home, Model, model_path
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


@app.command(
    epilog="Examples: llama2 finetune llama-2-7b/ chats.jsonl --set recipe.epochs=3;  "
    "llama2 finetune base chats.jsonl --set 'recipe.lora={rank: 8}' --set recipe.base_bits=nf4"
)
def finetune(
    model: Model,
    dialogs: Annotated[
        Path | None, typer.Argument(help=f"{DIALOGS}; without them the starter's dialogs.")
    ] = None,
    changes: Changes = None,
    home: Home = Path("var"),
) -> None:
    """Fine-tune a model on dialogs, your own or the starter's, all weights or adapters; the result is an artifact."""
    prepare(home)
    from deployments.profiles import FineTuneProfile, changed, with_home
    from llama2_core.interop.convert import read
    from tasks.own import demonstrations

    profile = changed(FineTuneProfile, {}, with_home(changes, home), "llama2 finetune")
    source = model_path(model, home)
    read(source)  # what is wrong with either is told now, not when everything has started
    if dialogs:
        demonstrations(dialogs)
    with running_flows(profile.runtime.home):
        from flows.sft import finetune as finetune_flow

        ours = source.is_relative_to(home / "artifacts")  # then its lineage stays
        name = f"{source.parent.name}/{source.name}" if ours else str(source)
        made = finetune_flow(name, str(dialogs or ""), profile.recipe, profile.seed, profile.runtime)
    console.print(f"[bold green]Done.[/] {made}\n  chat     llama2 chat {made[:17]} --home {home}")
    console.print(f"  take it  llama2 convert {made[:17]} my-model --to huggingface --home {home}")
