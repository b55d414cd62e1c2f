"""The commands about comparisons: import, export, freeze, status. Imports wait, as in `model_commands`."""
# ruff: noqa: PLC0415

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from deployments import data_tables
from deployments.data_commands import AsJson
from deployments.model_commands import Home
from deployments.services.flow_runs import running_flows
from storage.artifacts import Store
from storage.preference_events import BatchFrozen, Comparison, Domain, Lengths
from storage.preference_formats import Format

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(help="Comparisons of people: bring in, freeze, take out.", no_args_is_help=True)
console = Console()

Shape = Annotated[Format | None, typer.Option("--format", help="Found out from the first row when left out.")]
Batch = Annotated[str, typer.Argument(help="Name of a batch; `status` lists them.")]


@app.command(
    "import",
    epilog="Examples: llama2 preferences import harmless.jsonl.gz --domain safety;  "
    "llama2 preferences import pairs.json --format sharegpt --batch pairs --skip-bad",
)
def import_(
    file: Annotated[Path, typer.Argument(help=".jsonl or .json, also .gz.")],
    form: Shape = None,
    batch: Annotated[str, typer.Option(help="Name for them; the file's when left out.")] = "",
    domain: Annotated[
        Domain, typer.Option(help="Which reward model's; a llama2 file says its own.")
    ] = "helpfulness",
    tokenizer: Annotated[
        Path | None, typer.Option(help="SentencePiece model to count lengths with; words without one.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Import the good lines of a file with bad ones.")
    ] = False,
    home: Home = Path("var"),
) -> None:
    """Check every line of a file, then add all of its comparisons; exit status 1 when a line is bad."""
    from storage.preference_imports import import_file
    from storage.preferences import preferences_folder

    folder = preferences_folder(Store(home / "artifacts"))
    name = batch or "-".join(file.name.split(".")[0].split())
    done = import_file(folder, file, name, domain, form, skip_bad, _measure(tokenizer))
    for bad in done.bad:
        console.print(f"left out: {bad}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    said = (
        "were there already"
        if done.already_there
        else f"imported as batch {name}, {len(done.bad):,} lines left out"
    )
    console.print(f"{done.comparisons:,} comparisons ({done.format}) {said}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: llama2 preferences export mine.jsonl --format ultrafeedback --batch week-1")
def export(
    file: Annotated[Path, typer.Argument(help="A path ending in .jsonl.")],
    form: Annotated[Format, typer.Option("--format")] = "llama2",
    batches: Annotated[
        list[str] | None, typer.Option("--batch", help="Repeatable; all when left out.")
    ] = None,
    home: Home = Path("var"),
) -> None:
    """Write comparisons of the log and of imports in a format that others read."""
    from storage.preference_imports import export as write
    from storage.preferences import preferences_folder

    count = write(preferences_folder(Store(home / "artifacts")), file, form, tuple(batches or ()))
    console.print(f"{count:,} comparisons in {file}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: llama2 preferences freeze week-1 --tokenizer tokenizer")
def freeze(
    batch: Batch,
    held_out_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of prompts, to test reward models.")
    ] = 0.15,
    most_held_out: Annotated[int, typer.Option(min=0, help="Comparisons held out at most.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the draw of prompts; the same in all batches.")] = 0,
    tokenizer: Annotated[
        str, typer.Option(help="Artifact to count lengths with; as annotated without one.")
    ] = "",
    home: Home = Path("var"),
) -> None:
    """Close a batch for good and make it an artifact; of a closed one, the artifact."""
    from deployments.services.annotation.orders import go_on, tell_frozen
    from storage.preference_log import PreferenceLog
    from storage.preference_orders import orders
    from storage.preferences import preferences_folder, query

    store = Store(home / "artifacts")
    known = {row[0]: row[1] for row in query(store, _STATES)[1]}
    if batch not in known:
        names = ", ".join(sorted(known)) or "none yet"
        raise typer.BadParameter(f"there is no batch {batch!r}; there are: {names}")
    if known[batch] is None:
        with PreferenceLog(preferences_folder(store)) as log:
            now = datetime.now(UTC)
            log.append(
                BatchFrozen(
                    id=batch, time=now, held_out_share=held_out_share, most_held_out=most_held_out, seed=seed
                )
            )
    with running_flows(home):
        from flows.preferences import freeze as flow
        from tasks.runtime import Runtime

        name = flow(batch, Runtime(home=home), tokenizer)
        if known[batch] is None:
            order = next((found for found in orders(preferences_folder(store)) if found.batch == batch), None)
            go_on(order, print) if order else tell_frozen(batch, awaited=False)
    facts = store.resolve(name).summary
    console.print(
        f"\n{facts['comparisons']:,} comparisons of {facts['annotations']:,} annotations, {facts['held_out']:,} held "
        f"out; left out: {facts['ties']:,} ties, {facts['excluded']:,} chosen unsafe but the other safe\n"
        f"{home / 'artifacts' / name}",
        highlight=False,
        soft_wrap=True,
    )


@app.command(epilog="Examples: llama2 preferences status;  llama2 preferences status --json")
def status(home: Home = Path("var"), as_json: AsJson = False) -> None:
    """Show how far each batch is."""
    from storage.preference_batches import status as batches
    from storage.preferences import connect

    with connect(Store(home / "artifacts")) as db:
        found: list[dict[str, Any]] = batches(db)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        data_tables.show([data_tables.table("Batches", found)])


_STATES = "SELECT DISTINCT batch, frozen_at FROM annotations FULL JOIN batches USING (batch)"


def _measure(tokenizer: Path | None) -> "Callable[[Comparison], Lengths]":
    from storage.preference_events import in_words, measure

    if tokenizer is None:
        return in_words
    from llama2_core.tokenizer import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    unit = f"tokens of {loaded.digest[:12]}"
    return lambda comparison: measure(comparison, unit, lambda text: len(loaded.encode(text)))
